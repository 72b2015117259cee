"""Untrusted text as Markdown that shows it and does nothing.

Questions, thoughts and answers are written by strangers (people, models, images that models read). In a Markdown cell
they must not become HTML, scripts, links, remote images, headings, mathematics (MathJax has `\\href`) or template
expressions, in JupyterLab, VS Code, GitHub and nbconvert alike.
"""

from __future__ import annotations

import re

from kernel_agent.trajectory.codec import text

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "@": "&#64;", "{": "&#123;", "}": "&#125;"}
_INLINE = re.compile(r"[&<>`@{}]|[*_\[\]|~#]|://|\bwww\.|[$\\]+", re.IGNORECASE)
_LINE_START = re.compile(r"^(?P<space>[ \t]*)(?:(?P<bullet>[-+=:])|(?P<number>\d{1,9})(?P<dot>[.)]))?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]|[\u202a-\u202e\u2066-\u2069]")
_BREAKS = re.compile(r"\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def inline(value: str) -> str:
    """One line of Markdown; line breaks become spaces."""
    return _line(" ".join(_clean(value).split()))


def paragraphs(value: str) -> str:
    """Markdown that keeps the lines of `value`."""
    out: list[str] = []
    for line in _clean(value).strip("\n").split("\n"):
        out.append(_line(line) if line.strip() else "")
    joined = "\n".join(
        line + ("  " if line and number + 1 < len(out) and out[number + 1] else "") for number, line in enumerate(out)
    )
    return re.sub(r"\n{3,}", "\n\n", joined)


def fenced(value: str, language: str = "text") -> str:
    """A fenced code block whose fence is longer than any run of backticks inside."""
    value = _clean(value).rstrip("\n")
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value}\n{fence}"


def _clean(value: str) -> str:
    return _CONTROL.sub("\ufffd", _BREAKS.sub("\n", text(value)))


def _line(line: str) -> str:
    start = _LINE_START.match(line)
    assert start is not None  # it matches the empty string
    space = "&nbsp;" * min(len(start["space"].expandtabs(4)), 40)
    bullet = f"\\{start['bullet']}" if start["bullet"] else ""
    number = f"{start['number']}\\{start['dot']}" if start["number"] else ""
    return space + bullet + number + _INLINE.sub(_escape, line[start.end() :].rstrip())


def _escape(match: re.Match[str]) -> str:
    found = match[0]
    if found in _ENTITIES:
        return _ENTITIES[found]
    if found == "://":
        return "&#58;//"  # no automatic link
    if found.lower() == "www.":
        return found[:3] + "&#46;"
    if found[0] in "$\\":
        return f"`{found}`"  # MathJax reads the rendered page and skips code only
    return "\\" + found
