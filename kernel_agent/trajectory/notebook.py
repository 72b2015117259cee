"""A trajectory as an nbformat 4.5 notebook, and back. Only this module and cells.py know the form.

The file is `{"cells": [...], "metadata": ..., "nbformat": 4, "nbformat_minor": 5}` with the cells first, so that new
cells go over the old tail. `read` gives back exactly what was written, also after JupyterLab or nbformat saved the file anew.
It does not trust what it reads to be right: edited code, text or Markdown is ignored (the record in the metadata
counts), a re-run output must have the recorded pixels, and whatever is missing is named.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import orjson

from kernel_agent.errors import ImageError, TrajectoryError
from kernel_agent.trajectory.cells import BYTES_MIME, KEY
from kernel_agent.trajectory.codec import decode, encode, plain
from kernel_agent.trajectory.reading import MAX_VALUES, read_json
from kernel_agent.trajectory.records import SCHEMA, Images, Turn, add_images, read_step, sha256
from kernel_agent.trajectory.state import State
from kernel_agent.types import Event, Json, Step

HEAD = b'{\n "cells": [\n'
MAX_CELLS = 100_000
_KEYS = {"cells", "metadata", "nbformat", "nbformat_minor"}
_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS


def pack(cells: Sequence[Json]) -> list[bytes]:
    """Each cell as JSON."""
    return [orjson.dumps(cell, option=_OPTIONS) for cell in cells]


def tail(state: State) -> bytes:
    """All that follows the last cell: metadata of the notebook and the closing brackets."""
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
        KEY: {
            "schema": SCHEMA,
            "run": state.run_id,
            "header": encode(state.header),
            "turns": encode(state.turns),
            "events": encode(state.events),
            "steps": len(state.steps),
        },
    }
    return closing(metadata)


def closing(metadata: Json) -> bytes:
    """All that follows the last cell of a notebook with this metadata."""
    return (
        b'\n ],\n "metadata": '
        + orjson.dumps(metadata, option=_OPTIONS)
        + b',\n "nbformat": 4,\n "nbformat_minor": 5\n}\n'
    )


def document(cells: Sequence[bytes], end: bytes) -> bytes:
    """The whole file."""
    return HEAD + b",\n".join(cells) + end


def parse(data: bytes, name: str, most: int = MAX_VALUES) -> Json:
    """The JSON of a notebook that is a trajectory of a known schema. TrajectoryError, naming `name`, otherwise.

    Every reader of a notebook has to see the cells that are seen here, so nothing else is taken: other versions of the format
    keep cells elsewhere. `most`: how many JSON values are read.
    """
    try:
        notebook = read_json(data, name, most)
    except orjson.JSONDecodeError as error:
        if data.startswith(b"PK\x03\x04"):
            raise TrajectoryError(f"{name} is a zip file, no notebook: where it is a bundle, unzip it first") from error
        beside = Path(name).with_suffix(".codevision").name
        raise TrajectoryError(
            f"{name} is no whole notebook ({error}; {len(data)} bytes). If the run crashed and {beside} lies beside it:"
            f" codevision recover {Path(name).name}"
        ) from error
    if not isinstance(notebook, dict) or not isinstance(cells := notebook.get("cells"), list):
        raise TrajectoryError(f"{name} is no notebook of nbformat 4: it has no list of cells")
    if notebook.get("nbformat") != 4 or not isinstance(notebook.get("nbformat_minor"), int):
        said = f"{notebook.get('nbformat')!r:.20}.{notebook.get('nbformat_minor')!r:.20}"
        raise TrajectoryError(f"{name} says that it is of nbformat {said}, and runs are of 4: use it as it was saved")
    if unknown := sorted(notebook.keys() - _KEYS):
        raise TrajectoryError(f"{name} holds {unknown[0]!r:.80} beside its cells, where no notebook has anything")
    if len(cells) > MAX_CELLS:
        raise TrajectoryError(f"{name} has {len(cells):,} cells, and {MAX_CELLS:,} are read at most: split the run")
    metadata = notebook.get("metadata")
    ours = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(ours, dict):
        raise TrajectoryError(f"{name} is a notebook, but not one of CodeVision: its metadata has no {KEY!r}")
    version = ours.get("schema")
    if not isinstance(version, int) or version > SCHEMA:
        raise TrajectoryError(
            f"{name} has schema {version!r}, and this version reads up to {SCHEMA}: upgrade kernel-agent"
        )
    if version < 1:
        raise TrajectoryError(
            f"{name} has schema {version!r}, and this version reads from 1 on: open it with an older one"
        )
    return notebook


def read(notebook: Json, name: str) -> State:
    """The trajectory in a parsed notebook. TrajectoryError where something in it is not as it was written."""
    try:
        return _read(notebook, name)
    except RecursionError as error:
        raise TrajectoryError(f"{name} was damaged: its JSON is nested deeper than anything a run writes") from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # JSON of another shape
        raise TrajectoryError(f"{name} was damaged: {type(error).__name__}: {error}") from error


def _read(notebook: Json, name: str) -> State:
    ours = notebook["metadata"][KEY]
    run, header, count = ours.get("run"), plain(ours.get("header")), ours.get("steps")
    if not isinstance(run, str) or not isinstance(header, dict) or not isinstance(count, int):
        raise TrajectoryError(f"{name}: the notebook's {KEY!r} metadata lacks run, header or steps")
    blobs = _Blobs(name)
    questions: list[tuple[Json, Json]] = []
    steps: dict[int, tuple[Json, Json]] = {}
    for cell in notebook["cells"]:
        record = _record(cell)
        if record is not None and record.get("kind") == "question" and "images" in record:
            questions.append((record, cell))
        elif record is not None and record.get("kind") == "step":
            steps.setdefault(record.get("index"), (record, cell))  # a copy of a cell made in an editor comes second
    if not questions:
        raise TrajectoryError(f"{name}: the cell with the first question and the input images is gone")
    state = State(run_id=run, header=header)
    _read_inputs(state.images, *questions[0], blobs)
    for index in range(count):
        if index not in steps:
            raise TrajectoryError(
                f"{name}: step {index + 1} of {count} is gone: its cell was deleted or its metadata removed"
            )
        state.steps.append(_read_step(index, state.images, *steps[index], blobs))
    state.turns.extend(decode(tuple[Turn, ...], ours.get("turns"), where="turns"))
    state.events.extend(decode(tuple[Event, ...], ours.get("events"), where="events"))
    return state


class _Blobs:
    """The image bytes that a notebook holds, by hash."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._blobs: dict[str, bytes] = {}

    def add(self, coded: Json) -> bytes:
        if isinstance(coded, list):
            coded = "".join(map(str, coded))
        try:
            blob = base64.b64decode(str(coded).replace("\n", ""), validate=True)
        except (binascii.Error, ValueError):
            return b""  # missed by hash, should it be needed
        self._blobs[sha256(blob)] = blob
        return blob

    def put(self, digest: str, blob: bytes) -> None:
        self._blobs[digest] = blob

    def __contains__(self, digest: object) -> bool:
        return digest in self._blobs

    def __call__(self, digest: str) -> bytes:
        if digest not in self._blobs:
            raise TrajectoryError(
                f"{self._name} lacks the bytes of an image (sha256 {digest[:12]}…): an attachment or an output was cleared"
                " or shows something else since it was run again. Use the notebook as it was saved."
            )
        return self._blobs[digest]


