"""What every kind of generated picture is: pixels, the text on them, and questions with their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernel_agent.tasks.annotation import Annotation, bounding_box, corners, map_points
from kernel_agent.tasks.canvas import Pixels
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.typefaces import Typeface
from kernel_agent.types import Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about a drawing. `box` is where the answer stands, in the drawing's pixels; None where it is all over."""

    text: str
    answers: tuple[str, ...]
    kind: Kind
    answer_type: AnswerType = AnswerType.TEXT
    box: Box | None = None

    def mapped(self, matrix: NDArray[np.float64]) -> Question:
        """The same after the drawing was mapped by a 3x3 matrix: the box is the smallest around where it comes to lie."""
        if self.box is None:
            return self
        return replace(self, box=bounding_box(map_points(matrix, corners(self.box))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A picture, upright. `pixels` is (h, w, 3) RGB; `photo` says that it has a photograph's noise and is kept as JPEG."""

    pixels: Pixels
    annotation: Annotation
    questions: tuple[Question, ...]
    photo: bool = False


Draw: TypeAlias = Callable[[np.random.Generator, tuple[Typeface, ...]], Drawing]
"""Draws one picture from a generator and typefaces."""
