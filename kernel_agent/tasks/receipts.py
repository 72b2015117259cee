"""Receipts on a table: a shop's head, items with prices, sums that are right, payment."""

from __future__ import annotations

import numpy as np

from kernel_agent.tasks import camera
from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.annotation import Line, bounding_box
from kernel_agent.tasks.canvas import Canvas, Colour
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.placing import leaning, place, surface
from kernel_agent.tasks.typefaces import Role, Typeface, pick
from kernel_agent.types import Box


def draw_receipt(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A receipt of 4 to 14 items, 380 to 520 pixels wide, lying slightly askew."""
    sheet, questions = _receipt(rng, faces)
    width, height = sheet.size
    margins = rng.uniform(0.08, 0.45, 2) * width, rng.uniform(20, 90, 2)
    size = (int(width + margins[0].sum()), int(height + margins[1].sum()))
    scene = Canvas.of(surface(rng, size))
    box = (margins[0][0], margins[1][0], margins[0][0] + width, margins[1][0] + height)
    matrix = place(scene, sheet, leaning(rng, box, 0.015, 2.0), shadow=int(rng.integers(3, 9)))
    pixels = camera.light(rng, scene.pixels, rng.uniform(0.05, 0.3))
    pixels = camera.soft(rng, pixels, 0.3, 0.7)
    camera.grain(rng, pixels, rng.uniform(1, 6))
    moved = tuple(question.mapped(matrix) for question in questions)
    return Drawing(pixels=pixels, annotation=scene.annotation(), questions=moved, photo=True)


def _receipt(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> tuple[Canvas, list[Question]]:
    width = int(rng.integers(380, 521))
    face = pick(rng, faces, Role.MONO)
    size = round(width / 27)
    font, bold = (face.regular, size), (face.bold, round(size * 1.5))
    leading = size * rng.uniform(1.35, 1.6)
    count = int(rng.integers(4, 15))
    paper: Colour = v.choose(rng, ((252, 252, 250), (246, 246, 242), (250, 246, 238)))
    ink: Colour = v.choose(rng, ((30, 30, 34), (55, 55, 60), (50, 45, 80)))
    canvas = Canvas((width, round(leading * (count * 1.35 + 21) + size * 5)), paper)
    edge, middle = size * 1.2, width / 2
    y = size * 3.0

    def down(times: float = 1.0) -> None:
        nonlocal y
        y += leading * times

    def row(left: str, right: str, style: tuple[object, int] = font) -> tuple[Line, Line]:
        first = canvas.write(edge, y, left, style, ink)  # type: ignore[arg-type]
        second = canvas.write(width - edge, y, right, style, ink, "right")  # type: ignore[arg-type]
        down()
        return first, second

    def rule() -> None:
        canvas.paragraph()
        canvas.write(middle, y, "-" * int((width - 2 * edge) / (size * 0.61)), font, ink, "middle", keep=False)
        down()

    name = v.shop(rng)
    canvas.write(middle, y, name, (face.bold, min(bold[1], round(width / (len(name) * 0.66)))), ink, "middle")
    canvas.paragraph()
    down(1.3)
    for text in (*v.address(rng), f"Tel {v.phone(rng)}"):
        canvas.write(middle, y, text, font, ink, "middle")
        down()
    canvas.paragraph()
    down(0.5)
    day, number, cashier = v.date(rng), str(int(rng.integers(10_000, 999_999))), v.choose(rng, v.FIRST_NAMES)
    day_line = row(day, v.clock_time(rng))[0]
    number_line = row("Receipt no.", number)[1]
    cashier_line = row("Cashier", cashier)[1]
    rule()
    goods = v.some(rng, v.GOODS, count)
    total, pieces = 0, 0
    priced: list[tuple[str, str, Line]] = []
    for good in goods:
        amount = int(rng.integers(2, 6)) if rng.random() < 0.25 else 1
        each = int(rng.integers(49, 1999))
        price = _money(amount * each)
        priced.append((good, price, row(good, price)[1]))
        if amount > 1:
            canvas.write(edge * 2, y, f"{amount} x {_money(each)}", font, ink)
            down()
        canvas.paragraph()
        total, pieces = total + amount * each, pieces + amount
    rule()
    rate = v.choose(rng, (5, 7, 8, 10, 19, 20))
    tax = round(total * rate / 100)
    row("Subtotal", _money(total))
    tax_line = row(f"Tax {rate}%", _money(tax))[1]
    down(0.3)
    total_line = row("TOTAL", _money(total + tax), (face.bold, round(size * 1.25)))[1]
    down(0.2)
    questions: list[Question] = []
    if rng.random() < 0.5:
        given = (total + tax + 499) // 500 * 500
        row("Cash", _money(given))
        change = row("Change", _money(given - total - tax))[1]
        questions.append(_ask("How much change was given?", _money(given - total - tax), _box(change)))
    else:
        card = row("Card", f"**** {int(rng.integers(1000, 9999))}")[1]
        questions.append(
            Question(
                text="What are the last four digits of the card?",
                answers=(card.words[-1].text,),
                kind=Kind.READING,
                box=bounding_box(card.words[-1].vertices),
            )
        )
    rule()
    canvas.write(middle, y, v.choose(rng, ("Thank you for your visit!", "Please come again", "Have a nice day")), font, ink, "middle")  # fmt: skip
    canvas.paragraph()
    for line, text, answer in (
        (day_line, "What is the date on the receipt?", day),
        (number_line, "What is the receipt number?", number),
        (cashier_line, "Who was the cashier?", cashier),
    ):
        questions.append(Question(text=text, answers=(answer,), kind=Kind.READING, box=_box(line)))
    questions.append(_ask("What is the total?", _money(total + tax), _box(total_line)))
    questions.append(_ask("How much tax was paid?", _money(tax), _box(tax_line)))
    for good, price, line in v.some(rng, priced, 2):
        questions.append(_ask(f'What was paid for "{good}" in all?', price, _box(line)))
    questions.append(
        Question(
            text="How many different goods were bought?",
            answers=(str(count),),
            kind=Kind.COUNTING,
            answer_type=AnswerType.NUMBER,
        )
    )
    bottom = min(canvas.size[1], round(y + leading * 1.5))
    cut = Canvas.of(canvas.pixels[:bottom].copy())
    cut.take(canvas.annotation())
    return cut, questions


def _ask(text: str, answer: str, box: Box) -> Question:
    return Question(text=text, answers=(answer,), kind=Kind.READING, answer_type=AnswerType.NUMBER, box=box)


def _box(line: Line) -> Box:
    return bounding_box(line.vertices)


def _money(cents: int) -> str:
    return f"{cents / 100:.2f}"
