"""Compare what a cell wrote with what it writes again: streams, results, errors, and the order of pictures.

Guarantees: pure. Text is equal, white space included, or equal after named sanitisers, or its numbers are apart by no more than the
auditor allowed; anything else differs, or is "not replayable" where a sanitiser is not sure. A traceback is text like any other;
where only frames of libraries differ it is "not replayable". Streams are compared between two other outputs each; which of stdout
and stderr came first there is the kernel's clocks' to say, so another order is "not replayable". How much was cut out of each is
compared too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from kernel_agent.audit.sanitisers import Known, normalise
from kernel_agent.audit.verdicts import Comparison, Verdict, excerpt, worst
from kernel_agent.types import ErrorOutput, ImageOutput, Output, StreamOutput, TextOutput

LONGEST = 200_000
"""Characters up to which sanitisers are tried; a cell's text is cut far below that when it runs."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_PADDING = re.compile(r"\A {2,}| {2,}\Z")
_CUT = re.compile(r"\n\[\.\.\. \d{1,18} characters left out \.\.\.\]\n")
_LIBRARY_FRAME = re.compile(
    r"^(?:File (?:~?/[^\n:]{1,300}/(?:site-packages|dist-packages|python3\.\d{1,2})/[^\n:]{1,300}|<[^\n<>]{1,100}>):\d{1,7}"
    r"[^\n]*\n(?:(?:-{1,12}> ?\d{1,7}| {1,12}\d{1,7})(?: [^\n]*)?\n| {1,12}\(\.\.\.\)\n)*"
    r"| {4}\[\.\.\. skipping hidden \d{1,4} frames?\]\n)\n?",
    re.MULTILINE,
)


def compare_text(
    what: str, recorded: str, replayed: str, *, known: Known = Known(), tolerance: float = 0.0
) -> Comparison:
    """Two texts. Numbers may be apart by `tolerance`, absolute or relative, where it is not 0."""
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
    first, second, names, unsure = normalise(what, recorded, replayed, known)
    verdict, how = Verdict.NORMALISED, ", ".join(names)
    if first != second:
        far = distance(first, second)
        if far is None:
            return Comparison(what=what, verdict=Verdict.DIFFERS, how=_where(first, second), texts=shown)
        absolute, relative, needed_at_least = far
        how = f"numbers apart by up to {absolute:.3g} ({relative:.3g} of their size)"
        if tolerance == 0 or needed_at_least > tolerance:
            return Comparison(what=what, verdict=Verdict.DIFFERS, how=how, texts=shown)
        verdict, how = Verdict.WITHIN_TOLERANCE, how + (f"; after {', '.join(names)}" if names else "")
    if unsure:
        verdict, how = Verdict.NOT_REPLAYABLE, "; ".join(unsure)
    return Comparison(what=what, verdict=verdict, how=how, texts=shown)


def distance(first: str, second: str) -> tuple[float, float, float] | None:
    """How far apart the numbers of two texts are, where all else is equal but how far numbers are padded; else None.

    Absolute and relative at worst, and the least tolerance that lets every number through, one way or the other.

    A whole number that differs is no noise: then None.
    """
    one, other = ([_PADDING.sub(" ", part) for part in _NUMBER.split(text)] for text in (first, second))
    if one != other:
        return None
    absolute = relative = needed = 0.0
    for a, b in zip(_NUMBER.findall(first), _NUMBER.findall(second), strict=True):
        if a == b:
            continue
        if not any(mark in a + b for mark in ".eE"):
            return None
        x, y = float(a), float(b)
        if not (math.isfinite(x) and math.isfinite(y)):
            return None
        gap = abs(x - y)
        absolute = max(absolute, gap)
        share = gap / max(abs(x), abs(y)) if gap else 0.0
        relative, needed = max(relative, share), max(needed, min(gap, share))
    return absolute, relative, needed


def _where(first: str, second: str) -> str:
    """The first line that is not the same."""
    lines = list(zip(first.splitlines(), second.splitlines(), strict=False))
    number = next((n for n, (one, other) in enumerate(lines) if one != other), len(lines))
    return f"from line {number + 1} on"


def compare_error(recorded: ErrorOutput, replayed: ErrorOutput, *, known: Known, tolerance: float) -> Comparison:
    """Class, message and the whole traceback as text; "not replayable" where only frames of libraries differ."""
    if recorded == replayed:
        return Comparison(what="error", verdict=Verdict.IDENTICAL)
    one, other = _whole(recorded), _whole(replayed)
    shown = (excerpt(one), excerpt(other))

    def verdict(verdict: Verdict, how: str) -> Comparison:
        return Comparison(what="error", verdict=verdict, how=how, texts=shown)

    if recorded.ename != replayed.ename:
        return verdict(Verdict.DIFFERS, f"class {recorded.ename} against {replayed.ename}")
    message = compare_text("error", recorded.evalue, replayed.evalue, known=known, tolerance=tolerance)
    if message.verdict.holds is False:
        return verdict(message.verdict, f"message: {message.how}")
    whole = compare_text("error", one, other, known=known, tolerance=tolerance)
    if whole.verdict.holds is not False:
        return whole
    own = [_LIBRARY_FRAME.sub("", text) for text in (one, other)]
    rest = compare_text("error", own[0], own[1], known=known, tolerance=tolerance)
    if rest.verdict.holds is False:
        return verdict(Verdict.DIFFERS, f"the traceback, {whole.how}")
    return verdict(Verdict.NOT_REPLAYABLE, "frames of libraries: another version has its lines elsewhere")


