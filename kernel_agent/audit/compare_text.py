"""Compare what a cell wrote with what it writes again: streams, results, errors.

Guarantees: pure. Text is equal, or equal after named sanitisers, or its numbers are apart by no more than the auditor
allowed; anything else differs. Errors are compared by class, message and the user's own frames; lines of libraries may have
moved. Streams are compared between two other outputs each, since a kernel sends stdout and stderr on clocks of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from kernel_agent.audit.sanitisers import normalise
from kernel_agent.audit.verdicts import Comparison, Verdict, excerpt
from kernel_agent.types import ErrorOutput, ImageOutput, Output, StreamOutput, TextOutput

LONGEST = 200_000
"""Characters up to which sanitisers are tried; a cell's text is cut far below that when it runs."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_USER_FRAME = re.compile(r"(?:Cell In|Input In ?)\[\d{1,7}\](?:, line (?P<line>\d+))?(?:, in (?P<name>[^\n]{1,200}))?")
_COUNT = re.compile(r"\b(Cell In|Input In ?|In )\[\d{1,7}\]")


def compare_text(
    what: str, recorded: str, replayed: str, *, used: frozenset[str] = frozenset(), tolerance: float = 0.0
) -> Comparison:
    """Two texts. `used` names the sources the code draws on; numbers may be apart by `tolerance`, absolute or relative."""
    if recorded == replayed:
        return Comparison(what=what, verdict=Verdict.IDENTICAL)
    shown = (excerpt(recorded), excerpt(replayed))
    if not recorded or not replayed:
        side = (
            "the record has it, the code does not write it" if recorded else "the code writes it, the record lacks it"
        )
        return Comparison(what=what, verdict=Verdict.MISSING, how=side, texts=shown)
    if max(len(recorded), len(replayed)) > LONGEST:
        return Comparison(what=what, verdict=Verdict.DIFFERS, how="too long for sanitisers", texts=shown)
    first, second, names = normalise(recorded, replayed, used)
    if first == second:
        return Comparison(what=what, verdict=Verdict.NORMALISED, how=", ".join(names), texts=shown)
    far = distance(first, second)
    if far is None:
        return Comparison(what=what, verdict=Verdict.DIFFERS, how=_where(first, second), texts=shown)
    absolute, relative, needed_at_least = far
    how = f"numbers apart by up to {absolute:.3g} ({relative:.3g} of their size)"
    if needed_at_least <= tolerance:
        needed = f"; after {', '.join(names)}" if names else ""
        return Comparison(what=what, verdict=Verdict.WITHIN_TOLERANCE, how=how + needed, texts=shown)
    return Comparison(what=what, verdict=Verdict.DIFFERS, how=how, texts=shown)


def distance(first: str, second: str) -> tuple[float, float, float] | None:
    """How far apart the numbers of two texts are, where all else is equal up to spaces; else None.

    Absolute and relative at worst, and the least tolerance that lets every number through, one way or the other.

    A whole number that differs is no noise: then None.
    """
    if ["".join(part.split()) for part in _NUMBER.split(first)] != [
        "".join(part.split()) for part in _NUMBER.split(second)
    ]:
        return None
    absolute = relative = needed = 0.0
    for one, other in zip(_NUMBER.findall(first), _NUMBER.findall(second), strict=True):
        if one == other:
            continue
        if not any(mark in one + other for mark in ".eE"):
            return None
        a, b = float(one), float(other)
        if not (math.isfinite(a) and math.isfinite(b)):
            return None
        gap = abs(a - b)
        absolute = max(absolute, gap)
        share = gap / max(abs(a), abs(b)) if gap else 0.0
        relative, needed = max(relative, share), max(needed, min(gap, share))
    return absolute, relative, needed


def _where(first: str, second: str) -> str:
    """The first line that is not the same."""
    lines = list(zip(first.splitlines(), second.splitlines(), strict=False))
    number = next((n for n, (one, other) in enumerate(lines) if one != other), len(lines))
    return f"from line {number + 1} on"


def compare_error(
    recorded: ErrorOutput, replayed: ErrorOutput, *, used: frozenset[str], tolerance: float
) -> Comparison:
    """Class, message and the user's frames; what else stands in the traceback decides only between identical and normalised."""
    if recorded == replayed:
        return Comparison(what="error", verdict=Verdict.IDENTICAL)
    shown = (excerpt(_whole(recorded)), excerpt(_whole(replayed)))

    def verdict(verdict: Verdict, how: str) -> Comparison:
        return Comparison(what="error", verdict=verdict, how=how, texts=shown)

    if recorded.ename != replayed.ename:
        return verdict(Verdict.DIFFERS, f"class {recorded.ename} against {replayed.ename}")
    message = compare_text("error", recorded.evalue, replayed.evalue, used=used, tolerance=tolerance)
    if message.verdict.rank > Verdict.WITHIN_TOLERANCE.rank:
        return verdict(Verdict.DIFFERS, f"message: {message.how}")
    if frames(recorded) != frames(replayed):
        return verdict(Verdict.DIFFERS, "the user's own frames")
    if message.verdict is not Verdict.IDENTICAL:
        return verdict(message.verdict, f"message: {message.how}")
    return verdict(Verdict.NORMALISED, "library frames")


