"""A canvas that remembers what was written on it: shapes by OpenCV, text by Pillow, each word with the box of its ink.

Positions are whole pixels, so boxes are exact. Text is set in one direction, left to right, without kerning across words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kernel_agent.tasks.annotation import Annotation, Line, Paragraph, Vertices, Word, bounding_box, corners
from kernel_agent.tasks.fonts import load
from kernel_agent.types import Box, Size

Colour: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = NDArray[np.uint8]
Align: TypeAlias = Literal["left", "middle", "right"]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)


class Canvas:
    """RGB pixels that shapes and text are put on.

    `pixels` is the array to draw shapes into; writing text goes to a Pillow image and back, so draw the shapes first.
    """

    def __init__(self, size: Size, colour: Colour = WHITE) -> None:
        self.size = size
        self.lines: list[Line] = []
        self._paragraphs: list[Paragraph] = []
        self._array: Pixels | None = np.full((size[1], size[0], 3), 255, np.uint8)
        if colour != WHITE:
            self._array = np.empty((size[1], size[0], 3), np.uint8)
            cv2.rectangle(self._array, (0, 0), size, colour, -1)  # NumPy takes ten times as long
        self._image: Image.Image | None = None

    @classmethod
    def of(cls, pixels: Pixels) -> Canvas:
        """A canvas that starts with these pixels (h, w, 3)."""
        canvas = cls((1, 1))
        canvas.size, canvas._array = (pixels.shape[1], pixels.shape[0]), pixels
        return canvas

    @property
    def pixels(self) -> Pixels:
        """The pixels (h, w, 3), to be written to."""
        if self._array is None:
            assert self._image is not None
            self._array = np.array(self._image)
            self._image = None
        return self._array

    @property
    def _paper(self) -> Image.Image:
        if self._image is None:
            self._image = Image.fromarray(self.pixels)
            self._array = None
        return self._image

    def write(
        self,
        x: float,
        y: float,
        text: str,
        font: tuple[Path, int],
        colour: Colour = BLACK,
        align: Align = "left",
        *,
        spread: float = 0.0,
        keep: bool = True,
    ) -> Line:
        """Write a line with its baseline at `y`; what it is, and where its words are.

        `font` is a file and a size in pixels per em, `spread` extra pixels for each blank (justified text). Without `keep` the
        line is left out of the annotation.
        """
        path, size = font
        blank = _blank(path, size) + spread
        stamps = [_stamp(path, size, piece) for piece in text.split()]
        total = sum(stamp.advance for stamp in stamps) + blank * (len(stamps) - 1)
        pen = x - {"left": 0.0, "middle": total / 2, "right": total}[align]
        base = round(y)
        words = []
        image = self._paper
        for stamp in stamps:
            x0, y0 = round(pen) + stamp.left, base + stamp.top
            image.paste(colour, (x0, y0), stamp.ink)
            box = (x0, y0, x0 + stamp.ink.width, y0 + stamp.ink.height)
            words.append(Word(text=stamp.text, vertices=corners(box)))
            pen += stamp.advance + blank
        outline = corners(bounding_box(*(word.vertices for word in words)))
        line = Line(text=" ".join(stamp.text for stamp in stamps), vertices=outline, words=tuple(words))
        if keep:
            self.lines.append(line)
        return line

    def write_upwards(self, x: float, y: float, text: str, font: tuple[Path, int], colour: Colour = BLACK) -> None:
        """Write a line that runs upwards, its middle at (x, y). It is no part of the annotation."""
        turned = _stamp(*font, text).ink.transpose(Image.Transpose.ROTATE_90)
        self._paper.paste(colour, (round(x - turned.width / 2), round(y - turned.height / 2)), turned)

    def paragraph(self) -> Paragraph | None:
        """Close a paragraph: all lines kept since the last one. None where there are none."""
        if not self.lines:
            return None
        outline = corners(bounding_box(*(line.vertices for line in self.lines)))
        paragraph = Paragraph(vertices=outline, lines=tuple(self.lines))
        self._paragraphs.append(paragraph)
        self.lines = []
        return paragraph

    def annotation(self, image_id: str = "") -> Annotation:
        """Everything written, in the order of writing."""
        self.paragraph()
        return Annotation(image_id=image_id, size=self.size, paragraphs=tuple(self._paragraphs))

    def take(self, annotation: Annotation) -> None:
        """Add what another canvas holds, already mapped into this one's frame."""
        self.paragraph()
        self._paragraphs.extend(annotation.paragraphs)

    def rectangle(self, box: Box, colour: Colour, thickness: int = -1) -> None:
        """A filled (or drawn) rectangle; the box's right and bottom edges are not part of it."""
        x0, y0, x1, y1 = (round(v) for v in box)
        cv2.rectangle(self.pixels, (x0, y0), (x1 - 1, y1 - 1), colour, thickness)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, thickness: int = 1) -> None:
        """A polyline, smooth edges."""
        fixed = np.round(np.asarray(points, dtype=np.float64) * 8).astype(np.int32)
        cv2.polylines(self.pixels, [fixed], False, colour, thickness, cv2.LINE_AA, 3)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        """A filled polygon, smooth edges."""
        fixed = np.round(np.asarray(points, dtype=np.float64) * 8).astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], colour, cv2.LINE_AA, 3)

    def circle(self, centre: tuple[float, float], radius: float, colour: Colour, thickness: int = -1) -> None:
        """A disc or ring, smooth edges."""
        middle = (round(centre[0] * 8), round(centre[1] * 8))
        cv2.circle(self.pixels, middle, round(radius * 8), colour, thickness, cv2.LINE_AA, 3)


class _Stamp(NamedTuple):
    """A word ready to be printed: its ink cut out, where that lies around the left end of the baseline, how far it moves the pen."""

    text: str
    ink: Image.Image
    left: int
    top: int
    advance: float


@lru_cache(maxsize=80_000)
def _stamp(path: Path, size: int, text: str) -> _Stamp:
    """Cached, as setting type is most of the work and documents share their words."""
    face = load(path, size)
    core, (left, top) = face.getmask2(text, mode="L", anchor="ls")
    sheet = Image.new("L", core.size)
    sheet.im.paste(core, (0, 0, *core.size))  # ImageDraw would set the text twice, to measure and to draw
    box = sheet.getbbox() or (0, 0, 1, 1)
    return _Stamp(text, sheet.crop(box), box[0] + round(left), box[1] + round(top), face.getlength(text))


@lru_cache(maxsize=1000)
def _blank(path: Path, size: int) -> float:
    return load(path, size).getlength(" ")


def wrap(text: str, font: tuple[Path, int], width: float) -> list[str]:
    """Break a text into lines no wider than `width` (a single word may be)."""
    blank = _blank(*font)
    lines: list[list[str]] = [[]]
    pen = 0.0
    for word in text.split():
        length = _stamp(*font, word).advance
        if lines[-1] and pen + length > width:
            lines.append([])
            pen = 0.0
        lines[-1].append(word)
        pen += length + blank
    return [" ".join(line) for line in lines]


def text_width(text: str, font: tuple[Path, int]) -> float:
    """How wide a line would be, in pixels."""
    pieces = text.split()
    return sum(_stamp(*font, piece).advance for piece in pieces) + _blank(*font) * (len(pieces) - 1)


def outline_of(lines: Sequence[Line]) -> Vertices:
    """The outline around some lines."""
    return corners(bounding_box(*(line.vertices for line in lines)))
