"""What the eye is trained on: single looks at a drawn scene, with dense targets.

Two kinds. A *line* view is a crop around the text, made grey and stretched in contrast, lying
horizontally in one of four states. A *scene* view is the whole picture in one of six orientations.
Both are squared to VIEW x VIEW px exactly as the model's image processor does it.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kernel_agent.tasks.fonts import ALPHABET, Face, discover, is_for_training, load
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.scene import MAX_GLYPH, MIN_GLYPH, Scene, draw_scene
from kernel_agent.tasks.strings import MAX_LENGTH, draw_text

VIEW = 128
"""Side of the square the processor makes of every image, in px."""
BLANK = len(ALPHABET)
"""Class of "no character here"."""
STATES = (Orientation.UPRIGHT, Orientation.ROT180, Orientation.FLIP_H, Orientation.FLIP_V)
"""How a horizontal line can lie."""
_CODES = {character: index for index, character in enumerate(ALPHABET)}
_ODD = (
    "fontawesome",
    "dingbat",
    "symbol",
    "fraktur",
    "greek",
    "math",
    "unicode",
    "initials",
    "keyboard",
    "ornament",
    "orns",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One look. `pixels` is (VIEW, VIEW) or (VIEW, VIEW, 3) uint8; boxes are in view px (x0, y0, x1, y1).

    `text` holds MAX_LENGTH class indices (BLANK after the end); `glyphs` is (MAX_LENGTH, 4), zero where blank;
    `state` indexes STATES for a line view and Orientation's order for a scene view.
    """

    pixels: NDArray[np.uint8]
    state: int
    text: NDArray[np.int64]
    glyphs: NDArray[np.float32]
    box: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class FontShelf:
    """Training fonts by family: a family is drawn first, so that large families do not drown small ones."""

    families: tuple[tuple[Face, ...], ...]

    def draw(self, rng: np.random.Generator) -> Face:
        """One face."""
        family = self.families[int(rng.integers(len(self.families)))]
        return family[int(rng.integers(len(family)))]

    @classmethod
    def scan(cls, roots: list[Path], cache: Path | None = None) -> FontShelf:
        """Usable training fonts under `roots` (`cache`: a pickle of an earlier scan, used when it exists)."""
        if cache is not None and cache.exists():
            with cache.open("rb") as stream:
                faces: list[Face] = pickle.load(stream)
        else:
            faces = discover(roots)
            if cache is not None:
                cache.write_bytes(pickle.dumps(faces))
        grouped: dict[str, list[Face]] = defaultdict(list)
        fine = legible([f for f in faces if is_for_training(f.family) and not any(o in f.family for o in _ODD)])
        for face in fine:
            grouped[face.family[:6] if face.family.startswith(("drm", "qtfrank")) else face.family].append(face)
        return cls(families=tuple(tuple(group) for _, group in sorted(grouped.items())))


def legible(faces: list[Face], least: float = 0.6) -> list[Face]:
    """Faces most of whose characters look more like the average of their kind than like any other's."""
    shapes = np.stack([np.stack([_shape(face, c) for c in ALPHABET]) for face in faces])
    mean = np.median(shapes, axis=0)
    for _ in range(2):
        centred = mean - mean.mean(axis=1, keepdims=True)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        score = np.einsum("fcp,kp->fck", shapes - shapes.mean(axis=2, keepdims=True), centred)
        right = (score.argmax(axis=2) == np.arange(len(ALPHABET))).mean(axis=1)
        mean = shapes[right >= least].mean(axis=0)
    return [face for face, share in zip(faces, right, strict=True) if share >= least]


def _shape(face: Face, character: str) -> NDArray[np.float32]:
    mask = load(face.path, 40).getmask(character, mode="L")
    picture = Image.frombytes("L", mask.size, bytes(mask)).resize((14, 18), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32).ravel() / 255.0


def draw_line_view(rng: np.random.Generator, shelf: FontShelf, *, tight: bool, state: int) -> View:
    """A crop around a line of text; `tight` as for reading, else with the slack of a first crop."""
    low, high = np.log(MIN_GLYPH), np.log(MAX_GLYPH if rng.random() < 0.12 else 40)
    scene = draw_scene(
        rng, draw_text(rng), shelf.draw(rng), glyph_height=float(np.exp(rng.uniform(low, high))), tight=True
    )
    box = np.array(scene.text_box)
    slack = scene.glyph_height * (
        rng.uniform(-0.05, 0.3, 4) if tight else rng.uniform(0.0, 0.9 if rng.random() < 0.6 else 1.5, 4)
    )
    crop = _clip(box + slack * np.array([-1, -1, 1, 1]), scene)
    grey = normalise(Image.fromarray(scene.pixels[crop[1] : crop[3], crop[0] : crop[2]]))
    return _finish(STATES[state].apply(grey), scene, crop, STATES[state], state)


def draw_scene_view(rng: np.random.Generator, shelf: FontShelf) -> View:
    """A whole scene in any of the six orientations, in colour."""
    scene = draw_scene(rng, draw_text(rng), shelf.draw(rng), glyph_height=draw_glyph_height(rng))
    state = int(rng.integers(6))
    orientation = list(Orientation)[state]
    h, w = scene.pixels.shape[:2]
    picture = orientation.apply(Image.fromarray(scene.pixels))
    return _finish(picture, scene, np.array([0, 0, w, h]), orientation, state)


def draw_glyph_height(rng: np.random.Generator) -> float:
    """Uniform in the logarithm over the whole range, px."""
    return float(np.exp(rng.uniform(np.log(MIN_GLYPH), np.log(MAX_GLYPH))))


def normalise(image: Image.Image) -> Image.Image:
    """Grey, contrast stretched, dark text on a light ground where most of the image is ground."""
    grey = ImageOps.autocontrast(image.convert("L"), 1)
    return ImageOps.invert(grey) if np.median(np.asarray(grey)) < 128 else grey


def square(image: Image.Image) -> NDArray[np.uint8]:
    """`image` as the processor squares it."""
    return np.asarray(image.resize((VIEW, VIEW), Image.Resampling.BILINEAR), dtype=np.uint8)


def _clip(box: NDArray[np.float64], scene: Scene) -> NDArray[np.int64]:
    h, w = scene.pixels.shape[:2]
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    return np.array([x0, y0, min(w, max(x0 + 4, round(box[2]))), min(h, max(y0 + 4, round(box[3])))])


def _finish(picture: Image.Image, scene: Scene, crop: NDArray[np.int64], lies: Orientation, state: int) -> View:
    size = (int(crop[2] - crop[0]), int(crop[3] - crop[1]))
    scale = VIEW / np.array([picture.width, picture.height] * 2)
    offset = np.array([crop[0], crop[1], crop[0], crop[1]])

    def to_view(box: tuple[float, float, float, float]) -> NDArray[np.float64]:
        a, b, c, d = np.array(box) - offset
        return np.array(lies.apply_to_box((a, b, c, d), size)) * scale

    text = np.full(MAX_LENGTH, BLANK, dtype=np.int64)
    glyphs = np.zeros((MAX_LENGTH, 4), dtype=np.float32)
    for index, (character, box) in enumerate(zip(scene.text, scene.glyph_boxes, strict=True)):
        text[index] = _CODES[character]
        glyphs[index] = to_view(box)
    box_in_view = np.clip(to_view(scene.text_box), 0, VIEW).astype(np.float32)
    return View(pixels=square(picture), state=state, text=text, glyphs=glyphs, box=box_in_view)