def frames(error: ErrorOutput) -> list[tuple[str, str, str]]:
    """The frames in cells: (line, function, the marked line of code), outermost first."""
    found = []
    text = "\n".join(error.traceback)
    starts = list(_USER_FRAME.finditer(text))
    for match, following in zip(starts, [*starts[1:], None], strict=True):
        body = text[match.end() : following.start() if following else len(text)]
        marked = re.search(r"^-+> *\d+ ?(?P<code>[^\n]*)", body, re.MULTILINE)
        found.append((match["line"] or "", match["name"] or "", marked["code"].strip() if marked else ""))
    return found


def _whole(error: ErrorOutput) -> str:
    return "\n".join([f"{error.ename}: {error.evalue}", "", *error.traceback])


def compare_outputs(
    recorded: Sequence[Output], replayed: Sequence[Output], *, used: frozenset[str], tolerance: float
) -> list[Comparison]:
    """All outputs but the pixels of images: what came, in which order, and every text."""
    mine, theirs = _Parts(recorded), _Parts(replayed)
    if mine.kinds != theirs.kinds:
        return _unlike(mine, theirs, used, tolerance)
    found = []
    for one, other in zip(mine.others, theirs.others, strict=True):
        if isinstance(one, ErrorOutput) and isinstance(other, ErrorOutput):
            found.append(compare_error(one, other, used=used, tolerance=tolerance))
        elif isinstance(one, TextOutput) and isinstance(other, TextOutput):
            what = "result" if one.is_result else "text"
            found.append(compare_text(what, one.text, other.text, used=used, tolerance=tolerance))
    for name in ("stdout", "stderr"):
        pairs = list(zip(mine.streams[name], theirs.streams[name], strict=True))
        parts = [compare_text(name, one, other, used=used, tolerance=tolerance) for one, other in pairs if one or other]
        if any(part.verdict.holds is False for part in parts):
            whole = compare_text(
                name, "".join(mine.streams[name]), "".join(theirs.streams[name]), used=used, tolerance=tolerance
            )
            if whole.verdict.holds:
                how = ", ".join(filter(None, ["place among the outputs", whole.how]))
                parts = [Comparison(what=name, verdict=Verdict.NORMALISED, how=how)]
        found += parts
    return found


def _unlike(mine: _Parts, theirs: _Parts, used: frozenset[str], tolerance: float) -> list[Comparison]:
    """Outputs of other kinds or in another order: each kind is told of, and the text of both streams still compared."""
    found = []
    for kind in dict.fromkeys([*mine.kinds, *theirs.kinds]):
        there, here = mine.kinds.count(kind), theirs.kinds.count(kind)
        if there != here:
            how = f"{there} in the record, {here} in the replay"
            texts = (excerpt(mine.text(kind)), excerpt(theirs.text(kind)))
            found.append(Comparison(what=kind, verdict=Verdict.MISSING, how=how, texts=texts))
    if not found:
        order = (", ".join(mine.kinds)[:400], ", ".join(theirs.kinds)[:400])
        found.append(Comparison(what="order of the outputs", verdict=Verdict.DIFFERS, texts=order))
    for name in ("stdout", "stderr"):
        one, other = "".join(mine.streams[name]), "".join(theirs.streams[name])
        if one or other:
            found.append(compare_text(name, one, other, used=used, tolerance=tolerance))
    return found


class _Parts:
    """Outputs as a comparison sees them: those that are no stream, and both streams' text before, between and after them."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.others: list[Output] = []
        self.kinds: list[str] = []
        self.streams: dict[str, list[str]] = {"stdout": [""], "stderr": [""]}
        for output in outputs:
            if isinstance(output, StreamOutput):
                self.streams[output.name][-1] += output.text
                continue
            self.others.append(output)
            self.kinds.append(_kind(output))
            for texts in self.streams.values():
                texts.append("")

    def text(self, kind: str) -> str:
        return "\n".join(_text(output) for output in self.others if _kind(output) == kind)


def _kind(output: Output) -> str:
    if isinstance(output, ErrorOutput):
        return "error"
    if isinstance(output, ImageOutput):
        return "image"
    return "result" if isinstance(output, TextOutput) and output.is_result else "text"


def _text(output: Output) -> str:
    if isinstance(output, ErrorOutput):
        return _whole(output)
    return output.text if isinstance(output, TextOutput) else ""
