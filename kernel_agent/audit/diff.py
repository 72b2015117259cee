"""What two runs have not in common: cells through nbdime (`pip install kernel-agent[diff]`), pictures by their pixels.

Guarantees: both notebooks are read as trajectories, nothing in them is run, the machine's record is left out of the text, and what
is printed cannot steer a terminal. Pictures are compared name by name as in an audit.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kernel_agent.audit.audit import read_bytes
from kernel_agent.audit.compare_images import decode, distance, draw, sides
from kernel_agent.audit.verdicts import Comparison, Verdict
from kernel_agent.errors import ImageError, InputError, TrajectoryError
from kernel_agent.trajectory import Trajectory, notebook
from kernel_agent.trajectory.cells import KEY
from kernel_agent.trajectory.records import sha256
from kernel_agent.types import Json, KernelImage


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two runs compared. `text` is nbdime's; `images` are those that are not the same, first run first."""

    text: str
    images: tuple[Comparison, ...]


def diff_runs(first: Path, second: Path, *, max_pixels: int = 100_000_000) -> Difference:
    """Compare two saved runs. InputError where nbdime is missing, TrajectoryError where a run cannot be read."""
    try:
        from nbdime.diffing.notebooks import diff_notebooks
        from nbdime.prettyprint import PrettyPrintConfig, pretty_print_diff
    except ImportError as error:
        raise InputError("codevision diff needs nbdime: pip install 'kernel-agent[diff]'") from error
    parsed = [notebook.parse(read_bytes(path), path.name) for path in (first, second)]
    runs = [Trajectory(notebook.read(one, path.name)) for one, path in zip(parsed, (first, second), strict=True)]
    out = io.StringIO()
    config = PrettyPrintConfig(out=out, use_git=False, use_diff=False, use_color=False)
    try:
        one, other = (_plain(each) for each in parsed)
        pretty_print_diff(one, diff_notebooks(one, other), "", config)
    except (AssertionError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        told = f"{first.name} and {second.name}: nbdime cannot compare them: {type(error).__name__}: {error}"
        raise TrajectoryError(told[:300]) from error
    return Difference(text=out.getvalue(), images=tuple(_images(runs[0], runs[1], max_pixels)))


def _plain(parsed: Json) -> Any:
    """The notebook as people see it, for nbdime: without the machine's record, and with hashes in place of pictures."""
    import nbformat

    cells = [copy.deepcopy(cell) for cell in parsed["cells"] if cell.get("id") != "setup"]
    for cell in cells:
        for holder in (cell, *cell.get("outputs", ())):
            holder.get("metadata", {}).pop(KEY, None)
            holder.pop("execution_count", None)
            for bundle in (holder.get("data", {}), *holder.get("attachments", {}).values()):
                for mime in bundle:
                    if not mime.startswith("text/"):
                        bundle[mime] = f"SHA-256 {sha256(str(bundle[mime]).encode())[:16]}"
    shown = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return nbformat.reads(orjson.dumps(shown).decode(), as_version=4)


def _images(first: Trajectory, second: Trajectory, max_pixels: int) -> list[Comparison]:
    mine, theirs = ({image.name: image for image in run.images} for run in (first, second))
    found = []
    for name in dict.fromkeys([*mine, *theirs]):
        if name in mine and name in theirs:
            compared = _compare(mine[name], theirs[name], max_pixels)
            found += [compared] if compared is not None else []
        else:
            side = "first" if name in mine else "second"
            found.append(Comparison(what=name, verdict=Verdict.MISSING, how=f"only the {side} run has it"))
    return found


def _compare(one: KernelImage, other: KernelImage, max_pixels: int) -> Comparison | None:
    if one.data == other.data:
        return None
    try:
        pictures = [decode(image, max_pixels) for image in (one, other)]
    except ImageError as error:
        return Comparison(what=one.name, verdict=Verdict.DIFFERS, how=f"it cannot be opened: {error}")
    sizes = [f"{picture.width}x{picture.height}" for picture in pictures]
    if sizes[0] != sizes[1]:
        how = f"{sizes[0]} against {sizes[1]} pixels"
        return Comparison(what=one.name, verdict=Verdict.DIFFERS, how=how, pictures=sides(*pictures))
    far = distance(*pictures)
    if far.largest == 0:
        return None
    return Comparison(what=one.name, verdict=Verdict.DIFFERS, how=str(far), pictures=draw(*pictures))
