"""Whether a cell's outputs are those of the record, made again by somebody who ran the notebook in Jupyter and saved it.

Guarantees: pure; the same rules as re-execution has for text. What differs after them is excused only in a cell that draws on
something that Jupyter does not pin, chance included, and then it is "unchecked". So is text that holds control characters, as
coloured tracebacks do: they can hide what stands there. Pictures, their captions, the type of an output that shows one, outputs of other types
(HTML, ...) and such as nbformat does not know are never excused: a run lives by its pictures.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from kernel_agent.audit.compare_text import begin_alike, compare_outputs
from kernel_agent.audit.finding import Finding, Outcome
from kernel_agent.audit.flow import Drawn, Flow
from kernel_agent.audit.sanitisers import Known, spelled
from kernel_agent.audit.verdicts import Verdict, worst
from kernel_agent.session.outputs import clean_text
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import CellResult, ErrorOutput, ImageOutput, Json, Output, Status, StreamOutput, TextOutput

_TEXTUAL = re.compile(r"outputs\[\d+\]\.(?:output_type|name|text|ename|evalue|traceback(?:\[\d+\])?|data\.text/plain)")
_TYPES = frozenset({"stream", "display_data", "execute_result", "error"})
"""All that nbformat has. Of another one nobody knows what a viewer shows: most show nothing."""
_HIDDEN = re.compile(r"^ {4}\[\.\.\. skipping hidden \d{1,4} frames?\]\n+", re.MULTILINE)
_ENDED = (Status.OK, Status.ERROR)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Again:
    """What the cells of a run may give when somebody runs them again, without a seed."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._steps = trajectory.steps

    @functools.cached_property
    def _cells(self) -> dict[str, tuple[CellResult, Drawn, frozenset[str]]]:
        """Each cell with what it draws on and the marks of rules that the code up to it has spelled."""
        flow, marks, found = Flow(header={}), frozenset[str](), {}
        for step in self._steps:
            if step.cell is not None:
                drawn = flow.cell(step.index, step.cell.source)
                if step.cell.status not in _ENDED:
                    flow.lose(drawn.writes, f"step {step.index + 1} was stopped")
                marks |= spelled(step.cell.source)
                found[f"step-{step.index}"] = (step.cell, drawn, marks)
        return found

    def sift(self, name: str, apart: Iterable[Finding], cell: Json, wanted: Json) -> list[Finding]:
        """Of what is apart in a cell, what a run of its code does not explain; one finding where that cannot be checked."""
        apart = list(apart)
        told = self._told(name, apart, cell, wanted) if apart else None
        if told is None:
            return apart
        return [replace(apart[0], outcome=Outcome.UNCHECKED, message=told)] if told else []

    def _told(self, name: str, apart: Iterable[Finding], cell: Json, wanted: Json) -> str | None:
        """Why these fields of a cell's outputs may differ, "" where they say the same; None where neither is so."""
        if not all(_TEXTUAL.fullmatch(item.field) for item in apart) or name not in self._cells:
            return None
        types = [output.get("output_type") for output in cell.get("outputs") or ()]
        held = [f"outputs[{n}]" for side in (cell, wanted) for n in _pictured(side)]
        pictured = {f"{output}.{key}" for output in held for key in ("output_type", "data.text/plain")}
        if not _TYPES.issuperset(map(str, types)) or any(item.field in pictured for item in apart):
            return None
        recorded, drawn, marks = self._cells[name]
        known = Known(spelled=marks, seconds=(recorded.seconds, 10 + 10 * recorded.seconds))
        then, now = _outputs(wanted), _outputs(cell)
        found = compare_outputs(then, now, known=known, tolerance=0.0)
        verdict = worst(item.verdict for item in found)
        if verdict.holds:
            plain = not any(_CONTROL.search(text) for text in _texts(cell.get("outputs")))
            return "" if plain else "the recorded one, if the control characters in it are only colours: run again?"
        why = drawn.excuse(found)
        if verdict is Verdict.NOT_REPLAYABLE:
            why = next(item.how for item in found if item.verdict is verdict)
        elif recorded.status not in _ENDED and begin_alike(then, now, known=known):
            why = why or "it was stopped on its way when it was recorded"
        return f"it is not the recorded one; if the notebook was run again: {why}"[:500] if why else None


def _outputs(cell: Json) -> list[Output]:
    """The outputs of a notebook's cell as a session has them; pictures are counted only."""
    found: list[Output] = []
    for output in cell.get("outputs") or ():
        kind = output.get("output_type")
        data = _data(output)
        if kind == "stream" and output.get("name") in ("stdout", "stderr"):
            text, last = _joined(output.get("text")), found[-1] if found else None
            if isinstance(last, StreamOutput) and last.name == output["name"]:
                found, text = found[:-1], last.text + text
            found.append(StreamOutput(name=output["name"], text=text))
        elif kind == "error":
            frames = tuple(_HIDDEN.sub("", clean_text(_joined(frame))) for frame in output.get("traceback") or ())
            found.append(
                ErrorOutput(
                    ename=_joined(output.get("ename")),
                    evalue=clean_text(_joined(output.get("evalue"))),
                    traceback=tuple(frame for frame in frames if frame),
                )
            )
        elif _shows_picture(output):
            number = sum(isinstance(item, ImageOutput) for item in found)
            found.append(ImageOutput(index=number, is_result=kind == "execute_result"))
        else:
            text = clean_text(_joined(data.get("text/plain")))
            found.append(TextOutput(text=text, is_result=kind == "execute_result"))
    return [replace(item, text=clean_text(item.text)) if isinstance(item, StreamOutput) else item for item in found]


def _data(output: Json) -> Mapping[str, Json]:
    data = output.get("data")
    return data if isinstance(data, Mapping) else {}


def _shows_picture(output: Json) -> bool:
    return any(str(mime).startswith("image/") for mime in _data(output))


def _pictured(cell: Json) -> Iterator[int]:
    """The places of a cell's outputs that hold a picture."""
    return (number for number, output in enumerate(cell.get("outputs") or ()) if _shows_picture(output))


def _texts(value: Json) -> Iterator[str]:
    """All text in outputs."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _joined(value: Json) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")
