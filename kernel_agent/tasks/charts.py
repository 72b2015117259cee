"""Bar, line and pie charts with exact values: every question can be answered from what is printed or from the axis.

Values that are not printed beside their mark lie on a fifth of a tick, so that a careful reader gets them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.annotation import bounding_box
from kernel_agent.tasks.canvas import Canvas, Colour, text_width
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.typefaces import Role, Typeface, pick
from kernel_agent.types import Box

MEASURES = (
    "Visitors (thousands)", "Revenue (million)", "Rainfall (mm)", "Energy use (MWh)", "Parcels per day", "Members",
    "Harvest (tonnes)", "Temperature (°C)", "Trips per week", "Books lent", "Cost (EUR)", "Output (units)",
)  # fmt: skip
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PALETTES: tuple[tuple[Colour, ...], ...] = (
    ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194)),
    ((38, 70, 83), (42, 157, 143), (233, 196, 106), (244, 162, 97), (231, 111, 81), (120, 130, 140), (150, 90, 130)),
    ((66, 133, 244), (219, 68, 55), (244, 180, 0), (15, 157, 88), (171, 71, 188), (0, 172, 193), (120, 120, 120)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plot:
    """The axes: `box` in pixels, values from 0 to `top`, a tick every `step`."""

    box: Box
    top: int
    step: int

    def y(self, value: float) -> float:
        return self.box[3] - (self.box[3] - self.box[1]) * value / self.top


def draw_chart(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A chart of 640 to 960 pixels in width: bars, grouped bars, lines, or a pie."""
    kind = rng.random()
    draw = _bars if kind < 0.45 else _lines if kind < 0.75 else _pie
    return draw(rng, faces)


