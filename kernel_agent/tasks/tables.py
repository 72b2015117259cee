"""Tables as reports print them: a caption, a head, rows of numbers that add up where a total is shown."""

from __future__ import annotations

import numpy as np

from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.annotation import Line, bounding_box
from kernel_agent.tasks.canvas import Canvas, Colour, text_width
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.typefaces import Role, Typeface, pick

HEADS = ("Budget", "Visitors", "Orders", "Returns", "Staff", "Output", "Costs", "Sales", "Members", "Tickets", "Calls")


def draw_table(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A table of 5 to 14 rows and 3 to 6 columns of whole numbers or amounts."""
    face = pick(rng, faces, Role.SANS, Role.SERIF)
    rows, columns = int(rng.integers(5, 15)), int(rng.integers(3, 7))
    size = int(rng.integers(15, 23))
    heads = v.some(rng, HEADS, columns)
    names = v.some(rng, v.choose(rng, (v.CITIES, v.LAST_NAMES, v.GOODS)), rows)
    years = rng.random() < 0.3
    if years:
        first = int(rng.integers(2008, 2020))
        heads = [str(first + i) for i in range(columns)]
    values = (10 ** rng.uniform(1, 4.5, (1, columns)) * rng.uniform(0.3, 3, (rows, columns))).astype(int) + 3
    decimals = rng.random() < 0.25
    total = rng.random() < 0.4

    def shown(value: int) -> str:
        return f"{value / 10:.1f}" if decimals else f"{value:,}"

    font, bold = (face.regular, size), (face.bold, size)
    leading = round(size * rng.uniform(1.9, 2.4))
    left = max(text_width(name, font) for name in [*names, "Total"]) + size * 2
    cell = round(max(text_width(t, bold) for t in [*heads, shown(int(values.sum(axis=0).max()))]) + size * 2.4)
    margin = int(rng.integers(28, 70))
    width = round(2 * margin + left + cell * columns)
    height = round(2 * margin + leading * (rows + 2.4 + total) + size)
    accent: Colour = v.choose(rng, ((36, 66, 110), (60, 60, 64), (24, 96, 84), (128, 44, 44), (232, 232, 236)))
    paper: Colour = v.choose(rng, ((255, 255, 255), (255, 255, 255), (250, 249, 244)))
    canvas = Canvas((width, height), paper)
    caption = f"Table {int(rng.integers(1, 20))}: {v.heading(rng)}"
    top = margin + round(leading * 1.2)
    style = v.choose(rng, ("grid", "stripes", "rules"))
    light = sum(accent) > 600
    head_ink: Colour = (20, 20, 24) if light or style == "rules" else (255, 255, 255)
    body = (margin, top + leading, width - margin, top + leading * (rows + 1 + total))
    if style != "rules":
        canvas.rectangle((margin, top, width - margin, top + leading), accent)
    if style == "stripes":
        for index in range(0, rows, 2):
            y = body[1] + index * leading
            canvas.rectangle((margin, y, width - margin, y + leading), (240, 242, 246))
    if style == "grid":
        for index in range(rows + 2 + total):
            canvas.line([(margin, top + index * leading), (width - margin, top + index * leading)], (150, 150, 156))
        for x in [margin, *(margin + left + cell * i for i in range(columns)), width - margin]:
            canvas.line([(x, top), (x, body[3])], (150, 150, 156))
    else:
        for y in (top, top + leading, body[3]):
            canvas.line([(margin, y), (width - margin, y)], (40, 40, 44), 2)
    base = leading / 2 + size * 0.35
    size_of_caption = size + 2
    while text_width(caption, (face.bold, size_of_caption)) > width - 2 * margin and size_of_caption > 10:
        size_of_caption -= 1
    canvas.write(margin, margin + size, caption, (face.bold, size_of_caption), (20, 20, 24))
    canvas.paragraph()
    for j, head in enumerate(heads):
        canvas.write(margin + left + cell * (j + 1) - size * 0.7, top + base, head, bold, head_ink, "right")
    canvas.paragraph()
    named: list[Line] = []
    cells: list[list[Line]] = []
    ink: Colour = (28, 28, 32)
    for i, name in enumerate([*names, *(["Total"] if total else [])]):
        row = values[i] if i < rows else values.sum(axis=0)
        style_of_row = font if i < rows else bold
        line = body[1] + leading * i + base
        named.append(canvas.write(margin + size * 0.6, line, name, style_of_row, ink))
        cells.append(
            [
                canvas.write(
                    margin + left + cell * (j + 1) - size * 0.7, line, shown(int(row[j])), style_of_row, ink, "right"
                )
                for j in range(columns)
            ]
        )
        canvas.paragraph()
    questions = _questions(rng, heads, named[:rows], values, cells, decimals)
    return Drawing(pixels=canvas.pixels, annotation=canvas.annotation(), questions=questions)


def _questions(
    rng: np.random.Generator,
    heads: list[str],
    rows: list[Line],
    values: np.ndarray,
    cells: list[list[Line]],
    decimals: bool,
) -> tuple[Question, ...]:
    names = [line.text for line in rows]
    i, j = int(rng.integers(len(names))), int(rng.integers(len(heads)))
    scale = 10 if decimals else 1

    def number(text: str, value: int, *lines: Line) -> Question:
        plain = f"{value / scale:.1f}" if decimals else str(value)
        answers = (plain,) if decimals or value < 1000 else (plain, f"{value:,}")
        box = bounding_box(*(line.vertices for line in lines)) if lines else None
        return Question(text=text, answers=answers, kind=Kind.TABLE, answer_type=AnswerType.NUMBER, box=box)

    column = values[:, j]
    out = [number(f'What is the value of "{heads[j]}" for {names[i]}?', int(values[i, j]), cells[i][j])]
    best, least = int(column.argmax()), int(column.argmin())
    for index, word in ((best, "highest"), (least, "lowest")):
        if int((column == column[index]).sum()) == 1:
            box = bounding_box(rows[index].vertices, cells[index][j].vertices)
            text = f'Which row has the {word} value of "{heads[j]}"?' + (
                " Leave the total out." if len(cells) > len(names) else ""
            )
            out.append(Question(text=text, answers=(names[index],), kind=Kind.TABLE, box=box))
    if len(names) > 1:
        a, b = (int(x) for x in rng.permutation(len(names))[:2])
        gap = abs(int(column[a]) - int(column[b]))
        text = f'How far apart are {names[a]} and {names[b]} in "{heads[j]}"?'
        out.append(number(text, gap, cells[a][j], cells[b][j]))
    bound = int(np.median(column))
    shown = f"{bound / scale:.1f}" if decimals else str(bound)
    out.append(
        Question(
            text=f'How many rows have more than {shown} in "{heads[j]}"?' + (" Leave the total out." if len(cells) > len(names) else ""),
            answers=(str(int((column > bound).sum())),),
            kind=Kind.TABLE,
            answer_type=AnswerType.NUMBER,
        )
    )  # fmt: skip
    return tuple(out)
