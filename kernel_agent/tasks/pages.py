"""Scanned pages: articles in one or two columns and letters, set in real typefaces, then scanned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kernel_agent.tasks import camera
from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.annotation import Line, bounding_box
from kernel_agent.tasks.canvas import Canvas, Colour, text_width, wrap
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import Kind
from kernel_agent.tasks.typefaces import Role, Typeface, pick
from kernel_agent.types import Box


def draw_page(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A page of 780 to 1050 pixels in width with 180 to 500 words; questions ask for fields that stand on it once."""
    width = int(rng.integers(780, 1051))
    height = round(width * rng.uniform(1.25, 1.42))
    canvas = Canvas((width, height))
    ink: Colour = v.choose(rng, ((0, 0, 0), (25, 25, 30), (40, 40, 55), (20, 25, 60)))
    body = pick(rng, faces, Role.SERIF, Role.SERIF, Role.SANS)
    size = int(rng.integers(15, 20)) * width // 900
    writer = _letter if rng.random() < 0.35 else _article
    questions = writer(rng, canvas, faces, body, size, ink)
    pixels, annotation = canvas.pixels, canvas.annotation()
    pixels = camera.tint(pixels, v.choose(rng, ((255, 255, 255), (252, 250, 244), (246, 241, 228), (240, 240, 238))))
    degrees = float(rng.normal(0, 0.5))
    pixels, matrix = camera.tilted(pixels, degrees, (238, 236, 232))
    annotation = annotation.mapped(matrix, canvas.size)
    pixels = camera.light(rng, pixels, rng.uniform(0.02, 0.14))
    if rng.random() < 0.6:
        pixels = camera.soft(rng, pixels, 0.3, 0.7)
    camera.grain(rng, pixels, rng.uniform(1, 5))
    moved = tuple(question.mapped(matrix) for question in questions)
    return Drawing(pixels=pixels, annotation=annotation, questions=moved, photo=True)


def _article(
    rng: np.random.Generator, canvas: Canvas, faces: tuple[Typeface, ...], body: Typeface, size: int, ink: Colour
) -> list[Question]:
    width, height = canvas.size
    margin = int(width * rng.uniform(0.08, 0.12))
    head = pick(rng, faces, Role.SANS, Role.SERIF, Role.DISPLAY)
    y = float(margin + size)
    left, right = v.heading(rng), str(int(rng.integers(2, 400)))
    canvas.write(margin, y, left, (body.regular, round(size * 0.85)), ink)
    canvas.paragraph()
    number = canvas.write(width - margin, y, right, (body.regular, round(size * 0.85)), ink, "right")
    canvas.paragraph()
    y += size * 3.2
    title, author = v.heading(rng), v.person(rng)
    for text in wrap(title, (head.bold, size * 2), width - 2 * margin):
        canvas.write(margin, y, text, (head.bold, size * 2), ink)
        y += size * 2.4
    canvas.paragraph()
    byline = canvas.write(margin, y, f"By {author}, {v.choose(rng, v.CITIES)}", (body.regular, size), ink)
    canvas.paragraph()
    y += size * 2.2
    columns = 2 if width > 850 and rng.random() < 0.5 else 1
    gap = size * 2
    column = (width - 2 * margin - gap * (columns - 1)) / columns
    bottom = height - margin
    leading = size * rng.uniform(1.25, 1.45)
    sections: list[str] = []
    for index in range(columns):
        x, pen = margin + index * (column + gap), y
        while pen < bottom - 3 * leading:
            if rng.random() < 0.3 and pen < bottom - 6 * leading:
                section = v.heading(rng)
                if text_width(section, (head.bold, round(size * 1.15))) < column and section not in sections:
                    sections.append(section)
                    pen += leading * 0.5
                    canvas.write(x, pen, section, (head.bold, round(size * 1.15)), ink)
                    canvas.paragraph()
                    pen += leading
            room = int((bottom - pen) / leading)
            lines = wrap(v.sentences(rng, int(rng.integers(25, 70))), (body.regular, size), column)[:room]
            pen = _justified(canvas, x, pen, lines, (body.regular, size), ink, column, leading) + leading * 0.6
    return [
        Question(text="Who wrote this article?", answers=(author,), kind=Kind.READING, box=_words(byline, 1, 3)),
        Question(text="What is the page number?", answers=(right,), kind=Kind.READING, box=_words(number, 0, 1)),
    ]


