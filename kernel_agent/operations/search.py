"""Where in another picture a picture lies, by its pixels alone, for those of which lineage says nothing (or something false).

Tried in this order: all of it, turned and perhaps resized; an unscaled part of it, turned; any part, scaled and rotated, by matching
features. What is found must look alike more strictly than what lineage says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from kernel_agent.operations.affine import apply, compose, invert, orientation_map, parts, shift
from kernel_agent.operations.compare import Fit, judge, within
from kernel_agent.operations.pictures import Pictures, Pixels
from kernel_agent.operations.values import ORIENTATIONS, Applied
from kernel_agent.session.lineage.search import turns
from kernel_agent.types import Affine, Size

STRICT = 0.85
_WORK = 300_000
"""Pixels at which a place is first looked for."""
_FEATURE_WORK = 200_000
_MATCHES = 12
_INSIDE = 0.95
"""So much of it has to lie in the other: a plot or a montage with more around it is no crop."""


class Search:
    """Looks for pictures of one run in others of it. Features are computed once a picture."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._features: dict[tuple[int, bool], tuple[Any, Any, float]] = {}

    def place(self, image: int, parent: int, *, quick: bool = False) -> Affine | None:
        """The map from picture `image` into picture `parent`; None where there is none for sure. `quick` leaves features out."""
        picture, whole = self._pictures[image], self._pictures[parent]
        ways = (_whole, _part, _repeated, lambda *_: self._by_features(image, parent))
        for places in ways[: -1 if quick else None]:
            found: list[tuple[float, Affine]] = []
            for affine in places(picture, whole):
                inside = within(affine, picture.shape[1::-1], whole.shape[1::-1])
                if float(inside.mean()) < _INSIDE:
                    continue
                judgement = judge(picture, whole, affine)
                if judgement.fit is Fit.BORNE_OUT and judgement.likeness >= STRICT:
                    found.append((judgement.likeness, affine))
            if found:
                return max(found, key=lambda one: one[0])[1]
        return None

    def _by_features(self, image: int, parent: int) -> Iterator[Affine]:
        there, of_there, up = self._of(parent, mirrored=False)
        if len(there) < _MATCHES:
            return
        height, width = self._pictures[image].shape[:2]
        for mirrored in (False, True):  # features outlive rotation, not a mirror
            here, of_here, reduce = self._of(image, mirrored=mirrored)
            if len(here) < _MATCHES:
                return
            found = _matched(here, of_here, there, of_there)
            if found is None:
                continue
            down = 1 / reduce
            whole = compose(compose((up, 0.0, 0.0, 0.0, up, 0.0), found), (down, 0.0, 0.0, 0.0, down, 0.0))
            if mirrored:
                whole = compose(whole, (-1.0, 0.0, float(width), 0.0, 1.0, 0.0))
            yield _snapped(whole, (width, height)) or whole

    def _of(self, index: int, *, mirrored: bool) -> tuple[Any, Any, float]:
        """Places and descriptions of features, and by how much the picture was reduced for them."""
        key = index, mirrored
        if key not in self._features:
            finder: Any = cv2.SIFT_create(800)  # type: ignore[attr-defined]
            grey = _grey(self._pictures[index])
            reduce = max(1.0, (grey.size / _FEATURE_WORK) ** 0.5)
            small = _smaller(grey, reduce)
            points, descriptions = finder.detectAndCompute(
                np.ascontiguousarray(small[:, ::-1]) if mirrored else small, None
            )
            self._features[key] = points or (), descriptions, reduce
        return self._features[key]


def _matched(here: Any, of_here: Any, there: Any, of_there: Any) -> Affine | None:
    """The similarity that most matches agree on, if enough do."""
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(of_here, of_there, k=2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < 0.75 * pair[1].distance]
    if len(good) < _MATCHES:
        return None
    source = np.array([here[one.queryIdx].pt for one in good], np.float32) + 0.5
    target = np.array([there[one.trainIdx].pt for one in good], np.float32) + 0.5
    matrix, used = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=2.0)
    if matrix is None or int(used.sum()) < max(_MATCHES, 0.4 * len(good)):
        return None
    a, b, c, d, e, f = (float(value) for value in np.asarray(matrix).ravel())
    return a, b, c, d, e, f


