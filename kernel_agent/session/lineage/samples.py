"""Does one picture show what another shows, pixel by pixel? Judged on at most 48x48 sampled pixels of each.

Guarantees: a picture and a turned, shifted or swapped version of it do not pass, as long as the picture itself is not
symmetric. Pixel-wise changes (brightness, gamma, inversion, threshold, one channel, drawing on less than about a third
of what is there) pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
GRID = 48


@lru_cache(maxsize=256)
def grid(length: int, points: int) -> Array:
    """The middles of `points` equal parts (fewer in short sides), as Pillow's NEAREST resize takes them."""
    count = min(length, points)
    return ((np.arange(count) + 0.5) * length / count).astype(np.intp)


def sample(array: Array) -> Array:
    """A copy of the pixels at the grid."""
    picked: Array = array[grid(array.shape[0], GRID)[:, None], grid(array.shape[1], GRID)]
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


def alike(one: Array, other: Array) -> bool:
    """Whether `other` is a function of `one`, pixel by pixel, and of no mirrored reading of it as well."""
    if one.shape[:2] != other.shape[:2] or one.shape[0] * one.shape[1] < 64:
        return False
    grey = _grey(other)
    if not np.isfinite(grey).all():
        return False
    target = _levels(grey).astype(np.float64)  # ranks: a few very bright pixels must not decide
    spread = float(target.var())
    if spread <= 1e-9:
        return False
    for number, channel in enumerate(_channels(one)):
        levels = _levels(channel)
        unexplained = _unexplained(levels, target) / spread
        if number == 0 and unexplained > 0.7:
            return False  # not even roughly; saves looking at each channel
        if unexplained <= 0.12:
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


def _grey(pixels: Array) -> Array:
    values: Array = pixels.astype(np.float64)
    return values[..., :3].mean(axis=2) if values.ndim == 3 else values


def _channels(pixels: Array) -> Iterator[Array]:
    yield _grey(pixels)
    if pixels.ndim == 3:
        yield from (pixels[..., index].astype(np.float64) for index in range(min(3, pixels.shape[2])))


def _levels(source: Array) -> Array:
    """Each pixel's value as one of 32 levels that hold about the same number of pixels."""
    ordered = np.sort(source, axis=None)
    bounds = np.unique(ordered[len(ordered) * np.arange(1, 32) // 32])
    levels: Array = np.searchsorted(bounds, source, side="right")
    return levels


def _unexplained(levels: Array, target: Array) -> float:
    """Variance of `target` that is left when the level is known."""
    bins, values = levels.ravel(), target.ravel()
    counts = np.bincount(bins, minlength=32).astype(np.float64)
    sums = np.bincount(bins, values, minlength=32)
    within = float(values @ values - (sums * sums / np.maximum(counts, 1)).sum())
    return within / max(1.0, len(values) - float((counts > 0).sum()))
