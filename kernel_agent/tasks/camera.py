"""What a scanner or a camera does to a clean drawing: tint, uneven light, a slight tilt, blur, grain.

Not a model of any device. Only `tilted` moves anything, and it gives the matrix with which.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from kernel_agent.tasks.canvas import Colour, Pixels

_TILE = 512


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.int8]:
    """Gaussian noise of standard deviation 24, always the same; made twice as wide so that any window can be cut out."""
    tile = np.random.default_rng(0).standard_normal((_TILE, _TILE)) * 24
    return np.tile(np.clip(tile, -127, 127).astype(np.int8), (2, 2))


def grain(rng: np.random.Generator, pixels: Pixels, sigma: float) -> Pixels:
    """Add grey noise of standard deviation `sigma`, in place."""
    tile = _grain()
    y, x = (int(v) for v in rng.integers(0, _TILE, 2))
    window = np.ascontiguousarray(tile[y : y + _TILE, x : x + _TILE]).astype(np.float32) * (sigma / 24)
    brighter, darker = np.clip(window, 0, 255).astype(np.uint8), np.clip(-window, 0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            part = pixels[top : top + _TILE, left : left + _TILE]
            h, w = part.shape[:2]
            part[:] = cv2.subtract(cv2.add(part, cv2.merge([brighter[:h, :w]] * 3)), cv2.merge([darker[:h, :w]] * 3))
    return pixels


def light(rng: np.random.Generator, pixels: Pixels, depth: float) -> Pixels:
    """Uneven light: the darkest place keeps 1 - `depth` of its brightness."""
    height, width = pixels.shape[:2]
    coarse = rng.random((3, 3)).astype(np.float32)
    coarse = (coarse - coarse.min()) / max(float(np.ptp(coarse)), 1e-6)
    gain = cv2.resize(((1 - depth * coarse) * 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.multiply(pixels, cv2.merge([gain] * 3), scale=1 / 255), dtype=np.uint8)


def tint(pixels: Pixels, colour: Colour) -> Pixels:
    """Paper of that colour: white becomes `colour`, black stays."""
    table = (np.arange(256, dtype=np.float32)[:, None] * (np.asarray(colour, np.float32) / 255)).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table.reshape(1, 256, 3)), dtype=np.uint8)


def soft(rng: np.random.Generator, pixels: Pixels, least: float, most: float) -> Pixels:
    """Blur of a lens slightly out of focus; `least` and `most` are sigmas in pixels."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(least, most))), dtype=np.uint8)


def tilted(pixels: Pixels, degrees: float, border: Colour) -> tuple[Pixels, NDArray[np.float64]]:
    """Turned about the middle on a canvas of the same size, and the 3x3 matrix that maps points."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(pixels, _centred(np.vstack([matrix, [0, 0, 1]]))[:2], (width, height), borderValue=border)
    return np.asarray(turned, dtype=np.uint8), np.vstack([matrix, [0.0, 0.0, 1.0]])


def _centred(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map between pixel centres: OpenCV counts from the middle of the first pixel, boxes from its corner."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    return np.asarray(back @ matrix @ half, dtype=np.float64)