def _whole(picture: Pixels, parent: Pixels) -> Iterator[Affine]:
    height, width = picture.shape[:2]
    for orientation in (None, *ORIENTATIONS):
        h, w = parent.shape[:2]
        turned = (h, w) if orientation in _SWAPS else (w, h)
        if abs(width / turned[0] / (height / turned[1]) - 1) < 0.02:
            scale = (turned[0] / width, 0.0, 0.0, 0.0, turned[1] / height, 0.0)
            yield compose(orientation_map(orientation, (w, h)), scale)


_SWAPS = (Applied.ROTATE90, Applied.ROTATE270, Applied.TRANSPOSE, Applied.TRANSVERSE)


def _part(picture: Pixels, parent: Pixels) -> Iterator[Affine]:
    grey, whole = _grey(picture), _grey(parent)
    least = min(grey.shape)
    reduce = min(max(1.0, (whole.size / _WORK) ** 0.5), max(1.0, least / 16))
    small = _smaller(whole, reduce)
    best: tuple[float, int, tuple[int, int]] | None = None
    readings = [np.ascontiguousarray(one) for one in turns(grey)]
    for turn, reading in enumerate(readings):
        if reading.shape[0] > whole.shape[0] or reading.shape[1] > whole.shape[1]:
            continue
        piece = _smaller(reading, reduce)
        if piece.shape[0] > small.shape[0] or piece.shape[1] > small.shape[1] or float(piece.std()) < 1.5:
            continue
        heat = np.abs(cv2.matchTemplate(small, piece, cv2.TM_CCOEFF_NORMED))
        _, value, _, where = cv2.minMaxLoc(heat)
        if best is None or value > best[0]:
            best = value, turn, (where[0], where[1])
    if best is None or best[0] < 0.6:
        return
    _, turn, (x, y) = best
    reading = readings[turn]
    left, top = (max(0, int(place * reduce - reduce - 1)) for place in (x, y))
    reach = 2 * int(reduce) + 3
    near = whole[top : top + reading.shape[0] + reach, left : left + reading.shape[1] + reach]
    if near.shape[0] < reading.shape[0] or near.shape[1] < reading.shape[1]:
        return
    _, _, _, where = cv2.minMaxLoc(np.abs(cv2.matchTemplate(near, reading, cv2.TM_CCOEFF_NORMED)))
    # the reading is the picture turned; its place leads back through that turn
    turned = orientation_map(None if turn == len(ORIENTATIONS) else ORIENTATIONS[turn], grey.shape[::-1])
    back = invert(turned)
    assert back is not None
    yield compose(shift(left + where[0], top + where[1]), back)


def _repeated(picture: Pixels, parent: Pixels) -> Iterator[Affine]:
    """A part of which every pixel was repeated."""
    for times in (2, 3, 4):
        height, width = (side // times * times for side in picture.shape[:2])
        one = picture[:height:times, :width:times]
        if (height, width) == picture.shape[:2] and np.array_equal(one.repeat(times, 0).repeat(times, 1), picture):
            small = 1 / times
            for affine in _part(np.ascontiguousarray(one), parent):
                yield compose(affine, (small, 0.0, 0.0, 0.0, small, 0.0))


def _snapped(affine: Affine, size: Size) -> Affine | None:
    """The map to whole pixels that is nearest, of one without free rotation: features are off by fractions of a pixel."""
    taken = parts(affine)
    if taken is None or taken.free:
        return None
    left, top, right, bottom = (
        float(round(side)) for side in apply(affine, (0.0, 0.0, float(size[0]), float(size[1])))
    )
    if right <= left or bottom <= top:
        return None
    swapped = taken.orientation in _SWAPS
    width, height = (size[1], size[0]) if swapped else size
    left, right = _whole_zoom(left, right, width)
    top, bottom = _whole_zoom(top, bottom, height)
    x, y = (right - left) / width, (bottom - top) / height
    turned = orientation_map(taken.orientation, (width, height))
    return compose((x, 0.0, left, 0.0, y, top), turned)


def _whole_zoom(low: float, high: float, shown: int) -> tuple[float, float]:
    """The ends of a span of `high - low` pixels that is shown on `shown`, for the zoom by halves that is nearest, if one is near."""
    zoom = shown / (high - low)
    near = max(0.5, round(zoom * 2) / 2)
    span = shown / near
    if abs(zoom / near - 1) > 0.01 or span != round(span):
        return low, high
    low = float(round((low + high - span) / 2))
    return low, low + span


def _grey(pixels: Pixels) -> Any:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def _smaller(grey: Any, reduce: float) -> Any:
    if reduce <= 1.0:
        return grey
    size = (max(1, round(grey.shape[1] / reduce)), max(1, round(grey.shape[0] / reduce)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
