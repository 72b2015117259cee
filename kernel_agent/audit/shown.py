"""Whether the cells that a reader sees are those that the run's record gives: no seal is needed for that.

The record in the metadata is what a run is loaded from; source, outputs, Markdown and pictures are what people look at. Guarantees:
each field of each cell is compared with what this package writes for the record; where the notebook was run again, an image counts by
its pixels and text by the rules of re-execution (shown_again.py); a cell that is gone, doubled, moved or not the run's is named. Not found: what was
changed in the record too (re-execution, the record's own consistency and the seal are for that). A difference in a cell that was written in another
look than this version's (`trajectory.cells.LOOK`) is "unchecked": a change of the look is no forgery.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import orjson

from kernel_agent.audit.content import RUN, beside, field_value, fields_of, moved, named, place
from kernel_agent.audit.finding import Finding, Outcome, few
from kernel_agent.audit.shown_again import Again
from kernel_agent.errors import ImageError
from kernel_agent.trajectory import Trajectory, export, notebook
from kernel_agent.trajectory.cells import KEY, LOOK, cells_since
from kernel_agent.trajectory.state import Mark, State
from kernel_agent.types import Json, Step

CHECK = "what a reader sees"
_METADATA = re.compile(r"outputs\[\d+\]\.metadata(?:$|\.codevision\b)")
_ADDED = "it is not the run's: somebody added it"
_RAN = re.compile(r"step-\d+")


def check_shown(parsed: Json, trajectory: Trajectory, *, max_pixels: int) -> list[Finding]:
    """What the cells of a parsed notebook show that the record in it does not give."""
    return few(_found(parsed, trajectory, max_pixels))


def _found(parsed: Json, trajectory: Trajectory, max_pixels: int) -> Iterator[Finding]:
    written = notebook.pack(cells_since(_as_recorded(trajectory._state), Mark()))
    expected = dict(named(orjson.loads(cell) for cell in written))
    here = dict(named(parsed["cells"]))
    outcome = Outcome.FAILS if all(_look(cell) == LOOK for cell in here.values()) else Outcome.UNCHECKED
    yield from (_finding(outcome, name, "cell", "it is gone") for name in expected if name not in here)
    order = [name for name in here if name in expected]
    for name in moved([name for name in expected if name in here], order):
        yield _finding(outcome, name, "order", "it stands at another place")
    again = Again(trajectory)
    for name, cell in here.items():
        if name in expected:
            apart = _differences(name, cell, expected[name], trajectory, max_pixels)
            yield from again.sift(name, apart, cell, expected[name])
        else:
            ours = isinstance(cell, dict) and KEY in (cell.get("metadata") or {})
            told = "a copy of one of the run's cells" if ours else _ADDED
            yield _finding(Outcome.UNCHECKED, name, "cell", told)
    for field in beside(parsed["metadata"]):
        yield _finding(Outcome.UNCHECKED, RUN, field, _ADDED)


def _as_recorded(state: State) -> State:
    """The state that wrote the cells: captions name a loss, also of images that a notebook run again holds without."""
    exact = state.images.exact_again
    if not exact:
        return state

    def lossy(step: Step) -> Step:
        if step.cell is None or exact.isdisjoint(image.index for image in step.images):
            return step
        images = tuple(replace(image, lossless=image.index not in exact) for image in step.images)
        return replace(step, cell=replace(step.cell, images=images))

    return replace(state, steps=[lossy(step) for step in state.steps])


def _look(cell: Json) -> Json:
    """The look that a cell was written in; this version's for a cell that is none of ours."""
    metadata = cell.get("metadata") if isinstance(cell, dict) else None
    ours = metadata.get(KEY) if isinstance(metadata, dict) else None
    return ours.get("look", 1) if isinstance(ours, dict) else LOOK


def _differences(name: str, cell: Json, wanted: Json, trajectory: Trajectory, max_pixels: int) -> Iterator[Finding]:
    look = _look(cell)
    outcome, written = Outcome.FAILS, ""
    if look != LOOK:
        outcome, written = Outcome.UNCHECKED, f" (it was written in look {look!r:.20}, and this version knows {LOOK})"
    here, expected = _visible(cell), _visible(wanted)
    if here == expected:
        return
    if name == "setup":  # its outputs are copies, and a notebook that was run again has none
        if here == {field: value for field, value in expected.items() if not field.startswith("outputs")}:
            return
        alone = export.self_contained(trajectory)["cells"]
        if here == next(_visible(other) for other in alone if other["id"] == name):
            return
    captions = _captions(wanted)
    for field in sorted({*here, *expected}):
        if here.get(field) == expected.get(field):
            continue
        if ".image/" in field and _same_pixels(field, cell, wanted, max_pixels):
            continue
        if here.get(field) in captions.get(field, ()):
            continue
        told = (
            "it is gone"
            if field not in here
            else "it is not in the record"
            if field not in expected
            else "it is not the recorded one"
        )
        yield _finding(outcome, name, field, told + written)


def _visible(cell: Json) -> Mapping[str, str]:
    """The fields that a reader sees."""
    return {
        field: value
        for field, value in fields_of(cell).items()
        if not field.startswith(KEY) and not _METADATA.match(field)
    }


def _captions(wanted: Json) -> Mapping[str, tuple[str, ...]]:
    """The text in a picture's place as kernels write it when the notebook is run again, by field: it tells name and size alone."""
    found = {}
    for number, output in enumerate(wanted.get("outputs") or ()):
        data = output.get("data") or {}
        if any(mime.startswith("image/") for mime in data):
            told = data["text/plain"].partition(",")[0]
            found[f"outputs[{number}].data.text/plain"] = (field_value(told), field_value(told.replace(" × ", "x")))
    return found


def _same_pixels(field: str, cell: Json, wanted: Json, max_pixels: int) -> bool:
    """Whether both cells hold the same picture under this field of their outputs, the first in a file that is that and nothing else."""
    from kernel_agent.session.images import decode_output, pixel_sha256
    from kernel_agent.session.images_plain import not_plain

    hashes = []
    for one in (cell, wanted):
        for number, output in enumerate(one.get("outputs") or ()):
            for mime, coded in (output.get("data") or {}).items():
                if field == f"outputs[{number}].data.{mime}":
                    try:
                        data = base64.b64decode("".join(coded), validate=False)
                        if one is cell and not_plain(data, mime) is not None:
                            return False
                        hashes.append(pixel_sha256(decode_output(data, max_pixels)))
                    except (ImageError, TypeError, binascii.Error):
                        return False
    return len(hashes) == 2 and hashes[0] == hashes[1]


def _finding(outcome: Outcome, name: str, field: str, message: str) -> Finding:
    if field == "source" and _RAN.fullmatch(name):
        outcome = Outcome.FAILS  # no other version shows other code than what ran
    return Finding(check=CHECK, outcome=outcome, cell=place(name), field=field, message=message)
