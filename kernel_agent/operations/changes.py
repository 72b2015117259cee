"""What was done to the pixels of a picture whose place is known: nothing that can be seen, photometric, or drawn on.

A picture is compared with what the operation that moved it would have given by itself. Where it was resampled, the usual
filters are tried and the nearest counts. "Nothing" is that all but half a percent of the pixels changed by no more than 14 of 255
levels: an enhancement by a factor within 0.95 to 1.05 never changes more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kernel_agent.operations.affine import Parts, apply, compose, shift
from kernel_agent.operations.compare import warp, within
from kernel_agent.operations.pictures import Pixels
from kernel_agent.operations.values import ORIENTATIONS, Applied
from kernel_agent.session.lineage.search import turns
from kernel_agent.types import Affine

LEVELS = 14
_EXACT_WINDOW, _WINDOW = 1600, 512
"""Pixels each way, around the middle, that are looked at: where nothing was resampled, and where filters have to be tried."""
_FILTERS = (
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.NEAREST,
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
)
_METHODS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST, cv2.INTER_LANCZOS4)


def changes(picture: Pixels, parent: Pixels, affine: Affine, taken: Parts, *, lossless: bool = True) -> Applied | None:
    """PHOTOMETRIC, OTHER (drawn on) or None, of `picture` that lies at `affine` (taken apart: `taken`) in `parent`."""
    exact = not taken.free and all(abs(scale - 1) < 1e-3 for scale in taken.scale)
    left, top, right, bottom = _window(picture, parent, affine, _EXACT_WINDOW if exact else _WINDOW)
    if not taken.free:
        left, top, right, bottom = _inside(affine, (left, top, right, bottom), parent)
    if right - left < 4 or bottom - top < 4:
        return None
    picture = picture[top:bottom, left:right]
    affine = compose(affine, shift(left, top))
    allowed = 0.005 if exact and lossless else 0.03 if taken.free or not lossless else 0.01
    best: tuple[float, Pixels, NDArray[np.bool_]] | None = None
    for expected, counted in _expected(picture, parent, affine, taken, exact):
        off = (difference(picture, expected) if lossless else _smooth_difference(picture, expected)) > LEVELS
        share = float((off & counted).sum()) / max(1, int(counted.sum()))
        if share <= allowed and (not lossless or _as_sharp(picture, expected, counted)):
            return None
        if best is None or share < best[0]:
            best = share, expected, counted
    assert best is not None
    _, expected, counted = best
    if not exact and _only_resampled(picture, expected, counted):
        return None
    return Applied.OTHER if _drawn(picture, expected, counted) else Applied.PHOTOMETRIC


def difference(one: Any, other: Any) -> NDArray[np.uint8]:
    """By how many levels each pixel differs, in the channel where it differs most."""
    red, green, blue = cv2.split(cv2.absdiff(one, other))
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)


def _inside(affine: Affine, window: tuple[int, int, int, int], parent: Pixels) -> tuple[int, int, int, int]:
    """The window without its outermost pixels where they reach over the parent's edge, as after a resize of an odd side."""
    left, top, right, bottom = window
    for _ in range(2):
        box = apply(affine, (float(left), float(top), float(right), float(bottom)))
        if min(box[0], box[1]) > -1e-6 and box[2] < parent.shape[1] + 1e-6 and box[3] < parent.shape[0] + 1e-6:
            break
        left, top, right, bottom = left + 1, top + 1, right - 1, bottom - 1
    return left, top, right, bottom


