"""2x3 affines as six floats: (x, y) -> (a x + b y + c, d x + e y + f). All map a result's points to its source's."""

from __future__ import annotations

from collections.abc import Sequence

Affine = tuple[float, float, float, float, float, float]

IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def compose(outer: Affine, inner: Affine) -> Affine:
    """First `inner`, then `outer`."""
    a, b, c, d, e, f = outer
    g, h, i, j, k, m = inner
    return (a * g + b * j, a * h + b * k, a * i + b * m + c, d * g + e * j, d * h + e * k, d * i + e * m + f)


def invert(affine: Affine) -> Affine | None:
    """The affine back, or None where there is none."""
    a, b, c, d, e, f = affine
    det = a * e - b * d
    if abs(det) < 1e-12:
        return None
    return (e / det, -b / det, (b * f - e * c) / det, -d / det, a / det, (d * c - a * f) / det)


def shift(x: float, y: float) -> Affine:
    """Move by (x, y): the source of a crop at (x, y)."""
    return (1.0, 0.0, float(x), 0.0, 1.0, float(y))


def scale(x: float, y: float, left: float = 0.0, top: float = 0.0) -> Affine:
    """Stretch, then move."""
    return (float(x), 0.0, float(left), 0.0, float(y), float(top))


def from_pixel_centres(affine: Sequence[float]) -> Affine:
    """Of an affine between pixel indices (OpenCV, NumPy), the one between continuous coordinates."""
    a, b, c, d, e, f = (float(value) for value in affine)
    return (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)


def dihedral(width: int, height: int) -> tuple[Affine, ...]:
    """What Pillow's Transpose methods 0..6 do to an image of this size; as an eighth, nothing."""
    w, h = float(width), float(height)
    return (
        (-1.0, 0.0, w, 0.0, 1.0, 0.0),  # FLIP_LEFT_RIGHT
        (1.0, 0.0, 0.0, 0.0, -1.0, h),  # FLIP_TOP_BOTTOM
        (0.0, -1.0, w, 1.0, 0.0, 0.0),  # ROTATE_90
        (-1.0, 0.0, w, 0.0, -1.0, h),  # ROTATE_180
        (0.0, 1.0, 0.0, -1.0, 0.0, h),  # ROTATE_270
        (0.0, 1.0, 0.0, 1.0, 0.0, 0.0),  # TRANSPOSE
        (0.0, -1.0, w, -1.0, 0.0, h),  # TRANSVERSE
        IDENTITY,
    )


FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, ROTATE_90, ROTATE_180, ROTATE_270, TRANSPOSE, TRANSVERSE, UNCHANGED = range(8)


def close(one: Affine, other: Affine) -> bool:
    """Whether both are the same but for rounding."""
    return all(abs(p - q) <= 1e-6 * max(1.0, abs(p)) for p, q in zip(one, other, strict=True))
