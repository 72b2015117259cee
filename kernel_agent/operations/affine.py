"""What an affine map does, in words: which of the eight orientations, which angle, which scales, which part.

A map takes points of a picture to points of the one it was made from (`types.Affine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernel_agent.operations.values import ORIENTATIONS, Applied
from kernel_agent.session.lineage.affine import compose, dihedral, invert, shift
from kernel_agent.trajectory.geometry import IDENTITY, apply
from kernel_agent.types import Affine, Box, Size

__all__ = ["IDENTITY", "Parts", "apply", "compose", "invert", "orientation_map", "parts", "shift"]

_LEVEL = math.radians(0.4)
"""A smaller angle moves no point of a picture of 300 pixels by more than one."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A map taken apart: turned by one of the eight, then by `angle` (radians), and scaled (source pixels a pixel)."""

    orientation: Applied | None
    angle: float
    scale: tuple[float, float]

    @property
    def free(self) -> bool:
        """Whether it is turned by other than a right angle."""
        return abs(self.angle) > _LEVEL


def orientation_map(orientation: Applied | None, size: Size) -> Affine:
    """From a picture that was turned so, back to the one of `size` that it was made from."""
    return IDENTITY if orientation is None else dihedral(*size)[ORIENTATIONS.index(orientation)]


def parts(affine: Affine) -> Parts | None:
    """None for a map that loses a dimension, or that shears by more than free rotation and uneven scales explain."""
    a, b, _, d, e, _ = affine
    first, second = math.hypot(a, d), math.hypot(b, e)
    if first < 1e-6 or second < 1e-6:
        return None
    best: tuple[float, Applied | None, float] | None = None
    for orientation in (None, *ORIENTATIONS):
        p, q, _, r, s, _ = orientation_map(orientation, (0, 0))
        # both columns turned back by this orientation's inverse (its transpose): near the unit matrix where it fits
        x, y = (p * a + r * d) / first, (q * a + s * d) / first
        u, v = (p * b + r * e) / second, (q * b + s * e) / second
        off = (x - 1) ** 2 + y**2 + u**2 + (v - 1) ** 2
        if best is None or off < best[0]:
            best = (off, orientation, math.atan2(y, x))
    assert best is not None
    if abs(a * b + d * e) / (first * second) > 0.1:
        return None
    return Parts(orientation=best[1], angle=best[2], scale=(first, second))


def covered(affine: Affine, size: Size, parent: Size) -> tuple[Box, float]:
    """The box of the parent that a picture of `size` shows, clipped, and the share of the picture that lies in it."""
    left, top, right, bottom = apply(affine, (0.0, 0.0, float(size[0]), float(size[1])))
    box = (max(0.0, left), max(0.0, top), min(float(parent[0]), right), min(float(parent[1]), bottom))
    area = (right - left) * (bottom - top)
    inside = max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
    return box, inside / area if area > 0 else 0.0