def _frame(
    rng: np.random.Generator, face: Typeface, title: str, measure: str, highest: int
) -> tuple[Canvas, _Plot, int]:
    width, height = int(rng.integers(640, 961)), int(rng.integers(460, 641))
    size = int(rng.integers(14, 19))
    canvas = Canvas(
        (width, height), v.choose(rng, ((255, 255, 255), (255, 255, 255), (250, 250, 247), (244, 246, 250)))
    )
    steps = [s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000) if 4 <= -(-highest // s) <= 9]
    step = v.choose(rng, steps)
    top = -(-highest // step) * step
    plot = _Plot(box=(size * 5.0, size * 4.5, width - size * 2.0, height - size * 4.5), top=top, step=step)
    x0, y0, x1, y1 = plot.box
    if rng.random() < 0.25:
        canvas.rectangle(plot.box, (236, 238, 242))
    grid = rng.random() < 0.8
    for value in range(0, top + 1, step):
        y = plot.y(value)
        if grid:
            canvas.line([(x0, y), (x1, y)], (212, 214, 220))
        canvas.line([(x0 - 5, y), (x0, y)], (60, 60, 64))
    canvas.line([(x0, y0), (x0, y1)], (60, 60, 64), 2)
    canvas.line([(x0, y1), (x1, y1)], (60, 60, 64), 2)
    return canvas, plot, size


def _finish(canvas: Canvas, plot: _Plot, face: Typeface, size: int, title: str, measure: str) -> None:
    x0, y0, x1, y1 = plot.box
    font = (face.regular, size)
    canvas.write((x0 + x1) / 2, size * 2.2, title, (face.bold, _smaller(title, face, size + 5, canvas.size[0] - 20)), (24, 24, 28), "middle")  # fmt: skip
    canvas.paragraph()
    for value in range(0, plot.top + 1, plot.step):
        canvas.write(x0 - 9, plot.y(value) + size * 0.35, str(value), font, (50, 50, 54), "right")
        canvas.paragraph()
    canvas.write_upwards(size * 1.2, (y0 + y1) / 2, measure, font, (50, 50, 54))


def _smaller(text: str, face: Typeface, size: int, width: float) -> int:
    while size > 9 and text_width(text, (face.bold, size)) > width:
        size -= 1
    return size


def _ask(text: str, value: int, box: Box | None = None) -> Question:
    return Question(text=text, answers=(str(value),), kind=Kind.CHART, answer_type=AnswerType.NUMBER, box=box)


def _name(text: str, name: str, box: Box | None = None) -> Question:
    return Question(text=text, answers=(name,), kind=Kind.CHART, box=box)


def _bars(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    face = pick(rng, faces, Role.SANS, Role.SANS, Role.SERIF)
    count = int(rng.integers(4, 8))
    series = 1 if rng.random() < 0.6 else int(rng.integers(2, 4))
    names = _categories(rng, count)
    keys = v.some(rng, ("2019", "2020", "2021", "2022", "2023", "2024"), series) if series > 1 else [""]
    keys.sort()
    highest = int(rng.integers(12, 500))
    title, measure = v.heading(rng), v.choose(rng, MEASURES)
    canvas, plot, size = _frame(rng, face, title, measure, highest)
    printed = series == 1 and rng.random() < 0.5
    grain = 1 if printed else max(1, plot.step // 5)
    values = (rng.integers(1, plot.top // grain + 1, (count, series)) * grain).astype(int)
    x0, _, x1, y1 = plot.box
    slot = (x1 - x0) / count
    wide = slot * rng.uniform(0.5, 0.8) / series
    palette = v.choose(rng, _PALETTES)
    start = int(rng.integers(len(palette)))
    boxes: dict[tuple[int, int], Box] = {}
    for i in range(count):
        for j in range(series):
            left = x0 + slot * (i + 0.5) + wide * (j - series / 2)
            box = (left, plot.y(int(values[i, j])), left + wide - (1 if series > 1 else 0), y1 - 1)
            canvas.rectangle(box, palette[(start + j) % len(palette)])
            boxes[i, j] = box
    if series > 1:
        _legend(canvas, plot, face, size, keys, [palette[(start + j) % len(palette)] for j in range(series)])
    _finish(canvas, plot, face, size, title, measure)
    small = size
    while max(text_width(n, (face.regular, small)) for n in names) > slot * 0.96 and small > 9:
        small -= 1
    for i, name in enumerate(names):
        canvas.write(x0 + slot * (i + 0.5), y1 + size * 1.6, name, (face.regular, small), (40, 40, 44), "middle")
        canvas.paragraph()
        if printed:
            canvas.write(x0 + slot * (i + 0.5), boxes[i, 0][1] - 5, str(values[i, 0]), (face.regular, size), (40, 40, 44), "middle")  # fmt: skip
            canvas.paragraph()
    i, j = int(rng.integers(count)), int(rng.integers(series))
    of = f" in {keys[j]}" if series > 1 else ""
    column = values[:, j]
    questions = [_ask(f"What is the value for {names[i]}{of}?", int(values[i, j]), boxes[i, j])]
    for word, k in (("highest", int(column.argmax())), ("lowest", int(column.argmin()))):
        if int((column == column[k]).sum()) == 1:
            questions.append(_name(f"Which one has the {word} value{of}?", names[k], boxes[k, j]))
    a, b = (int(x) for x in rng.permutation(count)[:2])
    questions.append(
        _ask(f"By how much do {names[a]} and {names[b]} differ{of}?", abs(int(column[a]) - int(column[b])))
    )
    bound = plot.step * max(1, plot.top // plot.step // 2)
    questions.append(_ask(f"How many are above {bound}{of}?", int((column > bound).sum())))
    if series > 1:
        questions.append(_ask(f"What is the sum over all years for {names[i]}?", int(values[i].sum())))
    return Drawing(pixels=canvas.pixels, annotation=canvas.annotation(), questions=tuple(questions))


def _lines(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    face = pick(rng, faces, Role.SANS, Role.SANS, Role.SERIF)
    series = int(rng.integers(1, 4))
    count = int(rng.integers(5, 13))
    ticks = list(_MONTHS[:count]) if rng.random() < 0.5 else [str(2010 + i) for i in range(count)]
    keys = v.some(rng, v.CITIES, series)
    title, measure = v.heading(rng), v.choose(rng, MEASURES)
    canvas, plot, size = _frame(rng, face, title, measure, int(rng.integers(15, 400)))
    grain = max(1, plot.step // 5)
    levels = plot.top // grain
    walk = np.cumsum(rng.normal(0, levels / 7, (count, series)), axis=0) + rng.uniform(0.3, 0.7, (1, series)) * levels
    values = (np.clip(np.round(walk), 1, levels) * grain).astype(int)
    x0, _, x1, y1 = plot.box
    pad = (x1 - x0) * 0.04
    xs = np.linspace(x0 + pad, x1 - pad, count)
    palette = v.choose(rng, _PALETTES)
    for j in range(series):
        points = [(float(xs[i]), plot.y(int(values[i, j]))) for i in range(count)]
        canvas.line(points, palette[j], 2)
        for point in points:
            canvas.circle(point, 4, palette[j])
    if series > 1:
        _legend(canvas, plot, face, size, keys, list(palette[:series]))
    _finish(canvas, plot, face, size, title, measure)
    for i, tick in enumerate(ticks):
        canvas.write(float(xs[i]), y1 + size * 1.6, tick, (face.regular, size - 1), (40, 40, 44), "middle")
        canvas.paragraph()
    i, j = int(rng.integers(count)), int(rng.integers(series))
    of = f" of {keys[j]}" if series > 1 else ""
    line = values[:, j]
    point = (float(xs[i]), plot.y(int(line[i])))
    near = (point[0] - 12, point[1] - 12, point[0] + 12, point[1] + 12)
    questions = [_ask(f"What is the value{of} in {ticks[i]}?", int(line[i]), near)]
    for word, k in (("highest", int(line.argmax())), ("lowest", int(line.argmin()))):
        if int((line == line[k]).sum()) == 1:
            questions.append(_name(f"When is the value{of} {word}?", ticks[k]))
    change = int(line[-1]) - int(line[0])
    questions.append(
        _ask(
            f"By how much does the value{of} change from {ticks[0]} to {ticks[-1]}? Give a decrease as negative.",
            change,
        )
    )
    questions.append(
        _ask(f"How often does the value{of} rise from one point to the next?", int((np.diff(line) > 0).sum()))
    )
    return Drawing(pixels=canvas.pixels, annotation=canvas.annotation(), questions=tuple(questions))


def _pie(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    face = pick(rng, faces, Role.SANS)
    count = int(rng.integers(3, 7))
    names = _categories(rng, count)
    while True:
        shares = np.floor(rng.dirichlet(np.full(count, 2.5)) * 100).astype(int)
        shares[0] += 100 - int(shares.sum())
        if shares.min() >= 4 and len(set(shares.tolist())) == count:
            break
    width, height = int(rng.integers(640, 861)), int(rng.integers(470, 601))
    size = int(rng.integers(15, 20))
    canvas = Canvas((width, height), v.choose(rng, ((255, 255, 255), (250, 250, 247))))
    radius = height * 0.34
    centre = (width * 0.36, height * 0.56)
    palette = v.choose(rng, _PALETTES)
    hole = rng.random() < 0.4
    angle = float(rng.uniform(0, 360))
    middles = []
    for index, share in enumerate(shares):
        sweep = share * 3.6
        arc = cv2.ellipse2Poly((round(centre[0] * 8), round(centre[1] * 8)), (round(radius * 8),) * 2, 0, round(angle), round(angle + sweep), 1)  # fmt: skip
        canvas.polygon([centre, *((float(x) / 8, float(y) / 8) for x, y in arc)], palette[index % len(palette)])
        middles.append(np.radians(angle + sweep / 2))
        angle += sweep
    ground: Colour = tuple(int(c) for c in canvas.pixels[0, 0])  # type: ignore[assignment]
    if hole:
        canvas.circle(centre, radius * 0.5, ground)
    at = [(centre[0] + np.cos(m) * radius * (0.76 if hole else 0.68), centre[1] + np.sin(m) * radius * (0.76 if hole else 0.68)) for m in middles]  # fmt: skip
    title = v.heading(rng)
    keys = [(width * 0.7, height * 0.34 + index * size * 2.0) for index in range(count)]
    for index, (x, y) in enumerate(keys):
        canvas.rectangle((x, y - size * 0.8, x + size, y + size * 0.2), palette[index % len(palette)])
    canvas.write(
        width / 2, size * 2.2, title, (face.bold, _smaller(title, face, size + 6, width - 20)), (24, 24, 28), "middle"
    )
    canvas.paragraph()
    boxes: list[Box] = []
    for index, share in enumerate(shares):
        colour = palette[index % len(palette)]
        ink: Colour = (20, 20, 20) if sum(colour) > 400 else (255, 255, 255)
        line = canvas.write(at[index][0], at[index][1] + size * 0.35, f"{share}%", (face.bold, size), ink, "middle")
        canvas.paragraph()
        boxes.append(bounding_box(line.vertices))
    legend: list[Box] = []
    for (x, y), name in zip(keys, names, strict=True):
        legend.append(bounding_box(canvas.write(x + size * 1.5, y, name, (face.regular, size), (40, 40, 44)).vertices))
        canvas.paragraph()
    i = int(rng.integers(count))
    a, b = (int(x) for x in rng.permutation(count)[:2])
    most, least = int(shares.argmax()), int(shares.argmin())
    return Drawing(
        pixels=canvas.pixels,
        annotation=canvas.annotation(),
        questions=(
            _ask(f"What is the share of {names[i]}, in percent?", int(shares[i]), boxes[i]),
            _name("Which has the largest share?", names[most], legend[most]),
            _name("Which has the smallest share?", names[least], legend[least]),
            _ask(f"What is the share of {names[a]} and {names[b]} together, in percent?", int(shares[a] + shares[b])),
            _ask("How many parts are smaller than 20 percent?", int((shares < 20).sum())),
        ),
    )


def _categories(rng: np.random.Generator, count: int) -> list[str]:
    one_word = [good for good in v.GOODS if " " not in good]
    return v.some(rng, v.choose(rng, (v.LAST_NAMES, tuple(one_word), v.FIRST_NAMES)), count)


def _legend(canvas: Canvas, plot: _Plot, face: Typeface, size: int, keys: list[str], colours: list[Colour]) -> None:
    """Between title and axes, from the right."""
    x = plot.box[2]
    y = plot.box[1] - size * 0.7
    for key, colour in reversed(list(zip(keys, colours, strict=True))):
        x -= text_width(key, (face.regular, size))
        canvas.write(x, y, key, (face.regular, size), (40, 40, 44))
        canvas.paragraph()
        x -= size * 1.5
        canvas.rectangle((x, y - size * 0.8, x + size, y + size * 0.2), colour)
        x -= size