def _letter(
    rng: np.random.Generator, canvas: Canvas, faces: tuple[Typeface, ...], body: Typeface, size: int, ink: Colour
) -> list[Question]:
    width, height = canvas.size
    margin = int(width * rng.uniform(0.1, 0.14))
    head = pick(rng, faces, Role.DISPLAY, Role.SANS)
    accent: Colour = v.choose(rng, ((20, 60, 120), (120, 30, 30), (30, 90, 60), (60, 60, 60)))
    y = float(margin)
    sender = v.shop(rng)
    street, town = v.address(rng)
    canvas.write(margin, y, sender, (head.bold, round(size * 1.8)), accent)
    canvas.paragraph()
    canvas.line([(margin, y + size), (width - margin, y + size)], accent, 2)
    small = (body.regular, round(size * 0.8))
    for text in (street, town, f"Tel. {v.phone(rng)}"):
        y += size * 1.15
        canvas.write(width - margin, y + size, text, small, ink, "right")
    canvas.paragraph()
    y += size * 3
    reference, day, name = v.code(rng), v.date(rng), v.person(rng)
    fields = []
    for text in (f"Date: {day}", f"Our reference: {reference}"):
        fields.append(canvas.write(margin, y, text, (body.regular, size), ink))
        y += size * 1.5
    canvas.paragraph()
    y += size * 1.5
    canvas.write(margin, y, f"Dear {name},", (body.regular, size), ink)
    canvas.paragraph()
    y += size * 2
    leading = size * 1.4
    column = width - 2 * margin
    while y < height - margin - 9 * leading:
        lines = wrap(v.sentences(rng, int(rng.integers(30, 80))), (body.regular, size), column)
        lines = lines[: int((height - margin - 6 * leading - y) / leading)]
        y = (
            _justified(canvas, margin, y, lines, (body.regular, size), ink, column, leading, ragged=True)
            + leading * 0.7
        )
    canvas.write(margin, y + leading, "Yours sincerely,", (body.regular, size), ink)
    canvas.paragraph()
    signed = v.person(rng)
    signature = canvas.write(margin, y + leading * 3.5, signed, (body.regular, size), ink)
    canvas.paragraph()
    return [
        Question(text="What is the reference of this letter?", answers=(reference,), kind=Kind.READING, box=_words(fields[1], 2, 3)),
        Question(text="What is the date of the letter?", answers=(day,), kind=Kind.READING, box=_words(fields[0], 1, 2)),
        Question(text="Who signed the letter?", answers=(signed,), kind=Kind.READING, box=_words(signature, 0, 2)),
    ]  # fmt: skip


def _justified(
    canvas: Canvas,
    x: float,
    y: float,
    lines: list[str],
    font: tuple[Path, int],
    ink: Colour,
    column: float,
    leading: float,
    *,
    ragged: bool = False,
) -> float:
    """Set a paragraph; where the next line's baseline would be."""
    for index, text in enumerate(lines):
        blanks = text.count(" ")
        spread = 0.0
        if not ragged and index < len(lines) - 1 and blanks:
            spread = min((column - text_width(text, font)) / blanks, font[1] * 0.6)
        canvas.write(x, y, text, font, ink, spread=spread)
        y += leading
    canvas.paragraph()
    return y


def _words(line: Line, start: int, stop: int) -> Box:
    return bounding_box(*(word.vertices for word in line.words[start:stop]))
