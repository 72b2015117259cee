"""Geometry figures as a school book prints them, with one quantity to work out. Drawn to scale, answers whole or given to one place."""

from __future__ import annotations

import math

import numpy as np

from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.canvas import Canvas, Colour
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.typefaces import Role, Typeface, pick

Point = tuple[float, float]
_INK: Colour = (24, 24, 28)
_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (6, 8, 10), (9, 12, 15), (12, 16, 20))


def draw_geometry(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A triangle, rectangle, circle, polygon or crossing lines, 520 to 760 pixels in width."""
    size = (int(rng.integers(520, 761)), int(rng.integers(420, 601)))
    canvas = Canvas(size, v.choose(rng, ((255, 255, 255), (255, 255, 255), (252, 250, 242))))
    if rng.random() < 0.25:
        for x in range(0, size[0], 24):
            canvas.line([(x, 0), (x, size[1])], (214, 228, 240))
        for y in range(0, size[1], 24):
            canvas.line([(0, y), (size[0], y)], (214, 228, 240))
    face = pick(rng, faces, Role.SERIF, Role.SERIF, Role.SANS)
    figure = v.choose(rng, (_triangle, _right_triangle, _rectangle, _circle, _crossing, _polygon))
    question = figure(rng, canvas, face)
    return Drawing(pixels=canvas.pixels, annotation=canvas.annotation(), questions=(question,))


def _question(text: str, *answers: str) -> Question:
    return Question(text=text, answers=answers, kind=Kind.GEOMETRY, answer_type=AnswerType.NUMBER)


def _fill(rng: np.random.Generator) -> Colour:
    return v.choose(rng, ((224, 234, 246), (246, 232, 222), (228, 242, 228), (242, 236, 250), (255, 255, 255)))


def _placed(rng: np.random.Generator, canvas: Canvas, points: list[Point], turn: float = 180.0) -> list[Point]:
    """The figure turned at random and scaled into the middle of the canvas."""
    array = np.asarray(points, dtype=np.float64)
    angle = np.radians(rng.uniform(-turn, turn))
    array = array @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    low, high = array.min(axis=0), array.max(axis=0)
    room = np.array(canvas.size) - 150.0
    scale = float((room / np.maximum(high - low, 1e-6)).min())
    array = (array - (low + high) / 2) * scale + np.array(canvas.size) / 2
    return [(float(x), float(y)) for x, y in array]


def _outline(canvas: Canvas, points: list[Point], fill: Colour) -> None:
    canvas.polygon(points, fill)
    canvas.line([*points, points[0]], _INK, 2)


def _centre(points: list[Point]) -> Point:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


def _mark(canvas: Canvas, at: Point, text: str, font: tuple[object, int]) -> None:
    canvas.write(at[0], at[1] + font[1] * 0.35, text, font, _INK, "middle")  # type: ignore[arg-type]
    canvas.paragraph()


def _corners(canvas: Canvas, points: list[Point], names: str, font: tuple[object, int]) -> None:
    middle = _centre(points)
    for point, name in zip(points, names, strict=True):
        _mark(canvas, _away(point, middle, 24), name, font)


def _away(point: Point, middle: Point, distance: float) -> Point:
    dx, dy = point[0] - middle[0], point[1] - middle[1]
    length = math.hypot(dx, dy) or 1.0
    return point[0] + dx / length * distance, point[1] + dy / length * distance


def _side(canvas: Canvas, a: Point, b: Point, middle: Point, text: str, font: tuple[object, int]) -> None:
    """A label outside the side from a to b, on its normal."""
    half = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    normal = (b[1] - a[1], a[0] - b[0])
    if (half[0] - middle[0]) * normal[0] + (half[1] - middle[1]) * normal[1] < 0:
        normal = (-normal[0], -normal[1])
    length = math.hypot(*normal) or 1.0
    distance = 16 + 5 * len(text) * abs(normal[0]) / length
    _mark(canvas, (half[0] + normal[0] / length * distance, half[1] + normal[1] / length * distance), text, font)


def _angle(canvas: Canvas, corner: Point, a: Point, b: Point, text: str, font: tuple[object, int]) -> None:
    """An arc at `corner` between the directions to a and b, with its label further in."""
    first = math.atan2(a[1] - corner[1], a[0] - corner[0])
    second = math.atan2(b[1] - corner[1], b[0] - corner[0])
    sweep = (second - first + math.pi) % (2 * math.pi) - math.pi
    radius = 34.0
    arc = [(corner[0] + radius * math.cos(first + sweep * t / 24), corner[1] + radius * math.sin(first + sweep * t / 24)) for t in range(25)]  # fmt: skip
    canvas.line(arc, (180, 50, 40), 2)
    reach = radius + 12 + 14 / max(math.sin(abs(sweep) / 2), 0.3)
    middle = first + sweep / 2
    _mark(canvas, (corner[0] + reach * math.cos(middle), corner[1] + reach * math.sin(middle)), text, font)


def _names(rng: np.random.Generator, count: int) -> str:
    start = v.choose(rng, ("ABCDEFGH", "PQRSTUVW", "KLMNOPQR"))
    return start[:count]


def _triangle(rng: np.random.Generator, canvas: Canvas, face: Typeface) -> Question:
    a = int(rng.integers(35, 86))
    b = int(rng.integers(35, min(100, 146 - a)))
    c = 180 - a - b
    base, names = 10.0, _names(rng, 3)
    height = base / (1 / math.tan(math.radians(a)) + 1 / math.tan(math.radians(b)))
    points = _placed(rng, canvas, [(0, 0), (base, 0), (height / math.tan(math.radians(a)), -height)])
    font, bold = (face.regular, 21), (face.bold, 23)
    _outline(canvas, points, _fill(rng))
    _angle(canvas, points[0], points[1], points[2], f"{a}°", font)
    _angle(canvas, points[1], points[0], points[2], f"{b}°", font)
    _angle(canvas, points[2], points[0], points[1], "x", bold)
    _corners(canvas, points, names, bold)
    return _question("What is the size of the angle x, in degrees?", str(c), f"{c}°")


def _right_triangle(rng: np.random.Generator, canvas: Canvas, face: Typeface) -> Question:
    a, b, c = v.choose(rng, _TRIPLES)
    unit, names = v.choose(rng, ("cm", "m", "mm")), _names(rng, 3)
    points = _placed(rng, canvas, [(0.0, 0.0), (float(b), 0.0), (0.0, -float(a))])
    _outline(canvas, points, _fill(rng))
    ex = [_away(points[0], points[k], -18) for k in (1, 2)]
    far = (ex[0][0] + ex[1][0] - points[0][0], ex[0][1] + ex[1][1] - points[0][1])
    canvas.line([ex[0], far, ex[1]], _INK, 1)
    font, bold = (face.regular, 21), (face.bold, 23)
    sides = {"a": (points[2], points[0], a), "b": (points[0], points[1], b), "c": (points[1], points[2], c)}
    asked = v.choose(rng, "abc")
    for key, (p, q, value) in sides.items():
        _side(canvas, p, q, _centre(points), "x" if key == asked else f"{value} {unit}", bold if key == asked else font)
    _corners(canvas, points, names, bold)
    answer = sides[asked][2]
    return _question(f"How long is the side x, in {unit}?", str(answer), f"{answer} {unit}")


def _rectangle(rng: np.random.Generator, canvas: Canvas, face: Typeface) -> Question:
    w, h = int(rng.integers(4, 25)), int(rng.integers(3, 16))
    unit, names = v.choose(rng, ("cm", "m")), _names(rng, 4)
    points = _placed(rng, canvas, [(0.0, 0.0), (float(w), 0.0), (float(w), float(h)), (0.0, float(h))], 25)
    _outline(canvas, points, _fill(rng))
    font, bold = (face.regular, 21), (face.bold, 23)
    middle = _centre(points)
    _side(canvas, points[0], points[1], middle, f"{w} {unit}", font)
    _side(canvas, points[1], points[2], middle, f"{h} {unit}", font)
    _corners(canvas, points, names, bold)
    if rng.random() < 0.5:
        return _question(f"What is the area of the rectangle {names}, in square {unit}?", str(w * h))
    return _question(
        f"What is the perimeter of the rectangle {names}, in {unit}?", str(2 * (w + h)), f"{2 * (w + h)} {unit}"
    )


def _circle(rng: np.random.Generator, canvas: Canvas, face: Typeface) -> Question:
    value = int(rng.integers(2, 30))
    centre = (canvas.size[0] / 2, canvas.size[1] / 2)
    radius = min(canvas.size) / 2 - 60
    canvas.circle(centre, radius, _fill(rng))
    canvas.circle(centre, radius, _INK, 2)
    canvas.circle(centre, 4, _INK)
    angle = float(rng.uniform(0, 2 * math.pi))
    rim = (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
    across = rng.random() < 0.5
    start = (2 * centre[0] - rim[0], 2 * centre[1] - rim[1]) if across else centre
    canvas.line([start, rim], (40, 80, 160), 2)
    font = (face.regular, 22)
    away = (centre[0] + math.sin(angle), centre[1] - math.cos(angle))
    _side(canvas, start, rim, (2 * centre[0] - away[0], 2 * centre[1] - away[1]), f"{value} cm", font)
    _mark(canvas, (centre[0] - 16 * math.sin(angle), centre[1] + 16 * math.cos(angle)), "O", (face.bold, 20))
    if across:
        half = value // 2 if value % 2 == 0 else value / 2
        return _question("What is the radius of the circle with centre O, in cm?", str(half), f"{half} cm")
    return _question("What is the diameter of the circle with centre O, in cm?", str(2 * value), f"{2 * value} cm")


def _crossing(rng: np.random.Generator, canvas: Canvas, face: Typeface) -> Question:
    angle = int(rng.integers(32, 149))
    turn = float(rng.uniform(0, 360))
    centre = (canvas.size[0] / 2, canvas.size[1] / 2)
    reach = min(canvas.size) / 2 - 50

    def at(degrees: float) -> Point:
        radians = math.radians(degrees)
        return centre[0] + reach * math.cos(radians), centre[1] + reach * math.sin(radians)

    a, b, c, d = at(turn), at(turn + angle), at(turn + 180), at(turn + 180 + angle)
    canvas.line([a, c], _INK, 2)
    canvas.line([b, d], _INK, 2)
    font, bold = (face.regular, 22), (face.bold, 24)
    _angle(canvas, centre, a, b, f"{angle}°", font)
    opposite = rng.random() < 0.5
    _angle(canvas, centre, *((c, d) if opposite else (b, c)), "x", bold)
    for point, name in zip((a, b, c, d), _names(rng, 4), strict=True):
        _mark(canvas, _away(point, centre, 22), name, bold)
    answer = angle if opposite else 180 - angle
    return _question(
        "Two straight lines cross. What is the size of the angle x, in degrees?", str(answer), f"{answer}°"
    )


def _polygon(rng: np.random.Generator, canvas: Canvas, face: Typeface) -> Question:
    count, value = int(rng.integers(5, 9)), int(rng.integers(2, 20))
    names = _names(rng, count)
    corners = [(math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count)]
    points = _placed(rng, canvas, corners)
    _outline(canvas, points, _fill(rng))
    _side(canvas, points[0], points[1], _centre(points), f"{value} cm", (face.regular, 21))
    _corners(canvas, points, names, (face.bold, 23))
    kind = int(rng.integers(3))
    if kind == 0:
        return _question("How many corners does the figure have?", str(count))
    if kind == 1:
        return _question(f"All sides of the figure {names} are equal. What is its perimeter, in cm?", str(count * value), f"{count * value} cm")  # fmt: skip
    return _question("What is the sum of the inner angles of the figure, in degrees?", str((count - 2) * 180), f"{(count - 2) * 180}°")  # fmt: skip
