"""Backgrounds, and putting a flat sheet (a receipt, a sign, a label) into them in perspective.

Outlines and boxes of what is on the sheet are carried into the scene by the same matrix that carries its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from kernel_agent.tasks.canvas import Canvas, Colour, Pixels
from kernel_agent.types import Size

Quad = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
"""Corners: top left, top right, bottom right, bottom left, as the sheet names them."""


def surface(rng: np.random.Generator, size: Size) -> Pixels:
    """A table top, cloth or floor of `size`: boards, speckles or plain."""
    width, height = size
    base = np.asarray(_SURFACES[int(rng.integers(len(_SURFACES)))], dtype=np.float32)
    style = rng.random()
    if style < 0.5:  # wood: noise drawn out along the grain
        coarse = rng.normal(0, 1, (max(4, height // 5), 6)).astype(np.float32)
        depth = 16.0
    elif style < 0.8:  # cloth, stone
        coarse = rng.normal(0, 1, (max(4, height // 4), max(4, width // 4))).astype(np.float32)
        depth = 9.0
    else:
        coarse = rng.normal(0, 1, (4, 4)).astype(np.float32)
        depth = 8.0
    shade = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR) * depth + 128, 0, 255)
    grey = shade.astype(np.uint8)
    ramp = (np.arange(256, dtype=np.float32)[:, None] - 128 + base).clip(0, 255).astype(np.uint8)
    pixels = np.asarray(cv2.LUT(cv2.merge([grey] * 3), ramp.reshape(1, 256, 3)), dtype=np.uint8)
    if style < 0.5:
        for y in np.cumsum(rng.integers(120, 320, 12)):
            if y < height:
                cv2.line(pixels, (0, int(y)), (width, int(y)), tuple(float(c) * 0.55 for c in base), 2)
    return pixels


_SURFACES: Sequence[Colour] = (
    (120, 84, 58),
    (158, 118, 82),
    (88, 64, 50),
    (70, 74, 82),
    (132, 134, 138),
    (186, 178, 164),
    (60, 72, 96),
    (96, 110, 92),
    (150, 90, 84),
)


def leaning(rng: np.random.Generator, box: tuple[float, float, float, float], lean: float, turn: float) -> Quad:
    """The corners of `box` turned by up to `turn` degrees and each moved by up to `lean` of its sides."""
    x0, y0, x1, y1 = box
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    angle = np.radians(rng.uniform(-turn, turn))
    spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    points += rng.uniform(-lean, lean, (4, 2)) * [x1 - x0, y1 - y0]
    points = (points - middle) @ spin.T + middle
    a, b, c, d = ((float(p[0]), float(p[1])) for p in points)
    return a, b, c, d


def place(
    scene: Canvas, sheet: Canvas, quad: Quad, *, shadow: int = 0, shape: Pixels | None = None
) -> NDArray[np.float64]:
    """Put `sheet` into `scene` with its corners at `quad`; the 3x3 matrix from the sheet's frame to the scene's.

    `shadow` is how far it stands off, in pixels; `shape` is a mask (h, w) of the sheet that is not rectangular. The text on the
    sheet becomes part of the scene's annotation.
    """
    width, height = sheet.size
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    target = np.asarray(quad, dtype=np.float32)
    matrix = np.asarray(cv2.getPerspectiveTransform(source, target), dtype=np.float64)
    left, top = (max(0, int(v) - 2) for v in target.min(axis=0))
    right = min(scene.size[0], int(target[:, 0].max()) + shadow + 3)
    bottom = min(scene.size[1], int(target[:, 1].max()) + shadow + 3)
    shift = np.array([[1, 0, -left - 0.5], [0, 1, -top - 0.5], [0, 0, 1]])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    local = shift @ matrix @ half
    size = (right - left, bottom - top)
    mask = np.full((height, width), 255, np.uint8) if shape is None else shape
    shrunk = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    pixels = sheet.pixels
    if shrunk < 0.75:  # else small text would be torn by sampling between its strokes
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.35 / shrunk), dtype=np.uint8)
    warped = cv2.warpPerspective(pixels, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpPerspective(mask, local, size, flags=cv2.INTER_LINEAR)
    region = scene.pixels[top:bottom, left:right]
    if shadow:
        moved = np.zeros_like(alpha)
        moved[shadow:, shadow:] = alpha[:-shadow, :-shadow]
        dark = 255 - cv2.blur(moved, (2 * shadow + 1, 2 * shadow + 1)) // 2
        region[:] = cv2.multiply(region, cv2.merge([dark] * 3), scale=1 / 255)
    cover = cv2.merge([alpha] * 3)
    region[:] = cv2.add(
        cv2.multiply(region, cv2.bitwise_not(cover), scale=1 / 255), cv2.multiply(warped, cover, scale=1 / 255)
    )
    scene.take(sheet.annotation().mapped(matrix, scene.size))
    return matrix
