"""From a kind, a seed and a number to tasks on disk: pictures, ground truth, annotations.

Guarantees: task `index` of a kind, seed and split is the same wherever and however often it is drawn (same fonts, same
versions of Pillow and OpenCV). A folder is whole or says that it is not: `tasks.jsonl` appears when everything is there; each
picture and each record is written under another name and renamed. Started again with the same arguments, a run
that was stopped goes on; with others it refuses.

The canonical picture is the stored one with its orientation undone, pixel for pixel, also where it is a JPEG.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
from PIL import Image

from kernel_agent.errors import InputError, StorageError
from kernel_agent.session.png import write_png
from kernel_agent.tasks import mvtool
from kernel_agent.tasks.corruptions import apply
from kernel_agent.tasks.dataset import IMAGES, TASKS
from kernel_agent.tasks.drawing import Draw, Drawing, Question
from kernel_agent.tasks.ground_truth import Corruption, GroundTruth, Operation, correction
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.typefaces import Split, typefaces
from kernel_agent.types import Box

VERSION = 1
"""Raised when a seed comes to mean other pictures."""
ANNOTATIONS = "annotations.jsonl"
SMALL = 0.01
"""A target that covers less of the picture than this has to be cropped."""
_STATE, _RECORDS = "generate.json", "records"
_CHUNK = 8
_TURNED = tuple(orientation for orientation in Orientation if orientation is not Orientation.UPRIGHT)


class Series(StrEnum):
    """What can be generated."""

    MVTOOL = "mvtool"
    PAGE = "page"
    RECEIPT = "receipt"
    SIGN = "sign"
    LABEL = "label"
    TABLE = "table"
    CHART = "chart"
    DIAL = "dial"
    GEOMETRY = "geometry"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """A task with its picture. `shown` is (h, w, 3) RGB as the model gets it, before it is packed into a file."""

    task: GroundTruth
    shown: np.ndarray
    drawing: Drawing

    @property
    def suffix(self) -> str:
        """Photographs are JPEG (quality 90), drawings PNG."""
        return ".jpg" if self.drawing.photo else ".png"

    def packed(self) -> bytes:
        """The picture as a file."""
        if self.drawing.photo:
            bgr = cv2.cvtColor(self.shown, cv2.COLOR_RGB2BGR)
            _, packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
            return packed.tobytes()
        return write_png("RGB", (self.shown.shape[1], self.shown.shape[0]), self.shown.tobytes())


def _draws(series: Series) -> Draw:
    from kernel_agent.tasks import charts, dials, geometry, labels, pages, receipts, signs, tables

    return {
        Series.PAGE: pages.draw_page,
        Series.RECEIPT: receipts.draw_receipt,
        Series.SIGN: signs.draw_signs,
        Series.LABEL: labels.draw_label,
        Series.TABLE: tables.draw_table,
        Series.CHART: charts.draw_chart,
        Series.DIAL: dials.draw_dial,
        Series.GEOMETRY: geometry.draw_geometry,
    }[series]


def generate(
    series: Series,
    seed: int,
    index: int,
    *,
    split: Split = Split.TRAIN,
    corruptions: tuple[Corruption, ...] = (),
) -> Generated:
    """Task `index` of a series. Orientations take turns: the five of the paper for `mvtool`, else these and upright.

    Each of `corruptions` is applied with its own seed plus `index`. Raises NoFontsError.
    """
    rng = np.random.default_rng([VERSION, list(Series).index(series), list(Split).index(split), seed, index])
    faces = typefaces(split)
    orientations = _TURNED if series is Series.MVTOOL else tuple(Orientation)
    orientation = orientations[index % len(orientations)]
    if series is Series.MVTOOL:
        drawing, question = _passage(rng, faces)
    else:
        drawing = _draws(series)(rng, faces)
        question = drawing.questions[int(rng.integers(len(drawing.questions)))]
    canonical = question.box
    image, shown_box = Image.fromarray(drawing.pixels), canonical
    applied = tuple(Corruption(kind=c.kind, severity=c.severity, seed=c.seed + index) for c in corruptions)
    for corruption in applied:
        damaged = apply(image, corruption, keep=shown_box)
        image, shown_box = damaged.image, None if shown_box is None else damaged.box(shown_box)
    upright = image.size
    share = 1.0 if canonical is None else _area(canonical) / (drawing.pixels.shape[0] * drawing.pixels.shape[1])
    crop = series is Series.MVTOOL or share < SMALL
    turned = correction(orientation)
    shown = np.asarray(orientation.apply(image))
    task = GroundTruth(
        id=f"{series}-{split}-{seed}-{index:06d}",
        question=question.text,
        answers=question.answers,
        kind=question.kind,
        answer_type=question.answer_type,
        image=f"{IMAGES}/{series}-{split}-{seed}-{index:06d}{'.jpg' if drawing.photo else '.png'}",
        size=(shown.shape[1], shown.shape[0]),
        orientation=orientation,
        corruptions=applied,
        target=None if shown_box is None else _rounded(orientation.apply_to_box(shown_box, upright)),
        canonical_target=None if canonical is None else _rounded(canonical),
        required=(*((turned,) if turned else ()), *((Operation.CROP,) if crop else ())),
        suggested=() if crop or canonical is None else (Operation.CROP,),
        source=f"generator:{series}",
        split=str(split),
    )
    return Generated(task=task, shown=shown, drawing=drawing)


def _passage(rng: np.random.Generator, faces: tuple[Any, ...]) -> tuple[Drawing, Question]:
    """A page or street with a passage to ask about; drawn again in the rare case that it has none."""
    for _ in range(20):
        drawing = _draws(Series.PAGE if rng.random() < 0.75 else Series.SIGN)(rng, faces)
        found = mvtool.questions(drawing.annotation, rng)
        if found:
            return drawing, found[0]
    raise AssertionError("twenty pictures without one passage to ask about: the generator is broken")


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _rounded(box: Box) -> Box:
    return (round(box[0], 2), round(box[1], 2), round(box[2], 2), round(box[3], 2))


# ---------------------------------------------------------------------- on disk


def write_dataset(
    folder: str | Path,
    series: Series,
    count: int,
    seed: int,
    *,
    split: Split = Split.TRAIN,
    corruptions: tuple[Corruption, ...] = (),
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Generate tasks 0 to `count` - 1 into `folder`, or go on with it; how many were drawn now.

    `progress` is told how many are there. `workers` processes draw (None: one a core); the result does not depend on it.
    Raises InputError where the folder holds something else, StorageError, NoFontsError.
    """
    if count < 1:
        raise InputError(f"{count} tasks: give at least 1")
    typefaces(split)  # a missing font is said before anything is written
    root = Path(folder)
    wanted = {
        "version": VERSION,
        "series": str(series),
        "count": count,
        "seed": seed,
        "split": str(split),
        "corruptions": [[str(c.kind), c.severity, c.seed] for c in corruptions],
    }
    try:
        if not _begin(root, wanted):
            progress(count)
            return 0
        starts = range(0, count, _CHUNK)
        missing = [start for start in starts if not _record(root, start, TASKS).exists()]
        done = count - sum(min(_CHUNK, count - start) for start in missing)
        drawn = 0
        progress(done)
        work = partial(_chunk, root, series, seed, count, split, corruptions)
        for number in _mapped(work, missing, workers or os.cpu_count() or 1):
            done, drawn = done + number, drawn + number
            progress(done)
        _gather(root, starts)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}; choose another folder or make room") from error
    return drawn


