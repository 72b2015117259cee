"""Labels on parcels and jars: addresses, weights, batch numbers, dates, and a bar code that is only a pattern."""

from __future__ import annotations

import numpy as np

from kernel_agent.tasks import camera
from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.annotation import Line, bounding_box
from kernel_agent.tasks.canvas import Canvas, Colour, wrap
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.placing import leaning, place, surface
from kernel_agent.tasks.typefaces import Role, Typeface, pick


def draw_label(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A label on a parcel, or on goods in a shop, seen somewhat from the side."""
    sheet, questions = _parcel(rng, faces) if rng.random() < 0.5 else _goods(rng, faces)
    width, height = sheet.size
    scale = rng.uniform(0.75, 1.0)
    size = (int(rng.integers(900, 1301)), int(rng.integers(760, 1051)))
    w, h = width * scale, height * scale
    x, y = rng.uniform(60, max(61, size[0] - w - 60)), rng.uniform(50, max(51, size[1] - h - 50))
    scene = Canvas.of(surface(rng, size))
    x0, y0 = max(10, x - rng.uniform(30, 200)), max(10, y - rng.uniform(30, 120))
    parcel = Canvas((400, 300), v.choose(rng, ((190, 150, 105), (176, 138, 98), (205, 200, 190), (80, 95, 120))))
    around = (x0, y0, min(size[0] - 10, x + w + rng.uniform(30, 250)), min(size[1] - 10, y + h + rng.uniform(30, 200)))
    place(scene, parcel, leaning(rng, around, 0.01, 1.0), shadow=12)
    matrix = place(scene, sheet, leaning(rng, (x, y, x + w, y + h), 0.02, 4.0), shadow=2)
    pixels = camera.light(rng, scene.pixels, rng.uniform(0.05, 0.35))
    pixels = camera.soft(rng, pixels, 0.3, 0.6)
    camera.grain(rng, pixels, rng.uniform(1, 5))
    moved = tuple(question.mapped(matrix) for question in questions)
    return Drawing(pixels=pixels, annotation=scene.annotation(), questions=moved, photo=True)


def _parcel(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> tuple[Canvas, list[Question]]:
    face = pick(rng, faces, Role.SANS)
    head = pick(rng, faces, Role.DISPLAY, Role.SANS)
    width, height = 640, 460
    canvas = Canvas((width, height), (253, 253, 251))
    canvas.rectangle((6, 6, width - 6, height - 6), (20, 20, 20), 2)
    for y in (86, 268, 352):
        canvas.line([(6, y), (width - 6, y)], (20, 20, 20), 2)
    canvas.line([(width * 0.62, 268), (width * 0.62, 352)], (20, 20, 20), 2)
    canvas.line([(width * 0.45, 86), (width * 0.45, 268)], (20, 20, 20), 1)
    _bars(rng, canvas, (40, 364, 420, 424))
    small, plain, strong = (face.regular, 14), (face.regular, 20), (face.bold, 22)
    carrier = v.choose(rng, ("EXPRESS", "PRIORITY", "STANDARD", "ECONOMY", "REGISTERED"))
    canvas.write(22, 62, carrier, (head.bold, 46), (10, 10, 10))
    canvas.paragraph()
    routing = v.code(rng, 1, 2)
    route = canvas.write(width - 24, 62, routing, (head.bold, 40), (10, 10, 10), "right")
    canvas.paragraph()
    sender, receiver = v.some(rng, v.FIRST_NAMES, 2), v.some(rng, v.LAST_NAMES, 2)
    names = [f"{first} {last}" for first, last in zip(sender, receiver, strict=True)]
    towns = []
    for name, title, left, font in ((names[0], "FROM", 20, small), (names[1], "TO", width * 0.45 + 16, plain)):
        canvas.write(left, 110, title, small)
        street, town = v.address(rng)
        rows = [canvas.write(left, 138.0, name, (face.bold, font[1] + 2))]
        for row, text in enumerate((street, town, "USA"), 1):
            rows.append(canvas.write(left, 138.0 + row * font[1] * 1.6, text, font))
        towns.append((town, rows[2], rows[0]))
        canvas.paragraph()
    weight = f"{rng.uniform(0.2, 24):.1f}"
    canvas.write(20, 292, "WEIGHT", small)
    weighed = canvas.write(20, 334, f"{weight} kg", strong)
    canvas.paragraph()
    day = v.date(rng)
    canvas.write(width * 0.3, 292, "SHIP DATE", small)
    dated = canvas.write(width * 0.3, 334, day, strong)
    canvas.paragraph()
    order = v.code(rng)
    canvas.write(width * 0.65, 292, "ORDER", small)
    ordered = canvas.write(width * 0.65, 334, order, strong)
    canvas.paragraph()
    tracking = f"{int(rng.integers(10**11, 10**12))}"
    tracked = canvas.write(230, 446, tracking, (face.regular, 16), align="middle")
    canvas.paragraph()
    code = towns[1][0].split()[-1]
    return canvas, [
        _read("To whom is the parcel addressed?", names[1], towns[1][2]),
        _read("What is the postal code of the receiver?", code, towns[1][1]),
        _read("Who sent the parcel?", names[0], towns[0][2]),
        _read("What is the order number on the label?", order, ordered),
        _read("What is the tracking number under the bar code?", tracking, tracked),
        _read("On which date was the parcel shipped?", day, dated),
        _read("What is the routing code beside the kind of service?", routing, route),
        Question(
            text="How heavy is the parcel, in kg?",
            answers=(weight,),
            kind=Kind.READING,
            answer_type=AnswerType.NUMBER,
            box=bounding_box(weighed.words[0].vertices),
        ),
    ]


def _goods(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> tuple[Canvas, list[Question]]:
    face = pick(rng, faces, Role.SANS, Role.SERIF)
    head = pick(rng, faces, Role.DISPLAY, Role.SERIF)
    accent: Colour = v.choose(rng, ((150, 30, 40), (30, 95, 60), (25, 60, 120), (120, 80, 20), (70, 40, 100)))
    paper: Colour = v.choose(rng, ((250, 246, 236), (255, 255, 252), (240, 244, 238)))
    width, height = 560, 620
    canvas = Canvas((width, height), paper)
    canvas.rectangle((0, 0, width, 120), accent)
    canvas.rectangle((14, 134, width - 14, height - 14), accent, 2)
    _bars(rng, canvas, (330, 500, 530, 580))
    brand = f"{v.choose(rng, v.LAST_NAMES)}'s"
    good = v.choose(rng, v.GOODS).split(" 1")[0]
    canvas.write(width / 2, 52, brand, (head.bold, 40), paper, "middle")
    canvas.paragraph()
    canvas.write(width / 2, 100, good, (head.bold, 34), paper, "middle")
    canvas.paragraph()
    contents = [w.split(" 1")[0].lower() for w in v.some(rng, v.GOODS, 6)]
    text = f"Ingredients: {', '.join(contents)}. Store {v.choose(rng, ('cool and dry', 'in the dark', 'below 8 C'))}. Shake the {v.choose(rng, ('jar', 'bottle', 'box'))} before use."
    y = 168.0
    for row in wrap(text, (face.regular, 18), width - 70):
        canvas.write(34, y, row, (face.regular, 18))
        y += 25
    canvas.paragraph()
    y = max(y + 14, 290)
    table: list[tuple[str, str, Line]] = []
    canvas.write(34, y, "Nutrition per 100 g", (face.bold, 18))
    canvas.paragraph()
    for name, unit, most in (("Energy", "kcal", 600), ("Fat", "g", 40), ("Sugars", "g", 60), ("Protein", "g", 30), ("Salt", "g", 4)):  # fmt: skip
        y += 27
        amount = str(int(rng.integers(20, most))) if most > 100 else f"{rng.uniform(0.1, most):.1f}"
        canvas.write(34, y, name, (face.regular, 17))
        table.append((name, amount, canvas.write(300, y, f"{amount} {unit}", (face.regular, 17), align="right")))
        canvas.paragraph()
    weight = str(int(rng.integers(3, 80)) * 25)
    net = canvas.write(width - 30, 320, f"{weight} g", (face.bold, 34), accent, "right")
    canvas.paragraph()
    batch, day = v.code(rng, 1, 5), v.date(rng)
    batched = canvas.write(34, height - 60, f"Batch {batch}", (face.regular, 16))
    dated = canvas.write(34, height - 34, f"Best before {day}", (face.regular, 16))
    canvas.paragraph()
    questions = [
        _read("What is the batch number?", batch, batched),
        _read("What is the best-before date?", day, dated),
        Question(
            text="What is the net weight, in g?",
            answers=(weight,),
            kind=Kind.READING,
            answer_type=AnswerType.NUMBER,
            box=bounding_box(net.words[0].vertices),
        ),
    ]
    for name, amount, line in v.some(rng, table, 2):
        questions.append(
            Question(
                text=f"According to the label, what is the value of {name} per 100 g?",
                answers=(amount, f"{amount} {line.words[-1].text}"),
                kind=Kind.READING,
                answer_type=AnswerType.NUMBER,
                box=bounding_box(line.vertices),
            )
        )
    return canvas, questions


def _read(text: str, answer: str, line: Line) -> Question:
    """A question whose answer is the last words of `line`."""
    count = answer.count(" ") + 1
    box = bounding_box(*(word.vertices for word in line.words[-count:]))
    return Question(text=text, answers=(answer,), kind=Kind.READING, box=box)


def _bars(rng: np.random.Generator, canvas: Canvas, box: tuple[int, int, int, int]) -> None:
    x, y0, x1, y1 = box
    while x < x1 - 4:
        wide = int(rng.integers(1, 5))
        canvas.rectangle((x, y0, x + wide, y1), (15, 15, 15))
        x += wide + int(rng.integers(1, 5))