def _window(picture: Pixels, parent: Pixels, affine: Affine, most: int) -> tuple[int, int, int, int]:
    """The part of the picture that is looked at: what lies inside the parent, at most `most` each way, around its middle."""
    height, width = picture.shape[:2]
    step = max(1, max(height, width) // 256)
    coarse = compose(affine, (float(step), 0.0, 0.0, 0.0, float(step), 0.0))
    inside = within(coarse, (-(-width // step), -(-height // step)), (parent.shape[1], parent.shape[0]))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    top, bottom = int(rows[0]) * step, min(height, (int(rows[-1]) + 1) * step)
    left, right = int(columns[0]) * step, min(width, (int(columns[-1]) + 1) * step)
    if right - left > most:
        left = (left + right - most) // 2
        right = left + most
    if bottom - top > most:
        top = (top + bottom - most) // 2
        bottom = top + most
    return left, top, right, bottom


def _expected(
    picture: Pixels, parent: Pixels, affine: Affine, taken: Parts, exact: bool
) -> Iterator[tuple[Pixels, NDArray[np.bool_]]]:
    """What the picture would be with its colours left alone, by one filter after another, and which pixels to count."""
    size = (picture.shape[1], picture.shape[0])
    box = apply(affine, (0.0, 0.0, float(size[0]), float(size[1])))
    if exact and all(abs(side - round(side)) < 1e-3 for side in box):
        left, top, right, bottom = map(round, box)
        if min(left, top) >= 0 and right <= parent.shape[1] and bottom <= parent.shape[0]:
            yield _turned(parent[top:bottom, left:right], taken.orientation), np.ones(size[::-1], bool)
            return
    margin = np.ones((7, 7), np.uint8)
    inside = within(affine, size, (parent.shape[1], parent.shape[0]))
    for method in _METHODS:
        made = warp(parent, affine, size, method=method)
        shrunk = cv2.erode(np.pad(inside.astype(np.uint8), 1), margin)[1:-1, 1:-1].astype(bool)
        yield made, shrunk if shrunk.any() else inside
    if not taken.free:
        yield from ((made, _inner(size)) for made in _resized(parent, box, size, taken.orientation))


def _turned(pixels: Pixels, orientation: Applied | None) -> Pixels:
    index = len(ORIENTATIONS) if orientation is None else ORIENTATIONS.index(orientation)
    return np.ascontiguousarray(list(turns(pixels))[index])


def _inner(size: tuple[int, int]) -> NDArray[np.bool_]:
    """All but a margin, where filters see over the edge."""
    counted = np.ones((size[1], size[0]), bool)
    if min(size) > 16:
        counted[:4], counted[-4:], counted[:, :4], counted[:, -4:] = False, False, False, False
    return counted


def _resized(
    parent: Pixels, box: tuple[float, float, float, float], size: tuple[int, int], orientation: Applied | None
) -> Iterator[Pixels]:
    height, width = parent.shape[:2]
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[2]), min(float(height), box[3])
    if right - left < 1 or bottom - top < 1:
        return
    near = 8 * max(1.0, (right - left) / max(size))
    x, y = int(max(0, left - near)), int(max(0, top - near))
    part = np.ascontiguousarray(parent[y : int(bottom + near) + 1, x : int(right + near) + 1])
    inner = (left - x, top - y, min(right - x, part.shape[1]), min(bottom - y, part.shape[0]))
    swapped = orientation in (Applied.ROTATE90, Applied.ROTATE270, Applied.TRANSPOSE, Applied.TRANSVERSE)
    for chosen in _FILTERS:
        made = np.asarray(Image.fromarray(part).resize(size[::-1] if swapped else size, chosen, box=inner))
        yield _turned(made, orientation)


def _only_resampled(picture: Pixels, expected: Pixels, counted: NDArray[np.bool_]) -> bool:
    """Whether they differ by no more than filters do: equal when both are smoothed, and about as sharp."""
    off = (_smooth_difference(picture, expected) > LEVELS) & counted
    if float(off.sum()) > 0.005 * float(counted.sum()):
        return False
    return _as_sharp(picture, expected, counted)


def _smooth_difference(picture: Pixels, expected: Pixels) -> NDArray[np.uint8]:
    return difference(*(cv2.GaussianBlur(one, (0, 0), 2.0) for one in (picture, expected)))


def _as_sharp(picture: Pixels, expected: Pixels, counted: NDArray[np.bool_]) -> bool:
    """Whether neither was smoothed or sharpened: a median over grain moves no pixel far, and all of them."""
    mask = counted.astype(np.uint8)
    greys = [cv2.Laplacian(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), cv2.CV_32F) for one in (picture, expected)]
    edges = [float(cv2.mean(np.abs(one), mask)[0]) + 0.2 for one in greys]
    return 0.7 < edges[0] / edges[1] < 1.4


def _drawn(picture: Pixels, expected: Pixels, counted: NDArray[np.bool_]) -> bool:
    """Whether most stayed as it was, while other pixels of the same colours were painted over."""
    differ = difference(picture, expected)
    same, changed = (differ <= 6) & counted, (differ > 40) & counted
    total = max(1, int(counted.sum()))
    if float(same.sum()) < 0.5 * total:
        return False
    span = np.ones((31, 31), np.uint8)  # as far as the halo of a strong sharpening reaches
    low, high = (np.asarray(one, np.int16) for one in (cv2.erode(expected, span), cv2.dilate(expected, span)))
    changed &= (np.maximum(low - picture, picture - high) > 40).any(axis=2)  # a blur stays among its neighbours
    level = (high - low).max(axis=2) <= 12  # there, filters change nothing
    colours = (expected >> 4).astype(np.int32) @ np.array([256, 16, 1], np.int32)
    if _painted(colours[same & level], colours[changed & level]) > 0.002 * total:
        return True
    small = np.ones((7, 7), np.uint8)
    near_edges = (difference(cv2.dilate(expected, small), cv2.erode(expected, small)) > 12) & counted
    # a filter changes most of what is near an edge, a drawing leaves it as it was
    kept = float((differ[near_edges] <= 2).mean()) if float(near_edges.sum()) > 0.05 * total else 0.0
    return kept > 0.85 and float(changed.sum()) > 0.003 * total


def _painted(same: NDArray[np.int32], changed: NDArray[np.int32]) -> int:
    """How many changed pixels have a colour that mostly stayed: no function of the colour did this."""
    kept, lost = np.bincount(same, minlength=4096), np.bincount(changed, minlength=4096)
    return int(lost[kept >= lost].sum())
