"""Does a picture show what a map says it shows? Judged on both, made equally small, whatever was done to the colours.

`judge` compares the brightness and where the edges are: one of them outlives every photometric operation. A map is borne out
only if no other of the eight orientations fits nearly as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kernel_agent.operations.affine import compose, parts, shift
from kernel_agent.operations.pictures import Pixels
from kernel_agent.session.lineage.search import turns
from kernel_agent.types import Affine, Size

Grey = NDArray[np.float32]

GRID, SMALL = 48, 192
FLAT = 1.5
"""Standard deviation, in levels of 255, under which a picture shows nothing."""
_ENOUGH, _CLEARLY = 0.5, 0.6


class Fit(StrEnum):
    """What pixels say of a map."""

    BORNE_OUT = "borne out"
    CONTRADICTED = "contradicted"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """`likeness` of 0 to 1 as the map says, and `next_best` when turned otherwise."""

    fit: Fit
    likeness: float = 0.0
    next_best: float = 0.0


def judge(picture: Pixels, parent: Pixels, affine: Affine) -> Judgement:
    """Whether `picture` shows the part of `parent` that `affine` maps it to."""
    height, width = picture.shape[:2]
    reduce = max(1.0, max(height, width) / SMALL)
    size = (max(1, round(width / reduce)), max(1, round(height / reduce)))
    to_full = (width / size[0], 0.0, 0.0, 0.0, height / size[1], 0.0)
    small = compose(affine, to_full)
    inside = within(small, size, (parent.shape[1], parent.shape[0]))
    left, top, right, bottom = _needed(small, size, parent)
    part = cv2.cvtColor(parent[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    expected = warp(np.asarray(part, np.uint8), compose(shift(-left, -top), small), size)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    shown = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if reduce > 1 else grey
    weight = _whole_cells(inside)
    if float(weight.mean()) < 0.1:
        return Judgement(fit=Fit.CONTRADICTED)
    theirs, mine = _features(expected), _features(shown)
    if min(_deviation(theirs[0], weight), _deviation(mine[0], weight)) < FLAT / 2:
        return Judgement(fit=Fit.CANNOT_TELL)
    likeness = _likeness(theirs, mine, weight)
    *others, _ = zip(*(turns(feature) for feature in mine), strict=True)  # the last of them is unturned
    next_best = max(_likeness(theirs, other, weight) for other in others)
    if likeness < _ENOUGH:
        fit = Fit.CONTRADICTED
    else:
        fit = Fit.BORNE_OUT if 1 - likeness <= _CLEARLY * (1 - next_best) - 0.001 else Fit.CANNOT_TELL
    return Judgement(fit=fit, likeness=likeness, next_best=next_best)


def warp(parent: Pixels, affine: Affine, size: Size, *, method: int = cv2.INTER_LINEAR) -> Pixels:
    """`parent` as a picture of `size` that lies at `affine` in it, smoothed where it is made smaller; the edge is continued."""
    taken = parts(affine)
    scale = min(taken.scale) if taken else 1.0
    if scale > 1.5 and method == cv2.INTER_LINEAR:
        left, top, right, bottom = _needed(affine, size, parent)
        parent = parent[top:bottom, left:right]
        small = (max(1, round(parent.shape[1] / scale)), max(1, round(parent.shape[0] / scale)))
        x, y = small[0] / parent.shape[1], small[1] / parent.shape[0]
        affine = compose((x, 0.0, -left * x, 0.0, y, -top * y), affine)
        parent = np.asarray(cv2.resize(parent, small, interpolation=cv2.INTER_AREA), np.uint8)
    a, b, c, d, e, f = affine
    # OpenCV counts from the middle of the first pixel, we from its corner
    matrix = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])
    flags = method | cv2.WARP_INVERSE_MAP
    made = cv2.warpAffine(parent, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(made, np.uint8)


def within(affine: Affine, size: Size, parent: Size) -> NDArray[np.bool_]:
    """Which pixels of a picture of `size` have their middle inside the parent."""
    a, b, c, d, e, f = affine
    x, y = np.arange(size[0]) + 0.5, (np.arange(size[1]) + 0.5)[:, None]
    u, v = a * x + b * y + c, d * x + e * y + f
    inside: NDArray[np.bool_] = (u >= 0) & (u <= parent[0]) & (v >= 0) & (v <= parent[1])
    return inside


def _needed(affine: Affine, size: Size, parent: Pixels) -> tuple[int, int, int, int]:
    a, b, c, d, e, f = affine
    xs = [a * x + b * y + c for x in (0, size[0]) for y in (0, size[1])]
    ys = [d * x + e * y + f for x in (0, size[0]) for y in (0, size[1])]
    height, width = parent.shape[:2]
    left, right = int(np.clip(min(xs) - 8, 0, width - 1)), int(np.clip(max(xs) + 9, 1, width))
    top, bottom = int(np.clip(min(ys) - 8, 0, height - 1)), int(np.clip(max(ys) + 9, 1, height))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def spread(pixels: Pixels) -> float:
    """The largest standard deviation of a channel, in levels of 255."""
    return float(cv2.meanStdDev(pixels)[1].max())


def _grid(values: Any) -> Grey:
    return np.asarray(cv2.resize(values, (GRID, GRID), interpolation=cv2.INTER_AREA), np.float32)


def _whole_cells(inside: NDArray[np.bool_]) -> Grey:
    """1 where all of a cell lies inside the parent, a pixel away from its edge, else 0."""
    if inside.all():
        return np.ones((GRID, GRID), np.float32)
    shrunk = cv2.erode(np.pad(inside.astype(np.uint8), 1), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    return (_grid(np.asarray(shrunk, np.float32)) > 0.99).astype(np.float32)


def _features(pixels: Any) -> tuple[Grey, Grey]:
    """Brightness, and how much of an edge there is, on a grid."""
    grey = np.asarray(pixels, np.float32)
    edges = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return _grid(grey), _grid(np.sqrt(np.asarray(edges, np.float32)))


def _likeness(one: tuple[Grey, ...], other: tuple[Grey, ...], weight: Grey) -> float:
    """Correlation of brightness (of either sign: a negative is like its picture) or of edges, the better of the two."""
    return max(abs(_correlation(one[0], other[0], weight)), _correlation(one[1], other[1], weight))


def _deviation(values: Grey, weight: Grey) -> float:
    total = float(weight.sum())
    off = values - float((values * weight).sum()) / total
    return float(np.sqrt(float((off * off * weight).sum()) / total))


def _correlation(one: Grey, other: Grey, weight: Grey) -> float:
    total = float(weight.sum())
    p = one - float((one * weight).sum()) / total
    q = other - float((other * weight).sum()) / total
    spread = float((p * p * weight).sum()) * float((q * q * weight).sum())
    return float((p * q * weight).sum()) / spread**0.5 if spread > 1e-6 else 0.0
