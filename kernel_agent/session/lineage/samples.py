"""Does one picture show what another shows, pixel by pixel? Judged on at most 40x40 sampled pixels of each.

Guarantees: a picture and a turned, shifted or swapped version of it do not pass, as long as the picture itself is not
symmetric. Pixel-wise changes (brightness, gamma, inversion, threshold, one channel, drawing on less than about a third
of what is there) pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
GRID = 40
_LUMA = np.array([0.299, 0.587, 0.114])  # as Pillow and OpenCV make grey


@lru_cache(maxsize=256)
def grid(length: int, points: int) -> Array:
    """The middles of `points` equal parts (fewer in short sides), as Pillow's NEAREST resize takes them."""
    count = min(length, points)
    return ((np.arange(count) + 0.5) * length / count).astype(np.intp)


def sample(array: Array) -> Array:
    """A copy of the pixels at the grid."""
    picked: Array = array[grid(array.shape[0], GRID)].take(grid(array.shape[1], GRID), axis=1)
    return picked


def sample_pil(image: Image.Image) -> Array:
    """The same of an L, RGB or RGBA image, without decoding it into an array."""
    image.load()
    size = (min(image.width, GRID), min(image.height, GRID))
    small = image.im.resize(size, Image.Resampling.NEAREST, (0, 0, *image.size))
    picked = Image.Image()._new(small)
    raw = np.frombuffer(picked.tobytes(), np.uint8)
    return raw.reshape(size[1], size[0], -1) if len(image.mode) > 1 else raw.reshape(size[1], size[0])


def still_shows(before: Array, after: Array) -> bool:
    """Whether pixels that were `before` and are `after` now still show the same: most are equal, or it is alike."""
    return _equal_share(before, after) >= 0.5 or alike(before, after)


def same_with_drawing(one: Array, other: Array) -> bool:
    """Whether two samples are equal in most of what stands out, and no mirrored reading is as good."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if float((one == other).mean()) < 0.65:
        return False  # what does not stand out is equal, so this is no less than the share below
    share = _equal_share(one, other, need=40)
    if share < 0.65:
        return False
    return all(_equal_share(turned, other) < share - 0.15 for turned in _turned(one))


def ranks(pixels: Array) -> Array | None:
    """The level of each pixel's brightness among all (so that a few very bright ones do not decide); None for NaN."""
    grey = _grey(pixels)
    return _levels(grey) if np.isfinite(grey).all() else None


def alike(one: Array, other: Array, one_ranks: Array | None = None, other_ranks: Array | None = None) -> bool:
    """Whether `other` is a function of `one`, pixel by pixel, and of no mirrored reading of it as well.

    `ranks` of both may be given where they are known already.
    """
    if one.shape[:2] != other.shape[:2] or one.shape[0] * one.shape[1] < 144:
        return False
    one_ranks = ranks(one) if one_ranks is None else one_ranks
    other_ranks = ranks(other) if other_ranks is None else other_ranks
    if one_ranks is None or other_ranks is None:
        return False
    target = other_ranks.astype(np.float64)
    spread = float(target.var())
    if spread <= 1e-9 or _unexplained(one_ranks, target) > 0.7 * spread:
        return False  # plain, or not even roughly the same; saves looking at each channel
    for levels in chain((one_ranks,), map(_levels, _channels(one))):
        unexplained = _unexplained(levels, target) / spread
        if unexplained <= 0.2:
            bound = 2.5 * unexplained + 0.1
            if all(_unexplained(turned, target) / spread >= bound for turned in _turned(levels)):
                return True
    return False


def _equal_share(one: Array, other: Array, need: int = 12) -> float:
    """The share of equal pixels among those that differ from the commonest colour in either; 0 where too few do."""
    if one.shape != other.shape:
        return 0.0
    first, second = _flat(one), _flat(other)
    equal = (first == second).all(axis=1)
    if not equal.any():
        return 0.0
    stands_out = (first != _commonest(first)).any(axis=1) | (second != _commonest(second)).any(axis=1)
    count = int(stands_out.sum())
    if count < need:
        return float(equal.mean()) if need <= 12 else 0.0
    return float(equal[stands_out].mean())


def _flat(pixels: Array) -> Array:
    return pixels.reshape(pixels.shape[0] * pixels.shape[1], -1)


def _commonest(flat: Array) -> Array:
    common: Array = np.median(flat, axis=0).astype(flat.dtype)
    return common


def _turned(pixels: Array) -> list[Array]:
    turned = [pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]
    if pixels.shape[0] == pixels.shape[1]:
        square = pixels.swapaxes(0, 1)
        turned += [square, square[::-1], square[:, ::-1], square[::-1, ::-1]]
    return turned


def _channels(pixels: Array) -> Iterator[Array]:
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        yield pixels[..., :3].mean(axis=2)
        yield from (pixels[..., index] for index in range(3))


def _grey(pixels: Array) -> Array:
    values: Array = pixels.astype(np.float64)
    if values.ndim == 2:
        return values
    return values[..., :3] @ _LUMA if values.shape[2] >= 3 else values[..., 0]


def _levels(source: Array) -> Array:
    """Each pixel's value as one of at most 64 levels that hold about the same number of pixels."""
    count = max(2, min(64, source.size // 16))
    ordered = np.sort(source, axis=None)
    bounds = np.unique(ordered[len(ordered) * np.arange(1, count) // count])
    levels: Array = np.searchsorted(bounds, source, side="right")
    return levels


def _unexplained(levels: Array, target: Array) -> float:
    """Variance of `target` that is left when the level is known."""
    bins, values = levels.ravel(), target.ravel()
    counts = np.bincount(bins, minlength=64)
    sums = np.bincount(bins, values, minlength=64)
    within = float(values @ values - (sums * sums / np.maximum(counts, 1)).sum())
    return within / max(1, len(values) - int((counts > 0).sum()))
