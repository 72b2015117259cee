"""Marks: what is known of one object. On Pillow images as an attribute, for arrays by their memory.

An array is found again through the ndarray that owns its memory: each known array is a frame in that memory, and any
view lies in it at an offset and with strides that give its affine exactly. Arrays can be changed in place unseen, so a
frame keeps some sampled pixels; where most of those under the view changed into something unrelated, it counts no more.
"""

from __future__ import annotations

import functools
import weakref
from collections import deque
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kernel_agent.session.lineage import affine as af
from kernel_agent.session.lineage.affine import Affine, compose
from kernel_agent.session.lineage.samples import GRID, grid, sample, still_shows

Array = np.ndarray[Any, Any]
KEY = "_kernel_agent_origin"
_MAX_FRAMES = 8


class Mark(NamedTuple):
    """This object lies at `affine` in image number `image`; `covered` is the share of it that was painted over."""

    image: int
    affine: Affine
    covered: float = 0.0

    def then(self, inner: Affine) -> Mark:
        """The mark of what was made of this object by `inner`."""
        return self._replace(affine=compose(self.affine, inner))


BLANK = Mark(-1, af.IDENTITY)
"""An empty canvas: shows nothing yet, takes over the mark of what is pasted into it."""

UNKNOWN = Mark(-2, af.IDENTITY)
"""Looked for and not found."""


class Frame(NamedTuple):
    """A known array in its owner's memory, turned so that both strides are positive and rows are the larger."""

    address: int
    height: int
    width: int
    row: int
    column: int
    itemsize: int
    mark: Mark
    samples: Array
    picture: dict[str, Any]  # the array interface of the normalised picture
    owned: tuple[int, int]  # address and size of the owner's memory when noted


class Trace(NamedTuple):
    """What is kept of a known array for a while after it is gone: its size, some pixels and its mark."""

    height: int
    width: int
    samples: Array
    mark: Mark


traces: deque[Trace] = deque(maxlen=64)

_owners: dict[int, tuple[weakref.ref[Array], list[Frame]]] = {}


def mark_of_pil(image: Image.Image) -> Mark | None:
    """The mark as noted, BLANK and UNKNOWN included; None where nobody looked yet."""
    mark: Mark | None = image.__dict__.get(KEY)
    return mark


def note_pil(image: Image.Image, mark: Mark) -> None:
    """Set an image's mark."""
    image.__dict__[KEY] = mark


def is_image(array: Array) -> bool:
    """Whether an array has the shape of a picture."""
    shape = array.shape
    return len(shape) in (2, 3) and shape[0] > 1 and shape[1] > 1 and (len(shape) == 2 or 1 <= shape[2] <= 4)


def note_array(array: Array, mark: Mark) -> None:
    """Set an array's mark. Nothing happens for what is no picture or not laid out like one."""
    if mark.image < 0 or not is_image(array):
        return
    owner = _owner(array)
    height, width = array.shape[:2]
    row, column = array.strides[:2]
    address = _address(array)
    pixels = array
    affine = mark.affine
    for axis, stride in ((0, row), (1, column)):
        if stride < 0:
            turned = af.dihedral(width, height)[af.FLIP_LEFT_RIGHT if axis else af.FLIP_TOP_BOTTOM]
            affine = compose(affine, turned)
            address += stride * ((width if axis else height) - 1)
            pixels = pixels[:, ::-1] if axis else pixels[::-1]
    row, column = abs(row), abs(column)
    if column > row:
        affine = compose(affine, af.dihedral(width, height)[af.TRANSPOSE])
        pixels = pixels.swapaxes(0, 1)
        height, width, row, column = width, height, column, row
    if not column or row < width * column:
        return
    picture = {"version": 3, **pixels.__array_interface__, "strides": pixels.strides}
    owned = (_address(owner), owner.nbytes)
    placed = mark._replace(affine=affine)
    frame = Frame(address, height, width, row, column, array.itemsize, placed, sample(pixels), picture, owned)
    traces.append(Trace(height, width, frame.samples, placed))
    key = id(owner)
    known = _owners.get(key)
    if known is not None and known[0]() is owner:
        known[1].insert(0, frame)
        del known[1][_MAX_FRAMES:]
    else:
        _owners[key] = (weakref.ref(owner, functools.partial(_forget, key)), [frame])


