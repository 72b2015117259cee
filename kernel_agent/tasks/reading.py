"""The reading task: one picture with one line of text, lying in one of six orientations, and a question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kernel_agent.tasks.fonts import Face
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.scene import MAX_GLYPH, MIN_GLYPH, Box, draw_scene
from kernel_agent.tasks.strings import draw_question, draw_text


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingTask:
    """`image` is RGB and lies in `orientation`; `text_box` is in its pixels; `glyph_height` is of a capital, px."""

    image: Image.Image
    question: str
    answer: str
    orientation: Orientation
    text_box: Box
    glyph_height: float
    family: str

    def score(self, given: str | None) -> float:
        """1 when `given` is the answer, letter for letter and apart from blanks around it; else 0."""
        return float(given is not None and given.strip() == self.answer)


def draw_task(seed: int, index: int, faces: Sequence[Face]) -> ReadingTask:
    """Task number `index` of the series `seed`; orientations take turns, everything else is drawn.

    A family of `faces` is drawn first, then one of its faces, so that large families do not count for more.
    """
    rng = np.random.default_rng([seed, index])
    families: dict[str, list[Face]] = defaultdict(list)
    for face in faces:
        families[face.family].append(face)
    family = families[sorted(families)[int(rng.integers(len(families)))]]
    face = family[int(rng.integers(len(family)))]
    orientation = list(Orientation)[index % len(Orientation)]
    glyph_height = float(np.exp(rng.uniform(np.log(MIN_GLYPH), np.log(MAX_GLYPH))))
    scene = draw_scene(rng, draw_text(rng), face, glyph_height=glyph_height)
    size = (scene.pixels.shape[1], scene.pixels.shape[0])
    return ReadingTask(
        image=orientation.apply(Image.fromarray(scene.pixels)),
        question=draw_question(rng),
        answer=scene.text,
        orientation=orientation,
        text_box=orientation.apply_to_box(scene.text_box, size),
        glyph_height=glyph_height,
        family=face.family,
    )
