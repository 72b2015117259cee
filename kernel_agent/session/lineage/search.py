"""The place of a picture within another: exact, in one of eight orientations, and only if it is the only one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from kernel_agent.session.lineage import affine as af
from kernel_agent.session.lineage.affine import compose, dihedral, shift

Array = np.ndarray[Any, Any]
MIN_SIDE = 8


def without_border(pixels: Array) -> tuple[Array, int, int]:
    """Take off what surrounds a picture in one colour; returns what is left and where it was (x, y)."""
    differs = (pixels != pixels[0, 0]).any(axis=2) if pixels.ndim == 3 else pixels != pixels[0, 0]
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows) or (len(rows) == pixels.shape[0] and len(columns) == pixels.shape[1]):
        return pixels, 0, 0
    top, left = int(rows[0]), int(columns[0])
    inner = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
    return (inner, left, top) if min(inner.shape[:2]) >= MIN_SIDE else (pixels, 0, 0)


def places(part: Array, whole: Array, source: Any, spend: Callable[[int], bool]) -> list[af.Affine] | None:
    """Where `part`, turned in eight ways, lies in `whole`: at most two affines. None where it would cost too much."""
    forms = _forms(part, whole, source)
    if forms is None:
        return []
    whole, readings = forms
    hay = whole.tobytes()
    found: list[af.Affine] = []
    for reading in readings:
        height, width = reading.shape[:2]
        for turn, turned in enumerate(turns(reading)):
            if turned.shape[0] > whole.shape[0] or turned.shape[1] > whole.shape[1]:
                continue
            if not spend(len(hay)):
                return None
            for x, y in _search(turned, whole, hay):
                back = af.invert(dihedral(width, height)[turn])
                assert back is not None
                found.append(compose(shift(x, y), back))
            if len(found) > 1:
                return found
        if found:
            break
    return found


def _forms(part: Array, whole: Array, source: Any) -> tuple[Array, list[Array]] | None:
    """The picture to search and the readings of the part (RGB, BGR) to look for, in the same mode."""
    deep = part.shape[2] if part.ndim == 3 else 1
    whole_deep = whole.shape[2] if whole.ndim == 3 else 1
    if deep == 4 and (part[..., 3] == 255).all() and whole_deep == 3:
        part, deep = part[..., :3], 3
    if deep == 3 and whole_deep == 4:
        whole, whole_deep = whole[..., :3], 3
    if deep == whole_deep:
        swapped = deep == 3 and not np.array_equal(part[..., 0], part[..., 2])
        return whole, [part, part[..., ::-1]] if swapped else [part]
    if deep == 1 and whole_deep >= 3 and isinstance(source, Image.Image):
        grey = np.frombuffer(source.convert("L").tobytes(), np.uint8).reshape(whole.shape[:2])
        return grey, [part]
    if deep == 3 and whole_deep == 1 and (part == part[..., :1]).all():
        return whole, [part[..., 0]]
    return None


def turns(pixels: Array) -> Iterator[Array]:
    """What Pillow's Transpose methods 0..6 give; as an eighth, the same."""
    upright = pixels.swapaxes(0, 1)
    yield from (pixels[:, ::-1], pixels[::-1], upright[::-1], pixels[::-1, ::-1])
    yield from (upright[:, ::-1], upright, upright[::-1, ::-1], pixels)


def _search(part: Array, whole: Array, hay: bytes) -> list[tuple[int, int]]:
    """At most two places where `part` is in `whole` exactly; none for a part too plain to be found for sure."""
    flat = part.reshape(part.shape[0], part.shape[1], -1)
    changes = (flat[:, 1:] != flat[:, :-1]).any(axis=2).sum(axis=1)
    row = int(changes.argmax())
    if changes[row] < 4 or int((changes > 0).sum()) < 2:
        return []
    needle = part[row].tobytes()
    height, width = part.shape[:2]
    pixel = flat.shape[2]
    found: list[tuple[int, int]] = []
    start = hay.find(needle)
    for _ in range(256):
        if start < 0:
            return found
        position, rest = divmod(start, pixel)
        y, x = divmod(position, whole.shape[1])
        y -= row
        inside = not rest and x + width <= whole.shape[1] and 0 <= y <= whole.shape[0] - height
        if inside and (whole[y : y + height, x : x + width] == part).all():
            found.append((x, y))
            if len(found) == 2:
                return found
        start = hay.find(needle, start + 1)
    return [(0, 0), (0, 0)]  # too many candidates: not for sure