def _begin(root: Path, wanted: dict[str, Any]) -> bool:
    """Whether there is work to do in the folder; claims it. InputError where it holds something else."""
    state = root / _STATE
    if state.exists():
        found = json.loads(state.read_text(encoding="utf-8"))
        if found != wanted:
            differing = sorted(key for key in wanted if found.get(key) != wanted[key])
            raise InputError(
                f"{root} holds other tasks ({', '.join(f'{key}={found.get(key)!r}' for key in differing)}): give another "
                "folder, or the same arguments to go on"
            )
        if (root / TASKS).exists():
            return False
    elif (root / TASKS).exists() or (root / IMAGES).exists():
        raise InputError(f"{root} holds a dataset that was not generated here: give another folder")
    for part in (IMAGES, _RECORDS):
        (root / part).mkdir(parents=True, exist_ok=True)
    _write(state, json.dumps(wanted).encode())
    return True


def _mapped(work: Callable[[int], int], starts: list[int], workers: int) -> Iterator[int]:
    if workers == 1 or len(starts) < 2:
        yield from map(work, starts)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(starts)), _worker) as pool:
        yield from pool.imap_unordered(work, starts)


def _worker() -> None:
    """OpenCV's threads only stand in each other's way where there is a process a core; and nothing drawn has cycles."""
    cv2.setNumThreads(1)
    gc.set_threshold(100_000, 50, 50)


def _chunk(
    root: Path,
    series: Series,
    seed: int,
    count: int,
    split: Split,
    corruptions: tuple[Corruption, ...],
    start: int,
) -> int:
    """Draw some tasks; the record of them is written last, so what it names is there."""
    tasks, annotations = [], []
    for index in range(start, min(start + _CHUNK, count)):
        made = generate(series, seed, index, split=split, corruptions=corruptions)
        assert made.task.image is not None
        _write(root / made.task.image, made.packed(), sync=False)
        tasks.append(orjson.dumps(made.task.to_json()))
        annotations.append(orjson.dumps(made.drawing.annotation.to_json() | {"image_id": made.task.id}))
    for name, lines in ((ANNOTATIONS, annotations), (TASKS, tasks)):
        _write(_record(root, start, name), b"\n".join([*lines, b""]), sync=False)
    return len(tasks)


def _record(root: Path, start: int, name: str) -> Path:
    return root / _RECORDS / f"{start:08d}-{name}"


def _gather(root: Path, starts: range) -> None:
    """The records become the two files that readers want; the tasks last, as they say that all is there."""
    os.sync()  # the pictures and records before what says that all are there
    for name in (ANNOTATIONS, TASKS):
        part = root / (name + ".part")
        with part.open("wb") as out:
            for start in starts:
                out.write(_record(root, start, name).read_bytes())
            out.flush()
            os.fsync(out.fileno())
        part.replace(root / name)
    shutil.rmtree(root / _RECORDS)


def _write(path: Path, data: bytes, *, sync: bool = True) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        out.write(data)
        if sync:
            out.flush()
            os.fsync(out.fileno())
    part.replace(path)
