"""From a series, a seed and a number to one task: picture, ground truth, annotation.

Guarantees: task `index` of a series, seed and split is the same wherever and however often it is drawn (same fonts, same
versions of Pillow and OpenCV). Training and test tasks share no typeface. `generated_folder` writes many of them.

The canonical picture is the stored one with its orientation undone, pixel for pixel, also where it is a JPEG.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from PIL import Image

from kernel_agent.session.png import write_png
from kernel_agent.tasks import mvtool
from kernel_agent.tasks.corruptions import apply
from kernel_agent.tasks.dataset import IMAGES
from kernel_agent.tasks.drawing import Draw, Drawing, Question
from kernel_agent.tasks.ground_truth import Corruption, GroundTruth, Kind, Operation, correction
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.typefaces import Split, typefaces
from kernel_agent.types import Box

VERSION = 1
"""Raised when a seed comes to mean other pictures."""
SMALL = 0.01
"""A text to be read that covers less of the picture than this has to be cropped."""
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
    READING = "reading"


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
    from kernel_agent.tasks import charts, dials, geometry, labels, pages, reading, receipts, signs, tables

    return {
        Series.PAGE: pages.draw_page,
        Series.RECEIPT: receipts.draw_receipt,
        Series.SIGN: signs.draw_signs,
        Series.LABEL: labels.draw_label,
        Series.TABLE: tables.draw_table,
        Series.CHART: charts.draw_chart,
        Series.DIAL: dials.draw_dial,
        Series.GEOMETRY: geometry.draw_geometry,
        Series.READING: reading.draw_reading,
    }[series]


def generate(
    series: Series,
    seed: int,
    index: int,
    *,
    split: Split = Split.TRAIN,
    corruptions: tuple[Corruption, ...] = (),
    orientation: Orientation | None = None,
) -> Generated:
    """Task `index` of a series. Orientations take turns: the five of the paper for `mvtool`, else these and upright.

    With `orientation` the picture of that index lies so instead.

    Each of `corruptions` is applied with its own seed plus `index`. Raises NoFontsError.
    """
    rng = np.random.default_rng([VERSION, list(Series).index(series), list(Split).index(split), seed, index])
    faces = typefaces(split)
    orientations = _TURNED if series is Series.MVTOOL else tuple(Orientation)
    orientation = orientation or orientations[index % len(orientations)]
    if series is Series.MVTOOL:
        drawing, question = _passage(rng, faces)
    else:
        drawing = _draws(series)(rng, faces)
        question = drawing.questions[int(rng.integers(len(drawing.questions)))]
    canonical = question.box
    pixels, shown_box = drawing.pixels, canonical
    applied = tuple(Corruption(kind=c.kind, severity=c.severity, seed=c.seed + index) for c in corruptions)
    for corruption in applied:
        damaged = apply(Image.fromarray(pixels), corruption, keep=shown_box)
        pixels, shown_box = np.array(damaged.image), None if shown_box is None else damaged.box(shown_box)
    upright = (pixels.shape[1], pixels.shape[0])
    share = 1.0 if canonical is None else _area(canonical) / (drawing.pixels.shape[0] * drawing.pixels.shape[1])
    crop = series is Series.MVTOOL or (question.kind is Kind.READING and share < SMALL)
    turned = correction(orientation)
    shown = orientation.apply_to_pixels(pixels)
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
        kind = mvtool.KINDS[int(rng.integers(len(mvtool.KINDS)))]
        found = mvtool.questions(drawing.annotation, rng, (kind,))
        if found:
            return drawing, found[0]
    raise AssertionError("twenty pictures without one passage to ask about: the generator is broken")


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _rounded(box: Box) -> Box:
    return (round(box[0], 2), round(box[1], 2), round(box[2], 2), round(box[3], 2))