def _forget(key: int, reference: weakref.ref[Array]) -> None:
    known = _owners.get(key)
    if known is not None and known[0] is reference:  # the id may have been taken by another array since
        del _owners[key]


def mark_of_array(array: Array) -> Mark | None:
    """The mark of an array whose memory is known; None where it is not, or where other pixels stand there now."""
    known = _owners.get(id(owner := _owner(array)))
    if known is None or known[0]() is not owner or not is_image(array):
        return None
    for frame in known[1]:
        place = _place(frame, array)
        if place is None:
            continue
        affine, rows, columns = place
        now = _rebuild(frame, owner)
        return frame.mark.then(affine) if now is not None and _intact(frame, now, rows, columns) else None
    return None


def _intact(frame: Frame, now: Array, rows: tuple[int, int], columns: tuple[int, int]) -> bool:
    before, after = frame.samples, sample(now)
    if before.tobytes() == after.tobytes():
        return True
    points_y, points_x = grid(frame.height, GRID), grid(frame.width, GRID)
    inside_y = (points_y >= rows[0]) & (points_y <= rows[1])
    inside_x = (points_x >= columns[0]) & (points_x <= columns[1])
    if inside_y.sum() * inside_x.sum() >= 12:
        before, after = before[inside_y][:, inside_x], after[inside_y][:, inside_x]
    return still_shows(before, after)


def known_arrays(limit: int) -> list[tuple[Array, Mark]]:
    """The latest arrays that carry a mark and are still alive, as arrays."""
    found = []
    for reference, frames in list(_owners.values())[-limit:]:
        owner = reference()
        frame = frames[0]
        now = _rebuild(frame, owner) if owner is not None else None
        if now is not None and _intact(frame, now, (0, frame.height), (0, frame.width)):
            found.append((now, frame.mark))
    return found


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


class _Memory:
    """Lets NumPy look at a frame's memory, and keeps its owner alive while it does."""

    def __init__(self, picture: dict[str, Any], owner: Array) -> None:
        self.__array_interface__ = picture
        self.owner = owner


def _rebuild(frame: Frame, owner: Array) -> Array | None:
    if frame.owned != (_address(owner), owner.nbytes):
        return None  # ndarray.resize moved it
    return np.asarray(_Memory(frame.picture, owner))


def _place(frame: Frame, array: Array) -> tuple[Affine, tuple[int, int], tuple[int, int]] | None:
    """Where a view lies in a frame: the affine, and the first and last row and column it touches."""
    if array.itemsize != frame.itemsize:
        return None
    offset = _address(array) - frame.address
    top, rest = divmod(offset, frame.row)
    left = rest // frame.column
    if array.ndim == 3 and array.shape[2] > 1 and abs(array.strides[2]) * (array.shape[2] - 1) >= frame.column:
        return None
    steps = []
    for axis in (0, 1):
        stride = array.strides[axis]
        if stride % frame.row == 0:
            steps.append((stride // frame.row, 0))
        elif stride % frame.column == 0:
            steps.append((0, stride // frame.column))
        else:
            return None
    (down_y, down_x), (along_y, along_x) = steps
    if (down_y == 0) == (along_y == 0) or (down_x == 0) == (along_x == 0):
        return None
    height, width = array.shape[0] - 1, array.shape[1] - 1
    last_y, last_x = top + height * down_y + width * along_y, left + height * down_x + width * along_x
    rows, columns = (min(top, last_y), max(top, last_y)), (min(left, last_x), max(left, last_x))
    if rows[0] < 0 or rows[1] >= frame.height or columns[0] < 0 or columns[1] >= frame.width:
        return None
    return af.from_pixel_centres((along_x, down_x, left, along_y, down_y, top)), rows, columns
