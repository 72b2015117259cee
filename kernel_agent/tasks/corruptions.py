"""Damage to pictures beyond the paper's five orientations: skew, perspective, blur, noise, JPEG, dark, pale, covered.

`apply` is a function of the picture and the `Corruption` alone: kind, severity 1 to 5, seed. A geometric one carries a 3x3
matrix, so that boxes and outlines go where their pixels go, and back; the others leave every pixel at its place. Orientations
stay in `orientation`: they are exact permutations of pixels, and these are not.

Severities were set by eye on pages of text: at 1 nobody is troubled, at 5 a person needs a second look. What is
not guaranteed: that the answer is still legible; `occlusion` keeps clear of a box it is told to keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kernel_agent.tasks.annotation import Vertices, bounding_box, corners, map_points
from kernel_agent.tasks.canvas import Pixels
from kernel_agent.tasks.ground_truth import Corruption, CorruptionKind
from kernel_agent.types import Box, Size

_SKEW = (2.0, 4.0, 7.0, 12.0, 20.0)  # most degrees; at least half of it
_PERSPECTIVE = (0.02, 0.04, 0.07, 0.11, 0.16)  # of the sides
_BLUR = (0.6, 1.0, 1.6, 2.4, 3.4)  # sigma, px
_NOISE = (5.0, 10.0, 18.0, 28.0, 42.0)  # standard deviation of 255
_JPEG = (60, 40, 25, 15, 8)  # quality
_LIGHT = (0.7, 0.5, 0.35, 0.22, 0.13)  # of the brightness
_CONTRAST = (0.75, 0.55, 0.38, 0.25, 0.15)
_OCCLUSION = (0.02, 0.05, 0.09, 0.14, 0.2)  # of the area


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """A damaged picture. `matrix` takes points of the picture before to points of this one; the identity where nothing moved."""

    image: Image.Image
    matrix: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))

    def to_shown(self, outline: Vertices) -> Vertices:
        """Where an outline of the picture before comes to lie."""
        return map_points(self.matrix, outline)

    def to_original(self, outline: Vertices) -> Vertices:
        """Where an outline of this picture lay before."""
        return map_points(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64), outline)

    def box(self, box: Box) -> Box:
        """The smallest upright box around where `box` comes to lie."""
        return bounding_box(self.to_shown(corners(box)))


def apply(image: Image.Image, corruption: Corruption, *, keep: Box | None = None) -> Corrupted:
    """`image` (any mode; the result is RGB) damaged. `keep` is a box that occlusion stays clear of."""
    rng = np.random.default_rng([corruption.seed, list(CorruptionKind).index(corruption.kind), corruption.severity])
    pixels = np.array(image.convert("RGB"))
    level = corruption.severity - 1
    if corruption.kind in (CorruptionKind.SKEW, CorruptionKind.PERSPECTIVE):
        move = _skew if corruption.kind is CorruptionKind.SKEW else _perspective
        matrix, size = move(rng, image.size, level)
        return Corrupted(image=Image.fromarray(_warped(pixels, matrix, size)), matrix=matrix)
    if corruption.kind is CorruptionKind.BLUR:
        out = _blur(rng, pixels, level)
    elif corruption.kind is CorruptionKind.NOISE:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32) * _NOISE[level]
        out = _clipped(pixels + noise)
    elif corruption.kind is CorruptionKind.JPEG:
        _, packed = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG[level]])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)[:, :, ::-1]
    elif corruption.kind is CorruptionKind.LOW_LIGHT:
        grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32)[:, :, None] * (1.5 + level)
        out = _clipped(pixels * _LIGHT[level] + grain)
    elif corruption.kind is CorruptionKind.LOW_CONTRAST:
        middle = float(rng.uniform(90, 180))
        out = _clipped((pixels - middle) * _CONTRAST[level] + middle)
    else:
        out = _occluded(rng, pixels, level, keep)
    return Corrupted(image=Image.fromarray(np.ascontiguousarray(out)))


def _clipped(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(np.round(values), 0, 255), dtype=np.uint8)


def _skew(rng: np.random.Generator, size: Size, level: int) -> tuple[NDArray[np.float64], Size]:
    """A turn about the middle, on a canvas large enough for all of it."""
    w, h = size
    degrees = float(rng.uniform(0.5, 1.0) * _SKEW[level] * rng.choice([-1, 1]))
    turn = np.vstack([cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0), [0.0, 0.0, 1.0]])
    x0, y0, x1, y1 = bounding_box(map_points(turn, corners((0, 0, w, h))))
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], dtype=np.float64)
    return shift @ turn, (int(np.ceil(x1 - x0)), int(np.ceil(y1 - y0)))


def _perspective(rng: np.random.Generator, size: Size, level: int) -> tuple[NDArray[np.float64], Size]:
    """Each corner moved inwards, one at least by nearly the most."""
    w, h = size
    inward = rng.uniform(0, 1, (4, 2))
    inward[int(rng.integers(4))] = rng.uniform(0.8, 1, 2)
    directions = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    source = np.array([[0, 0], [w, 0], [w, h], [0, h]], dtype=np.float32)
    target = source + (inward * directions * _PERSPECTIVE[level] * [w, h]).astype(np.float32)
    return np.asarray(cv2.getPerspectiveTransform(source, target), dtype=np.float64), size


def _warped(pixels: Pixels, matrix: NDArray[np.float64], size: Size) -> Pixels:
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from the middle of the first pixel
    centred = np.linalg.inv(half) @ matrix @ half
    border = np.median(pixels[[0, -1]].reshape(-1, 3), axis=0)
    out = cv2.warpPerspective(pixels, centred, size, flags=cv2.INTER_CUBIC, borderValue=tuple(float(v) for v in border))
    return np.asarray(out, dtype=np.uint8)


def _blur(rng: np.random.Generator, pixels: Pixels, level: int) -> Pixels:
    """Out of focus, or a movement in a random direction."""
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), _BLUR[level]), dtype=np.uint8)
    length = 2 * round(_BLUR[level] * 1.7) + 1
    kernel = np.zeros((length, length), np.float32)
    angle, reach = rng.uniform(0, np.pi), length / 2 - 0.5
    dx, dy = np.cos(angle) * reach, np.sin(angle) * reach
    middle = length // 2
    cv2.line(kernel, (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy)), 1.0)
    return np.asarray(cv2.filter2D(pixels, -1, kernel / kernel.sum()), dtype=np.uint8)


def _occluded(rng: np.random.Generator, pixels: Pixels, level: int, keep: Box | None) -> Pixels:
    """Two to four blots and strips; those that would touch `keep` are drawn anew, or left out after 40 tries."""
    out = pixels.copy()
    height, width = out.shape[:2]
    count = int(rng.integers(2, 5))
    side = np.sqrt(_OCCLUSION[level] / count * width * height)
    for _ in range(count):
        for _ in range(40):
            stretch = np.exp(rng.uniform(-0.8, 0.8))
            w, h = min(side * stretch, width * 0.9), min(side / stretch, height * 0.9)
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            if keep is None or x + w <= keep[0] - 2 or x >= keep[2] + 2 or y + h <= keep[1] - 2 or y >= keep[3] + 2:
                colour = tuple(float(c) for c in rng.integers(20, 220, 3))
                if rng.random() < 0.5:
                    cv2.rectangle(out, (int(x), int(y)), (int(x + w) - 1, int(y + h) - 1), colour, -1)
                else:
                    middle = (int(x + w / 2), int(y + h / 2))
                    cv2.ellipse(out, middle, (int(w / 2) - 1, int(h / 2) - 1), 0, 0, 360, colour, -1)
                break
    return out
