"""Drawn scenes: one short line of text, on a label or straight on a background.

Everything is a function of the random generator handed in, so a seed is a picture. Nothing here is a
model of any real camera: flat, graded, striped, blotchy and cluttered backgrounds, optional label,
noise, blur and JPEG damage.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kernel_agent.tasks import fonts
from kernel_agent.tasks.fonts import Face

MIN_GLYPH, MAX_GLYPH = 14, 80
"""Height of a capital letter in px."""
MAX_SIDE = 640
"""Longest side of a scene in px (longer only where the text itself asks for it)."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A drawn scene, upright. `pixels` is (h, w, 3) uint8 RGB; boxes are (left, top, right, bottom) in px."""

    pixels: NDArray[np.uint8]
    text: str
    text_box: Box
    glyph_boxes: tuple[Box, ...]
    glyph_height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """Coverage of the text (0..1, float32) with the ink box of each glyph in it."""

    mask: NDArray[np.float32]
    boxes: NDArray[np.float32]


def draw_scene(rng: np.random.Generator, text: str, face: Face, *, glyph_height: float, tight: bool = False) -> Scene:
    """Draws `text` in `face` with capitals of about `glyph_height` px.

    With `tight` the canvas ends near the text (for training on crops without drawing what is cut away).
    """
    line = _draw_line(rng, text, face, glyph_height)
    text_h, text_w = line.mask.shape
    if tight:
        left, right, top, bottom = (int(glyph_height * rng.uniform(0.5, 1.6)) for _ in range(4))
        width, height = text_w + left + right, text_h + top + bottom
    else:
        width, height = _canvas_size(rng, text_w, text_h, glyph_height)
        pad = 2
        left = int(rng.integers(pad, max(pad + 1, width - text_w - pad)))
        top = int(rng.integers(pad, max(pad + 1, height - text_h - pad)))
    pixels = _background(rng, width, height)
    ink_box = (
        left + float(line.boxes[:, 0].min()),
        top + float(line.boxes[:, 1].min()),
        left + float(line.boxes[:, 2].max()),
        top + float(line.boxes[:, 3].max()),
    )
    _clutter(rng, pixels, ink_box, glyph_height)
    if rng.random() < 0.6:
        _label(rng, pixels, ink_box, glyph_height)
    region = pixels[top : top + text_h, left : left + text_w]
    colour = _ink_colour(rng, region, line.mask)
    alpha = line.mask[:, :, None]
    region += (colour - region) * alpha
    finished = _camera(rng, pixels, glyph_height)
    boxes = line.boxes + np.array([left, top, left, top], dtype=np.float32)
    return Scene(
        pixels=finished,
        text=text,
        text_box=ink_box,
        glyph_boxes=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes),
        glyph_height=glyph_height,
    )


def _draw_line(rng: np.random.Generator, text: str, face: Face, glyph_height: float) -> _Line:
    font = fonts.load(face.path, max(8, round(glyph_height / face.cap_ratio)))
    tracking = glyph_height * (rng.uniform(0.0, 0.25) if rng.random() < 0.4 else rng.uniform(0.0, 0.06))
    pen = 0.0
    placed = []
    for character in text:
        mask, (dx, dy) = font.getmask2(character, mode="L", anchor="ls")
        bitmap = np.asarray(mask, dtype=np.uint8).reshape(mask.size[1], mask.size[0])
        placed.append((bitmap, round(pen) + int(dx), int(dy)))
        pen += font.getlength(character) + tracking
    x_min = min(x for _, x, _ in placed)
    y_min = min(y for _, _, y in placed)
    width = max(x + b.shape[1] for b, x, _ in placed) - x_min
    height = max(y + b.shape[0] for b, _, y in placed) - y_min
    pad = 2 + int(0.06 * width)
    canvas = np.zeros((height + 2 * pad, width + 2 * pad), dtype=np.uint8)
    boxes = np.zeros((len(text), 4), dtype=np.float32)
    for index, (bitmap, x, y) in enumerate(placed):
        x0, y0 = x - x_min + pad, y - y_min + pad
        target = canvas[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]]
        np.maximum(target, bitmap, out=target)
        boxes[index] = (x0, y0, x0 + bitmap.shape[1], y0 + bitmap.shape[0])
    if rng.random() < 0.3:
        canvas, boxes = _tilt(canvas, boxes, float(rng.uniform(-3.0, 3.0)))
    return _Line(mask=canvas.astype(np.float32) / 255.0, boxes=boxes)


def _tilt(
    canvas: NDArray[np.uint8], boxes: NDArray[np.float32], degrees: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    h, w = canvas.shape
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0)
    turned = cv2.warpAffine(canvas, matrix, (w, h), flags=cv2.INTER_LINEAR)
    centres = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, np.ones(len(boxes))])
    moved = (matrix @ centres).T
    half = np.stack([(boxes[:, 2] - boxes[:, 0]) / 2, (boxes[:, 3] - boxes[:, 1]) / 2], axis=1)
    out = np.concatenate([moved - half, moved + half], axis=1).astype(np.float32)
    return turned.astype(np.uint8), out


