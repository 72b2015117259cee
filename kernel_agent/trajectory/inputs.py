"""Find the input images of a saved run when its notebook is run again. Standard library only: it runs in the kernel.

A kernel does not know which notebook it serves, so the notebook is found by its run id among those in the folder.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel_agent.errors import TrajectoryError

_KEY = "codevision"
_SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")


def find_inputs(run_id: str, folder: str | Path) -> list[bytes]:
    """The input images of run `run_id` as files, in order of index, from the notebook with that id in `folder`.

    Raises TrajectoryError where no notebook there is that run or its attachments are gone.
    """
    folder = Path(folder)
    problem = ""
    for path, notebook in _notebooks(run_id, folder):
        try:
            return [data for _, data, _ in _inputs(notebook)]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            problem = f"{path.name} is that run, but its input images cannot be read ({error}). "
    raise TrajectoryError(
        f"No notebook in {folder.resolve()} holds the images of run {run_id}. {problem}They are attachments of the first"
        " cell: keep that cell as it was saved, and run the notebook from the folder it lies in. A copy that needs no file"
        " beside it: codevision export RUN.ipynb -o COPY.ipynb"
    )


def find_views(run_id: str, folder: str | Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The inputs as the model sees them, to be displayed: (data, metadata) of each. Raises TrajectoryError as `find_inputs` does."""
    found = []
    for _, notebook in _notebooks(run_id, Path(folder)):
        for image, _, view in _inputs(notebook):
            if image["view_mime"] in _SHOWN:
                width, height = image["size"]
                note = {key: image[key] for key in ("index", "name", "size", "pixel_sha256")}
                data = {image["view_mime"]: view, "text/plain": f"{image['name']}: {width} × {height} px"}
                found.append((data, {_KEY: note}))
        break
    return found


def find_skipped(run_id: str, folder: str | Path) -> dict[int, bytes]:
    """The images, by index, that cells made which are not run again (interrupted or killed: `skip-execution`).

    Later cells may use them by name. Raises TrajectoryError as `find_inputs` does.
    """
    found: dict[int, bytes] = {}
    for _, notebook in _notebooks(run_id, Path(folder)):
        for cell in notebook["cells"]:
            if "skip-execution" not in cell.get("metadata", {}).get("tags", ()):
                continue
            for output in cell.get("outputs", ()):
                note, data = output.get("metadata", {}).get(_KEY), output.get("data", {})
                if note and "image/png" in data:
                    found[note["index"]] = _decode(data["image/png"])
        break
    return found


def _notebooks(run_id: str, folder: Path) -> Iterator[tuple[Path, Any]]:
    for path in sorted(folder.glob("*.ipynb")):
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                if view.find(run_id.encode()) < 0:
                    continue
                notebook = json.loads(view[:])
            if notebook["metadata"][_KEY]["run"] == run_id:
                yield path, notebook
        except (OSError, ValueError, KeyError, TypeError):
            continue  # unreadable, empty, or no notebook of ours


def _inputs(notebook: Any) -> list[tuple[Any, bytes, bytes]]:
    """(record, file, view) of each input."""
    for cell in notebook["cells"]:
        record = cell["metadata"].get(_KEY, {})
        if record.get("kind") != "question" or "images" not in record:
            continue
        found = []
        for image in sorted(record["images"], key=lambda image: int(image["index"])):
            name = record["attachments"][str(image["index"])]
            if name not in cell.get("attachments", {}):
                raise ValueError(f"the attachment {name} is gone")
            data = _decode(next(iter(cell["attachments"][name].values())))
            if hashlib.sha256(data).hexdigest() != image["data_sha256"]:
                raise ValueError(f"the attachment {name} was replaced by another image")
            resized = record.get("views", {}).get(image["view_sha256"])
            found.append((image, data, data if resized is None else _decode(resized)))
        return found
    raise ValueError("its first cell is gone")


def _decode(coded: str | list[str]) -> bytes:
    text = coded if isinstance(coded, str) else "".join(coded)
    try:
        return base64.b64decode(text)
    except binascii.Error as error:
        raise ValueError(f"base64: {error}") from error
