"""The six ways an image can lie, and the strings that could be misread when it does.

An `Orientation` names what was done to the upright image. Applying its `inverse` puts it right again;
all six are exact pixel permutations.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_T = Image.Transpose


class Orientation(StrEnum):
    """What was done to the upright image. Rotations are counter-clockwise, as in Pillow's `ROTATE_90`."""

    UPRIGHT = "upright"
    ROT90 = "rot90"
    ROT180 = "rot180"
    ROT270 = "rot270"
    FLIP_H = "flip-h"
    FLIP_V = "flip-v"

    @property
    def inverse(self) -> Orientation:
        """The orientation whose operation puts this one upright again."""
        return {Orientation.ROT90: Orientation.ROT270, Orientation.ROT270: Orientation.ROT90}.get(self, self)

    @property
    def swaps_axes(self) -> bool:
        """Whether width and height change places."""
        return self in (Orientation.ROT90, Orientation.ROT270)

    def apply(self, image: Image.Image) -> Image.Image:
        """`image` (upright) as it lies in this orientation."""
        operation = _TRANSPOSES[self]
        return image if operation is None else image.transpose(operation)

    def apply_to_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same for an array (h, w, 3), faster; for UPRIGHT the array itself."""
        import cv2

        if self is Orientation.UPRIGHT:
            return pixels
        if self in (Orientation.FLIP_H, Orientation.FLIP_V):
            moved = cv2.flip(pixels, 1 if self is Orientation.FLIP_H else 0)
        else:
            turns = (Orientation.ROT270, Orientation.ROT180, Orientation.ROT90)  # OpenCV counts clockwise
            moved = cv2.rotate(pixels, turns.index(self))
        return np.asarray(moved, dtype=np.uint8)

    def apply_to_box(
        self, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        """Where a box (left, top, right, bottom; px) of an upright image of `size` (w, h) comes to lie."""
        (x0, y0, x1, y1), (w, h) = box, size
        return {
            Orientation.UPRIGHT: (x0, y0, x1, y1),
            Orientation.ROT90: (y0, w - x1, y1, w - x0),
            Orientation.ROT180: (w - x1, h - y1, w - x0, h - y0),
            Orientation.ROT270: (h - y1, x0, h - y0, x1),
            Orientation.FLIP_H: (w - x1, y0, w - x0, y1),
            Orientation.FLIP_V: (x0, h - y1, x1, h - y0),
        }[self]


_TRANSPOSES: dict[Orientation, Image.Transpose | None] = {
    Orientation.UPRIGHT: None,
    Orientation.ROT90: _T.ROTATE_90,
    Orientation.ROT180: _T.ROTATE_180,
    Orientation.ROT270: _T.ROTATE_270,
    Orientation.FLIP_H: _T.FLIP_LEFT_RIGHT,
    Orientation.FLIP_V: _T.FLIP_TOP_BOTTOM,
}

# Characters that still read as some character (their own or another) after the operation. Generous on
# purpose: S and Z count as each other's mirror image, 2 as 5's, E as 3's, L as J's, and so on.
_LEGIBLE_WHEN = {
    Orientation.ROT180: set("HINOSXZ01568925MWL7EUVA"),
    Orientation.FLIP_H: set("AHIMOTUVWXY018SZ25E3LJN"),
    Orientation.FLIP_V: set("BCDEHIKOX0138SZ25MWNAVUQ"),
}


def is_ambiguous(text: str) -> bool:
    """Whether `text` reads as some string (the same or another) when turned round or mirrored.

    Such strings have no single right answer once the orientation is unknown, so they are never drawn.
    """
    return any(set(text) <= legible for legible in _LEGIBLE_WHEN.values())