def _canvas_size(rng: np.random.Generator, text_w: int, text_h: int, glyph: float) -> tuple[int, int]:
    def side(content: int) -> int:
        least = content + 8
        most = max(least + 1, min(MAX_SIDE, int(content * 4 + 4 * glyph)))
        return int(rng.integers(least, most + 1))

    width, height = side(text_w), side(text_h)
    if max(width, height) > 3 * min(width, height):
        if width > height:
            height = width // 3
        else:
            width = height // 3
    return max(width, text_w + 8), max(height, text_h + 8)


def _colour(rng: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < 0.3:
        return np.full(3, rng.uniform(0, 255), dtype=np.float32)
    return rng.uniform(0, 255, 3).astype(np.float32)


def _background(rng: np.random.Generator, width: int, height: int) -> NDArray[np.float32]:
    base = _colour(rng)
    kind = rng.random()
    if kind < 0.35:
        return np.tile(base, (height, width, 1))
    if kind < 0.6:
        other = np.clip(base + rng.uniform(-90, 90, 3), 0, 255).astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.linspace(0, 1, width)[None, :] * np.cos(angle) + np.linspace(0, 1, height)[:, None] * np.sin(angle)
        ramp = ((ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)).astype(np.float32)
    elif kind < 0.8:
        other = np.clip(base + rng.uniform(-60, 60, 3), 0, 255).astype(np.float32)
        coarse = rng.random((int(rng.integers(2, 9)), int(rng.integers(2, 9))), dtype=np.float32)
        ramp = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    else:
        other = np.clip(base + rng.uniform(-35, 35, 3), 0, 255).astype(np.float32)
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
        phase = np.arange(width)[None, :] * np.cos(angle) + np.arange(height)[:, None] * np.sin(angle)
        ramp = (np.sin(phase * (2 * np.pi / period)) > 0).astype(np.float32)
    return np.ascontiguousarray(base + (other - base) * ramp[:, :, None], dtype=np.float32)


def _clutter(rng: np.random.Generator, pixels: NDArray[np.float32], keep: Box, glyph: float) -> None:
    """Rectangles, discs and lines that stay clear of the text."""
    if rng.random() < 0.5:
        return
    height, width = pixels.shape[:2]
    margin = 0.35 * glyph
    for _ in range(int(rng.integers(1, 7))):
        w, h = int(rng.uniform(4, width * 0.4)), int(rng.uniform(4, height * 0.4))
        x, y = int(rng.uniform(-w / 2, width)), int(rng.uniform(-h / 2, height))
        if x < keep[2] + margin and x + w > keep[0] - margin and y < keep[3] + margin and y + h > keep[1] - margin:
            continue
        colour = tuple(float(v) for v in _colour(rng))
        shape = rng.random()
        if shape < 0.5:
            cv2.rectangle(pixels, (x, y), (x + w, y + h), colour, -1 if shape < 0.3 else 2)
        elif shape < 0.75:
            cv2.ellipse(pixels, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, colour, -1)
        else:
            cv2.line(pixels, (x, y), (x + w, y + h), colour, int(rng.integers(1, 4)), cv2.LINE_AA)


def _label(rng: np.random.Generator, pixels: NDArray[np.float32], text: Box, glyph: float) -> None:
    height, width = pixels.shape[:2]
    grow = [glyph * rng.uniform(0.15, 0.9) for _ in range(4)]
    x0, y0 = int(max(0, text[0] - grow[0])), int(max(0, text[1] - grow[1]))
    x1, y1 = int(min(width - 1, text[2] + grow[2])), int(min(height - 1, text[3] + grow[3]))
    cv2.rectangle(pixels, (x0, y0), (x1, y1), tuple(float(v) for v in _colour(rng)), -1)
    if rng.random() < 0.3:
        edge = tuple(float(v) for v in _colour(rng))
        cv2.rectangle(pixels, (x0, y0), (x1, y1), edge, int(max(1, glyph * rng.uniform(0.02, 0.08))))


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _ink_colour(
    rng: np.random.Generator, region: NDArray[np.float32], mask: NDArray[np.float32]
) -> NDArray[np.float32]:
    """A colour whose luminance differs from everything it is drawn on by at least 60 of 255, where one exists."""
    under = (region[mask > 0.3] if bool((mask > 0.3).any()) else region.reshape(-1, 3)) @ _LUMA
    low, high = float(under.min()), float(under.max())
    best, best_gap = _colour(rng), -1.0
    for _ in range(12):
        candidate = _colour(rng)
        luma = float(candidate @ _LUMA)
        gap = low - luma if luma < (low + high) / 2 else luma - high
        if gap > best_gap:
            best, best_gap = candidate, gap
        if gap >= 60 + rng.uniform(0, 60):
            return candidate
    if best_gap < 60:
        best = np.zeros(3, dtype=np.float32) if low > 255 - high else np.full(3, 255, dtype=np.float32)
    return best


def _camera(rng: np.random.Generator, pixels: NDArray[np.float32], glyph: float) -> NDArray[np.uint8]:
    if rng.random() < 0.3:
        cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 0.3 + glyph * 0.025)), dst=pixels)
    if rng.random() < 0.6:
        sigma = float(rng.uniform(1, 11))
        shape = pixels.shape[:2] + ((3,) if rng.random() < 0.5 else (1,))
        noise = rng.standard_normal(shape, dtype=np.float32) * sigma
        pixels = pixels + noise
    out = np.clip(pixels, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        quality = int(rng.integers(35, 95))
        _, packed = cv2.imencode(".jpg", out[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8)[:, :, ::-1])
    return out
