"""Named rules for text that may differ between two honest runs of the same code.

Guarantees: a rule is applied to both texts alike, only its own matches are replaced, and the names of the rules that made a
difference are part of the verdict: text that agrees only after them is "normalised", never "identical". Rules for times are used
only where the code asks for the time, so that a number that merely looks like one is never waved through.
Linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sanitiser:
    """A rule. `source` is the source of nondeterminism (see sources.py) that the code must use for it; "" for none."""

    name: str
    pattern: re.Pattern[str]
    put: str | Callable[[re.Match[str]], str]
    source: str = ""


_UNITS = r"(?:ns|µs|μs|us|ms|s|sec|secs|second|seconds|min|mins|minutes|h|hours)"
_NUMBER = r"\d+(?:[.,]\d+)*(?:[eE][-+]?\d{1,3})?"

SANITISERS = (
    Sanitiser(name="memory address", pattern=re.compile(r"\bat 0x[0-9A-Fa-f]{4,16}\b"), put="at 0x…"),
    Sanitiser(
        name="kernel folder",  # `/kernel/work` within namespaces, a folder of the kernel's own elsewhere
        pattern=re.compile(r"/kernel/work\b|(?:/[\w.+-]{1,64}){0,8}/cv-\w{8}/own/work\b"),
        put="<work>",
    ),
    Sanitiser(name="kernel process", pattern=re.compile(r"\bipykernel_\d{1,10}\b"), put="ipykernel_<pid>"),
    Sanitiser(
        name="temporary path",
        pattern=re.compile(r"(?:/[\w.+-]{1,64}){1,8}/(?:tmp|cv-)[\w]{8}\b"),
        put="<temporary>",
    ),
    Sanitiser(
        name="library location",
        pattern=re.compile(
            r"(?:/[\w.+ -]{1,64}){0,16}/(?P<where>site-packages|dist-packages|lib/python3\.\d{1,2})(?P<file>(?:/[\w.+-]{1,100}){1,16})(?::\d{1,7})?"
        ),
        put=lambda match: f"<{'lib' if match['where'].startswith('lib') else 'site'}>{match['file']}",
    ),
    Sanitiser(
        name="duration",
        pattern=re.compile(
            rf"\b{_NUMBER} ?{_UNITS}\b|\b\d{{1,3}}:\d{{2}}(?::\d{{2}})?(?:\.\d{{1,9}})?\b|{_NUMBER} ?(?:it|B|kB|MB)/s"
        ),
        put="<duration>",
        source="time",
    ),
    Sanitiser(
        name="clock time",
        pattern=re.compile(
            r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?|\b1[5-9]\d{8}(?:\.\d{1,9})?\b"
        ),
        put="<time>",
        source="time",
    ),
)


def normalise(first: str, second: str, used: frozenset[str]) -> tuple[str, str, tuple[str, ...]]:
    """Both texts after the rules, and the names of the rules whose matches were not the same in both.

    `used` are the names of the sources that the code uses.
    """
    names = []
    for rule in SANITISERS:
        if first == second:
            break
        if rule.source and rule.source not in used:
            continue
        found = [[match[0] for match in rule.pattern.finditer(text)] for text in (first, second)]
        if found[0] != found[1]:
            names.append(rule.name)
            first, second = rule.pattern.sub(rule.put, first), rule.pattern.sub(rule.put, second)
    return first, second, tuple(names)
