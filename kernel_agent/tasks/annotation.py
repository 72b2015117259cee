"""Where the text of a picture is: paragraphs of lines of words in reading order, each with its outline.

The form on disk is HierText's JSON schema (Long et al., 2022: `annotations[].paragraphs[].lines[].words[]`, with `vertices`
in pixels), so that generated pictures and HierText's own photographs are read by the same code. Outlines of generated words are
those of their ink, exact to the pixel before any blur.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernel_agent.errors import InputError
from kernel_agent.types import Box, Json, Size

Vertices: TypeAlias = tuple[tuple[float, float], ...]
"""Corners of an outline in order, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One word, without blanks."""

    text: str
    vertices: Vertices
    legible: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of words."""

    text: str
    vertices: Vertices
    words: tuple[Word, ...]
    legible: bool = True
    vertical: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """Lines that belong together, from top to bottom."""

    vertices: Vertices
    lines: tuple[Line, ...]
    legible: bool = True

    @property
    def text(self) -> str:
        """The lines, a blank between them."""
        return " ".join(line.text for line in self.lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """All text of one picture of `size` (width, height), paragraphs in reading order."""

    image_id: str
    size: Size
    paragraphs: tuple[Paragraph, ...]

    def lines(self) -> Iterator[Line]:
        """All lines in reading order."""
        for paragraph in self.paragraphs:
            yield from paragraph.lines

    def mapped(self, matrix: NDArray[np.float64], size: Size) -> Annotation:
        """The same after the picture was mapped by a 3x3 `matrix` (homogeneous, pixels) onto one of `size`."""
        outlines = [outline for paragraph in self.paragraphs for outline in _outlines(paragraph)]
        flat = np.array([point for outline in outlines for point in outline], dtype=np.float64).reshape(-1, 2)
        moved = np.column_stack([flat, np.ones(len(flat))]) @ matrix.T
        points = iter(map(tuple, (moved[:, :2] / moved[:, 2:]).tolist()))
        new = iter([tuple(islice(points, len(outline))) for outline in outlines])
        out = tuple(
            Paragraph(
                vertices=next(new),
                legible=paragraph.legible,
                lines=tuple(
                    Line(
                        text=line.text,
                        vertices=next(new),
                        legible=line.legible,
                        vertical=line.vertical,
                        words=tuple(Word(text=w.text, vertices=next(new), legible=w.legible) for w in line.words),
                    )
                    for line in paragraph.lines
                ),
            )
            for paragraph in self.paragraphs
        )
        return Annotation(image_id=self.image_id, size=size, paragraphs=out)

    def to_json(self) -> dict[str, Json]:
        """One entry of HierText's `annotations`."""
        return {
            "image_id": self.image_id,
            "image_width": self.size[0],
            "image_height": self.size[1],
            "paragraphs": [
                {
                    "vertices": _rounded(paragraph.vertices),
                    "legible": paragraph.legible,
                    "lines": [
                        {
                            "vertices": _rounded(line.vertices),
                            "text": line.text,
                            "legible": line.legible,
                            "handwritten": False,
                            "vertical": line.vertical,
                            "words": [
                                {
                                    "vertices": _rounded(word.vertices),
                                    "text": word.text,
                                    "legible": word.legible,
                                    "handwritten": False,
                                    "vertical": line.vertical,
                                }
                                for word in line.words
                            ],
                        }
                        for line in paragraph.lines
                    ],
                }
                for paragraph in self.paragraphs
            ],
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Json]) -> Annotation:
        """One entry of HierText's `annotations`; keys it does not need are passed over. Raises InputError."""
        try:
            return cls(
                image_id=str(given["image_id"]),
                size=(int(given["image_width"]), int(given["image_height"])),
                paragraphs=tuple(
                    Paragraph(
                        vertices=_vertices(paragraph["vertices"]),
                        legible=bool(paragraph.get("legible", True)),
                        lines=tuple(
                            Line(
                                text=str(line["text"]),
                                vertices=_vertices(line["vertices"]),
                                legible=bool(line.get("legible", True)),
                                vertical=bool(line.get("vertical", False)),
                                words=tuple(
                                    Word(
                                        text=str(word["text"]),
                                        vertices=_vertices(word["vertices"]),
                                        legible=bool(word.get("legible", True)),
                                    )
                                    for word in line["words"]
                                ),
                            )
                            for line in paragraph["lines"]
                        ),
                    )
                    for paragraph in given["paragraphs"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            name = given.get("image_id", "?") if isinstance(given, Mapping) else "?"
            raise InputError(
                f"annotation of image {name!r} is not in HierText's schema ({type(error).__name__}: {error}): give image_id, "
                "image_width, image_height, and paragraphs of lines of words, each with vertices"
            ) from error


def read_hiertext(path: str | Path) -> Iterator[Annotation]:
    """All annotations of a HierText file: the whole set as one JSON object, or one annotation a line (`.jsonl`).

    Raises InputError that names the file, and the line or entry.
    """
    file = Path(path)
    try:
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                entries: Any = [json.loads(line) for line in lines if line.strip()]
        else:
            entries = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; give HierText's annotation file (unpacked)") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON ({error}): give HierText's annotation file, unpacked") from error
    if isinstance(entries, Mapping):
        entries = entries.get("annotations")
    if not isinstance(entries, list):
        raise InputError(f"{file} has no list `annotations`: give a file in HierText's schema")
    for number, entry in enumerate(entries):
        try:
            yield Annotation.from_json(entry)
        except InputError as error:
            raise InputError(f"{file}, entry {number}: {error}") from None


def bounding_box(*outlines: Vertices) -> Box:
    """The smallest upright box around all of them."""
    xs = [x for outline in outlines for x, _ in outline]
    ys = [y for outline in outlines for _, y in outline]
    return min(xs), min(ys), max(xs), max(ys)


def corners(box: Box) -> Vertices:
    """A box as an outline, clockwise from its top left corner."""
    x0, y0, x1, y1 = box
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def map_points(matrix: NDArray[np.float64], points: Sequence[tuple[float, float]]) -> Vertices:
    """Where a 3x3 matrix takes points."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    out = []
    for x, y in points:
        w = g * x + h * y + i
        out.append(((a * x + b * y + c) / w, (d * x + e * y + f) / w))
    return tuple(out)


def _outlines(paragraph: Paragraph) -> Iterator[Vertices]:
    yield paragraph.vertices
    for line in paragraph.lines:
        yield line.vertices
        for word in line.words:
            yield word.vertices


def _vertices(given: Json) -> Vertices:
    points = tuple((float(x), float(y)) for x, y in given)
    if len(points) < 3:
        raise ValueError(f"an outline of {len(points)} points")
    return points


def _rounded(vertices: Vertices) -> list[list[float]]:
    return [[round(x, 2), round(y, 2)] for x, y in vertices]