def _whole(error: ErrorOutput) -> str:
    return "\n".join([f"{error.ename}: {error.evalue}", "", *error.traceback])


def compare_outputs(
    recorded: Sequence[Output], replayed: Sequence[Output], *, known: Known, tolerance: float
) -> list[Comparison]:
    """All outputs but the pixels of images: what came, in which order, and every text."""
    mine, theirs = _Parts(recorded), _Parts(replayed)
    if mine.kinds != theirs.kinds:
        return _unlike(mine, theirs, known, tolerance)
    found = []
    if mine.images != theirs.images:
        order = (str(mine.images)[:400], str(theirs.images)[:400])
        found.append(Comparison(what="order of the images", verdict=Verdict.DIFFERS, texts=order))
    for one, other in zip(mine.others, theirs.others, strict=True):
        if isinstance(one, ErrorOutput) and isinstance(other, ErrorOutput):
            found.append(compare_error(one, other, known=known, tolerance=tolerance))
        elif isinstance(one, TextOutput) and isinstance(other, TextOutput):
            what = "result" if one.is_result else "text"
            found.append(compare_text(what, one.text, other.text, known=known, tolerance=tolerance))
    for name in ("stdout", "stderr"):
        pairs = list(zip(mine.streams[name], theirs.streams[name], strict=True))
        parts = [
            compare_text(name, one, other, known=known, tolerance=tolerance) for one, other in pairs if one or other
        ]
        if name == "stderr" and worst(part.verdict for part in parts).holds is False:
            whole = compare_text(
                name, "".join(mine.streams[name]), "".join(theirs.streams[name]), known=known, tolerance=tolerance
            )
            if whole.verdict.holds is not False:
                how = "place among the outputs: libraries write to stderr past Python, and it comes when it comes"
                parts = [Comparison(what=name, verdict=Verdict.NOT_REPLAYABLE, how=how, texts=whole.texts)]
        found += parts
    if mine.mixed != theirs.mixed and all(item.verdict.holds is not False for item in found):
        how = "a kernel sends them on clocks of their own"
        order = (str(mine.mixed)[:400], str(theirs.mixed)[:400])
        what = "order of stdout and stderr"
        found.append(Comparison(what=what, verdict=Verdict.NOT_REPLAYABLE, how=how, texts=order))
    if mine.mixed == theirs.mixed and mine.dropped != theirs.dropped:
        counts = (str(mine.dropped)[:400], str(theirs.dropped)[:400])
        found.append(Comparison(what="characters left out", verdict=Verdict.DIFFERS, texts=counts))
    return found


def begin_alike(recorded: Sequence[Output], replayed: Sequence[Output], *, known: Known) -> bool:
    """Whether what one of them says may be the beginning of what the other says: one was stopped on the way.

    Of a stream that was cut that is what stands before the cut.
    """
    mine, theirs = _Parts(recorded), _Parts(replayed)
    for name in ("stdout", "stderr"):
        one, other = mine.head(name), theirs.head(name)
        length = min(len(one), len(other))
        if compare_text(name, one[:length], other[:length], known=known).verdict.holds is False:
            return False
    texts = [[output.text for output in part.others if isinstance(output, TextOutput)] for part in (mine, theirs)]
    return all(compare_text("text", a, b, known=known).verdict.holds is not False for a, b in zip(*texts, strict=False))


def _unlike(mine: _Parts, theirs: _Parts, known: Known, tolerance: float) -> list[Comparison]:
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
            found.append(compare_text(name, one, other, known=known, tolerance=tolerance))
    return found


class _Parts:
    """Outputs as a comparison sees them: those that are no stream, and both streams' text before, between and after them."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.others: list[Output] = []
        self.kinds: list[str] = []
        self.images: list[tuple[int, bool]] = []
        self.streams: dict[str, list[str]] = {"stdout": [""], "stderr": [""]}
        self.mixed: list[tuple[str, int]] = []  # stream and lines, one after the other
        self.dropped: list[int] = []  # of each of these
        self.cut: set[str] = set()
        for output in outputs:
            if isinstance(output, StreamOutput):
                self.streams[output.name][-1] += output.text
                going_on = bool(self.mixed) and self.mixed[-1][0] == output.name
                before = (self.mixed.pop()[1], self.dropped.pop()) if going_on else (0, 0)
                self.mixed.append((output.name, before[0] + output.text.count("\n")))
                self.dropped.append(before[1] + output.dropped)
                self.cut |= {output.name} if output.dropped else set()
                continue
            if isinstance(output, ImageOutput):
                self.images.append((output.index, output.is_result))
            self.others.append(output)
            self.kinds.append(_kind(output))
            self.mixed.append(("", 0))
            self.dropped.append(output.dropped if isinstance(output, TextOutput) else 0)
            for texts in self.streams.values():
                texts.append("")

    def head(self, name: str) -> str:
        """A stream's text; where it was cut, the whole lines before the cut, or the line that was cut where it is the only one."""
        text = "".join(self.streams[name])
        match = _CUT.search(text) if name in self.cut else None
        if match is None:
            return text
        head = text[: match.start()]
        return head[: head.rfind("\n") + 1] or head

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
