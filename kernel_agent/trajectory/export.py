"""Write a run at once: as it is, or self-contained (it then runs again with only Pillow and NumPy)."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from kernel_agent.trajectory import files, notebook
from kernel_agent.trajectory.cells import KEY, cells_since, kernel_options, setup_outputs
from kernel_agent.trajectory.records import to_base64
from kernel_agent.trajectory.state import Mark, State
from kernel_agent.trajectory.store import beginning
from kernel_agent.types import Json, Status

if TYPE_CHECKING:
    from kernel_agent.trajectory.trajectory import Trajectory


def whole(state: State, path: Path) -> bytes:
    """The notebook of a run as `path` is to hold it: cells of this run that are there already stay as they are."""
    kept, since = beginning(path, state)
    return notebook.document(notebook.pack([*kept, *cells_since(state, since)]), notebook.tail(state))


def write(path: Path, data: bytes) -> None:
    """Write a notebook at once, in place of what was there. StorageError where it cannot be, or is being recorded to."""
    with files.explained(path, len(data)):
        check_free(path)
        files.write_atomically(path, data, path.with_name(f".{path.name}.{os.getpid()}.tmp"))


def check_free(path: Path) -> None:
    """StorageError where a notebook is being recorded to."""
    folder = files.folder_of(path)
    if folder.is_dir():
        files.Lock(folder, path).release()


def self_contained(trajectory: Trajectory) -> dict[str, Any]:
    """The run as a notebook (plain nbformat 4.5 JSON) that needs no other file and nothing but Pillow and NumPy.

    The input images stand in a code cell whose source is folded away; the model's cells are unchanged. What they import
    themselves (OpenCV, matplotlib) must be there. It can be loaded and continued like any other.
    """
    result: dict[str, Any] = orjson.loads(_self_contained(trajectory._state))
    return result


def write_self_contained(trajectory: Trajectory, path: str | os.PathLike[str]) -> Path:
    """Write `self_contained` to `path`, in place of what was there, and return the path. Raises StorageError."""
    target = files.notebook_path(path)
    write(target, _self_contained(trajectory._state))
    trajectory._have_signed(target)
    return target


def to_insert(trajectory: Trajectory, *, turn: int | None = None) -> list[Json]:
    """The run's cells (all, or those of one turn) to stand in another notebook: real cells, without the machine's record.

    They get ids of their own. The setup cell finds the input images in the run's notebook, where there is one.
    """
    state, out = trajectory._state, []
    number = -1
    for cell in cells_since(state, Mark()):
        record = cell["metadata"].get(KEY, {})
        number += record.get("kind") == "question"
        if turn is not None and number != turn:
            continue
        if cell["id"] == "setup" and trajectory.path is not None:
            options = _keywords({"folder": str(trajectory.path.parent), **kernel_options(state)})
            cell["source"] = (
                f"# The input images of a CodeVision run\nfrom kernel_agent.session.kernel_side import open_notebook\n\n"
                f'images = open_notebook("{state.run_id}"{options})'
            ).splitlines(keepends=True)
        tags = {"tags": cell["metadata"]["tags"]} if "tags" in cell["metadata"] else {}
        out.append({**cell, "id": uuid.uuid4().hex[:12], "metadata": tags})
    return out


def _self_contained(state: State) -> bytes:
    cells = cells_since(state, Mark())
    for cell in cells:
        if cell["id"] == "setup":
            cell["source"] = _source(state).splitlines(keepends=True)
            cell["metadata"] |= {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
            cell["outputs"] = setup_outputs(state)
    return notebook.document(notebook.pack(cells), notebook.tail(state))


def _source(state: State) -> str:
    from kernel_agent.trajectory import runtime

    options = {name: value for name, value in kernel_options(state).items() if name != "output_chars"}
    skipped = {
        image.index: to_base64(image.data)
        for step in state.steps
        if step.cell is not None and step.cell.status in (Status.TIMEOUT, Status.KILLED)
        for image in step.images
    }
    inputs = [to_base64(image.data) for image in state.inputs]
    return (
        "# The input images, and what names every picture a cell shows; needs Pillow and NumPy only\n"
        f"from typing import Any\n\n\n{inspect.getsource(runtime.open_images)}\n\n"
        f"images = open_images({_literal(inputs)}, {_literal(skipped)}{_keywords(options)})"
    )


def _literal(value: Sequence[str] | Mapping[int, str]) -> str:
    """A list or dict of long strings, one a line."""
    if isinstance(value, Mapping):
        return "{" + "".join(f"\n    {key}: {item!r}," for key, item in value.items()) + "}"
    return "[" + "".join(f"\n    {item!r}," for item in value) + "]"


def _keywords(options: Mapping[str, Json]) -> str:
    return "".join(f", {name}={value!r}" for name, value in options.items())
