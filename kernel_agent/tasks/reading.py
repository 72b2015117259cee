"""The reading task: one picture with one line of text, lying in one of six orientations, and a question.

`draw_task` is what the embedded model is measured with; `draw_reading` gives the same pictures to the generator.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from kernel_agent.tasks.annotation import Annotation, Line, Paragraph, Word, corners
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.fonts import Face, open_face
from kernel_agent.tasks.ground_truth import Kind
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.scene import MAX_GLYPH, MIN_GLYPH, Box, draw_scene
from kernel_agent.tasks.strings import draw_question, draw_text
from kernel_agent.tasks.typefaces import Typeface
from kernel_agent.tasks.vocabulary import choose


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


def draw_reading(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A label or a wall with one code of 3 to 8 letters and digits, in one of the typefaces that can tell them all apart."""
    files = [file for face in faces for file in (face.regular, face.bold)]
    usable = [face for file in files if (face := _face(file)) is not None]
    glyph_height = float(np.exp(rng.uniform(np.log(MIN_GLYPH), np.log(MAX_GLYPH))))
    scene = draw_scene(rng, draw_text(rng), choose(rng, usable), glyph_height=glyph_height)
    outline = corners(scene.text_box)
    line = Line(text=scene.text, vertices=outline, words=(Word(text=scene.text, vertices=outline),))
    size = (scene.pixels.shape[1], scene.pixels.shape[0])
    return Drawing(
        pixels=scene.pixels,
        annotation=Annotation(image_id="", size=size, paragraphs=(Paragraph(vertices=outline, lines=(line,)),)),
        questions=(Question(text=draw_question(rng), answers=(scene.text,), kind=Kind.READING, box=scene.text_box),),
    )


@lru_cache(maxsize=100)
def _face(file: Path) -> Face | None:
    return open_face(file)