def _record(cell: Json) -> Json:
    metadata = cell.get("metadata") if isinstance(cell, dict) else None
    record = metadata.get(KEY) if isinstance(metadata, dict) else None
    return record if isinstance(record, dict) else None


def _read_inputs(images: Images, record: Json, cell: Json, blobs: _Blobs) -> None:
    for bundle in (cell.get("attachments") or {}).values():
        for coded in bundle.values():
            blobs.add(coded)
    _add_views(record, blobs)
    add_images(record["images"], images, blobs, "the first question")


def _read_step(index: int, images: Images, record: Json, cell: Json, blobs: _Blobs) -> Step:
    where = f"step {index + 1}"
    shown = _shown(cell, blobs)
    _add_views(record, blobs)
    inner = record.get("record")
    if isinstance(inner, dict) and isinstance(records := inner.get("images"), list):
        known = [
            item
            if not isinstance(item, dict) or item.get("data_sha256") in blobs
            else _accept_rerun(item, inner, shown, images, blobs)
            for item in records
        ]
        inner = inner | {"images": known}
    step = read_step(inner, images, blobs, where)
    if step.index != index:
        raise TrajectoryError(f"{where} says that it is number {step.index + 1}: its record was changed")
    return step


def _add_views(record: Json, blobs: _Blobs) -> None:
    for coded in (record.get("views") or {}).values():
        blobs.add(coded)


def _shown(cell: Json, blobs: _Blobs) -> list[bytes]:
    """The image of each output that shows one, in order."""
    found = []
    for output in cell.get("outputs") or ():
        data = output.get("data") or {}
        mimes = [mime for mime in data if mime.startswith("image/") or mime == BYTES_MIME]
        if mimes:
            found.append(blobs.add(data["image/png" if "image/png" in mimes else mimes[0]]))
    return found


def _accept_rerun(item: dict[str, Json], inner: Json, shown: list[bytes], images: Images, blobs: _Blobs) -> Json:
    """The record, with the output of a cell that was run again in place of the recorded one if it has the same pixels.

    A lossy image becomes lossless by this: what is compared is the recorded hash of the kernel's pixels.
    """
    from kernel_agent.session.images import decode_output, pixel_sha256
    from kernel_agent.session.images_plain import not_plain

    try:
        outputs = [output["index"] for output in inner["step"]["cell"]["outputs"] if output["type"] == "image"]
        blob = shown[outputs.index(item["index"])]
        if not_plain(blob, "image/png") is not None:
            return item
        same = pixel_sha256(decode_output(blob)) == item["pixel_sha256"]
    except (KeyError, IndexError, TypeError, ValueError, ImageError):
        return item  # then its bytes are reported as missing
    if not same:
        return item
    images.aliases[item["data_sha256"]] = sha256(blob)
    blobs.put(item["data_sha256"], blob)
    if item.get("lossless", True):
        return item
    images.exact_again.add(item["index"])
    shared = {"view_mime": "image/png"} if item.get("view_sha256") == item["data_sha256"] else {}
    return {key: value for key, value in item.items() if key != "lossless"} | {"mime": "image/png"} | shared
