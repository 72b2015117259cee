"""Whole runs to imitate: question, looks, messages, made by running the teacher's code on drawn scenes.

Some runs go wrong on purpose (a box that is off, a turn that is wrong) and are mended by the next message;
what is trained on is always the message that would have been right. In some the returned picture is blank and the right answer is
"unreadable"; in some there is no step left and the model must guess from what it has seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kernel_agent import prompts
from kernel_agent.session.images_view import ViewBounds, view_size
from kernel_agent.tasks.fonts import Face
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.scene import Scene, draw_scene
from kernel_agent.tasks.strings import draw_question, draw_text
from kernel_agent.train.embedded import policy
from kernel_agent.train.embedded.views import STATES, FontShelf, draw_glyph_height, square

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A stretch of the conversation: text before the picture, the squared picture, text after it,
    what was said (and run), and what would have been right to say."""

    before: str
    picture: NDArray[np.uint8]
    after: str
    said: str
    right: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One run."""

    turns: tuple[Turn, ...]
    answer: str
    orientation: Orientation


def draw_episode(rng: np.random.Generator, shelf: FontShelf) -> Episode:
    """One run on a fresh scene with a training font."""
    face: Face = shelf.draw(rng)
    scene = draw_scene(rng, draw_text(rng), face, glyph_height=draw_glyph_height(rng))
    orientation = list(Orientation)[int(rng.integers(6))]
    return play(rng, scene, orientation, draw_question(rng))


def play(rng: np.random.Generator, scene: Scene, orientation: Orientation, question: str) -> Episode:
    """The teacher's run on `scene` lying in `orientation`, with the mishaps described above."""
    picture = orientation.apply(Image.fromarray(scene.pixels))
    box = orientation.apply_to_box(scene.text_box, (scene.pixels.shape[1], scene.pixels.shape[0]))
    fate = rng.random()
    turns: list[Turn] = []

    def look(image: Image.Image, index: int, right: str, *, said: str | None = None, last: bool = False) -> None:
        label, view = shown(image, index)
        notice = prompts.LAST_MESSAGE if last else ""
        if index == 0:
            turns.append(
                Turn(before="", picture=view, after=label + question + notice, said=said or right, right=right)
            )
        else:
            after = label + notice + "</tool_response>"
            turns.append(Turn(before="<tool_response>\n", picture=view, after=after, said=said or right, right=right))

    if fate < 0.08:
        look(picture, 0, policy.guess(scene.text), last=True)
        return Episode(turns=tuple(turns), answer=scene.text, orientation=orientation)
    vertical = orientation.swaps_axes
    right = policy.grid_box(box, picture.size, 0.35 * scene.glyph_height, more=1)
    used = _shake(rng, right, 1.0) if rng.random() < 0.6 else right
    look(
        picture,
        0,
        policy.first_crop(right, vertical=vertical),
        said=policy.first_crop(used, vertical=vertical),
    )
    crop, box = _cut(picture, box, used)
    if vertical:
        box = Orientation.ROT90.apply_to_box(box, crop.size)
        crop = Orientation.ROT90.apply(crop)
    image = run_normalise(crop)
    lies = lies_after_first(orientation)
    if fate < 0.12:
        look(_blank(rng, image.size), 1, policy.give_up())
        return Episode(turns=tuple(turns), answer=policy.UNREADABLE, orientation=orientation)
    index = 1
    while True:
        right = policy.grid_box(box, image.size, 0.1 * scene.glyph_height)
        used = _shake(rng, right, 0.6) if rng.random() < 0.5 else right
        believed = lies
        if index == 1 and rng.random() < 0.12:
            believed = STATES[int(rng.integers(4))]
        look(
            image,
            index,
            policy.closer_crop(right, lies, index),
            said=policy.closer_crop(used, believed, index),
        )
        image, box = _cut(image, box, used)
        box = believed.apply_to_box(box, image.size)
        image = ImageOps.autocontrast(believed.apply(image), 1)
        lies = STATES[STATES.index(lies) ^ STATES.index(believed)]
        index += 1
        if fate < 0.16:
            look(_blank(rng, image.size), index, policy.give_up())
            return Episode(turns=tuple(turns), answer=policy.UNREADABLE, orientation=orientation)
        if lies is Orientation.UPRIGHT:
            look(image, index, policy.answer(scene.text))
            return Episode(turns=tuple(turns), answer=scene.text, orientation=orientation)


def lies_after_first(orientation: Orientation) -> Orientation:
    """How the line lies after the first crop, which turns upright columns by ROTATE_90."""
    return {Orientation.ROT90: Orientation.ROT180, Orientation.ROT270: Orientation.UPRIGHT}.get(
        orientation, orientation
    )


def shown(image: Image.Image, index: int) -> tuple[str, NDArray[np.uint8]]:
    """The label the agent writes for `image`, and what the processor makes of the view the agent sends."""
    size = view_size(image.size, ViewBounds())
    label = f"image_{index}: {image.width}x{image.height} px"
    if size == image.size:
        return label + "\n", square(image)
    return f"{label}, shown at {size[0]}x{size[1]}\n", square(image.resize(size, Image.Resampling.LANCZOS))


def run_normalise(crop: Image.Image) -> Image.Image:
    """What the last two lines of the first message's code do."""
    grey = ImageOps.autocontrast(crop.convert("L"), 1)
    return ImageOps.invert(grey) if np.median(np.asarray(grey)) < 128 else grey


def _cut(image: Image.Image, box: Box, grid: policy.GridBox) -> tuple[Image.Image, Box]:
    w, h = image.size
    x0, y0, x1, y1 = w * grid[0] // 64, h * grid[1] // 64, w * grid[2] // 64, h * grid[3] // 64
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    return image.crop((x0, y0, x1, y1)), (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)


def _shake(rng: np.random.Generator, box: policy.GridBox, spread: float) -> policy.GridBox:
    moved = [round(float(v)) for v in np.array(box) + rng.normal(0, spread, 4)]
    x0, y0 = min(max(moved[0], 0), 62), min(max(moved[1], 0), 62)
    return x0, y0, min(64, max(moved[2], x0 + 1)), min(64, max(moved[3], y0 + 1))


def _blank(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    return Image.new("L", size, int(rng.integers(0, 256)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Many episodes on disk: `scenes` (n, V, V, 3) and `crops` (m, V, V) uint8, `scripts` per episode."""

    scenes: NDArray[np.uint8]
    crops: NDArray[np.uint8]
    scripts: tuple[tuple[tuple[str, str, str, str], ...], ...]

    def save(self, path: Path) -> None:
        """As an uncompressed .npz, written whole or not at all."""
        part = path.with_suffix(".part.npz")
        np.savez(part, scenes=self.scenes, crops=self.crops, scripts=json.dumps(self.scripts))
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            scripts = tuple(tuple((b, a, s, r) for b, a, s, r in turns) for turns in json.loads(str(stored["scripts"])))
            return cls(scenes=stored["scenes"], crops=stored["crops"], scripts=scripts)


def draw_shard(shelf: FontShelf, count: int, seed: int) -> Shard:
    """`count` episodes; the same for the same seed and fonts."""
    rng = np.random.default_rng(seed)
    episodes = [draw_episode(rng, shelf) for _ in range(count)]
    return Shard(
        scenes=np.stack([e.turns[0].picture for e in episodes]),
        crops=np.stack([t.picture for e in episodes for t in e.turns[1:]]),
        scripts=tuple(tuple((t.before, t.after, t.said, t.right) for t in e.turns) for e in episodes),
    )
