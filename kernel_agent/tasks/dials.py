"""Dials: round gauges with a needle on a tick, and clocks on a whole minute."""

from __future__ import annotations

import numpy as np

from kernel_agent.tasks import camera
from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.canvas import Canvas, Colour
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.placing import surface
from kernel_agent.tasks.typefaces import Role, Typeface, pick

_UNITS = (
    ("Pressure", "bar"),
    ("Speed", "km/h"),
    ("Temperature", "°C"),
    ("Load", "kg"),
    ("Voltage", "V"),
    ("Flow", "l/min"),
)
_RED: Colour = (196, 40, 36)


def draw_dial(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """One dial on a wall or board, 620 to 900 pixels in width. The face takes a third to two thirds of it."""
    size = (int(rng.integers(620, 901)), int(rng.integers(520, 721)))
    scene = Canvas.of(surface(rng, size))
    radius = min(size) * rng.uniform(0.26, 0.42)
    centre = (
        float(rng.uniform(radius + 20, size[0] - radius - 20)),
        float(rng.uniform(radius + 20, size[1] - radius - 20)),
    )
    ground, ink = v.choose(
        rng, (((250, 250, 248), (24, 24, 28)), ((240, 236, 224), (40, 34, 30)), ((34, 36, 40), (240, 240, 236)))
    )
    scene.circle((centre[0] + 6, centre[1] + 8), radius * 1.1, (40, 38, 38))
    scene.circle(centre, radius * 1.1, v.choose(rng, ((92, 94, 100), (170, 140, 80), (30, 30, 32), (190, 192, 196))))
    scene.circle(centre, radius, ground)
    draw = _clock if rng.random() < 0.35 else _gauge
    question = draw(rng, scene, centre, radius, pick(rng, faces, Role.SANS, Role.SERIF), ink)
    pixels = camera.light(rng, scene.pixels, rng.uniform(0.02, 0.25))
    pixels = camera.soft(rng, pixels, 0.4, 0.8)
    camera.grain(rng, pixels, rng.uniform(1, 4))
    return Drawing(pixels=pixels, annotation=scene.annotation(), questions=question, photo=True)


def _at(centre: tuple[float, float], degrees: float, distance: float) -> tuple[float, float]:
    """A point at `degrees` clockwise from the top."""
    angle = np.radians(degrees)
    return centre[0] + float(np.sin(angle)) * distance, centre[1] - float(np.cos(angle)) * distance


def _gauge(
    rng: np.random.Generator, scene: Canvas, centre: tuple[float, float], radius: float, face: Typeface, ink: Colour
) -> tuple[Question, ...]:
    marks = int(rng.integers(5, 11))
    step = v.choose(rng, (1, 2, 5, 10, 20, 25, 50, 100))
    between = v.choose(rng, (2, 5)) if step % 10 == 0 else 5 if step % 5 == 0 else 2 if step % 2 == 0 else 1
    ticks = marks * between
    first, last = -135.0, 135.0

    def degrees(tick: float) -> float:
        return first + (last - first) * tick / ticks

    if rng.random() < 0.4:
        zone = [_at(centre, degrees(t), radius * d) for d in (0.93, 0.84) for t in np.linspace(ticks * 0.8, ticks, 20)]
        scene.polygon([*zone[:20], *reversed(zone[20:])], (214, 70, 60))
    for tick in range(ticks + 1):
        large = tick % between == 0
        inner = 0.8 if large else 0.86
        scene.line(
            [_at(centre, degrees(tick), radius * inner), _at(centre, degrees(tick), radius * 0.93)],
            ink,
            3 if large else 1,
        )
    name, unit = v.choose(rng, _UNITS)
    size = max(12, round(radius * (0.115 if marks < 8 or step < 100 else 0.09)))
    for mark in range(marks + 1):
        x, y = _at(centre, degrees(mark * between), radius * 0.66)
        scene.write(x, y + size * 0.36, str(mark * step), (face.bold, size), ink, "middle")
        scene.paragraph()
    scene.write(centre[0], centre[1] + radius * 0.42, name, (face.regular, size), ink, "middle")
    scene.write(centre[0], centre[1] + radius * 0.58, unit, (face.regular, size), ink, "middle")
    scene.paragraph()
    tick = int(rng.integers(0, ticks + 1))
    needle = v.choose(rng, (_RED, _RED, ink))
    angle = degrees(tick)
    tip, tail = _at(centre, angle, radius * 0.83), _at(centre, angle + 180, radius * 0.16)
    scene.polygon([tip, _at(centre, angle + 90, radius * 0.03), tail, _at(centre, angle - 90, radius * 0.03)], needle)
    scene.circle(centre, radius * 0.06, needle)
    value = tick * step // between
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    largest = marks * step
    return (
        Question(text=f"What does the gauge show, in {unit}?", answers=(str(value),), kind=Kind.DIAL, answer_type=AnswerType.NUMBER, box=box),
        Question(text="What is the largest value on the scale?", answers=(str(largest),), kind=Kind.DIAL, answer_type=AnswerType.NUMBER, box=box),
        Question(text="What quantity does the gauge measure?", answers=(name,), kind=Kind.DIAL, box=box),
    )  # fmt: skip


def _clock(
    rng: np.random.Generator, scene: Canvas, centre: tuple[float, float], radius: float, face: Typeface, ink: Colour
) -> tuple[Question, ...]:
    for tick in range(60):
        large = tick % 5 == 0
        inner, thick = (0.86, 3) if large else (0.91, 1)
        scene.line([_at(centre, tick * 6, radius * inner), _at(centre, tick * 6, radius * 0.96)], ink, thick)
    size = max(14, round(radius * 0.16))
    for numeral in range(1, 13):
        x, y = _at(centre, numeral * 30, radius * 0.72)
        scene.write(x, y + size * 0.36, str(numeral), (face.bold, size), ink, "middle")
        scene.paragraph()
    hour, minute = int(rng.integers(1, 13)), int(rng.integers(60))
    hands = ((hour % 12 * 30 + minute / 2, 0.5, 0.034), (minute * 6.0, 0.82, 0.022))
    for angle, length, half in hands:
        tail = _at(centre, angle + 180, radius * 0.12)
        left, right = _at(centre, angle - 90, radius * half), _at(centre, angle + 90, radius * half)
        scene.polygon([_at(centre, angle, radius * length), right, tail, left], ink)
    scene.circle(centre, radius * 0.05, ink)
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    answers = tuple(dict.fromkeys((f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}")))
    text = "What time does the clock show? Answer as hours:minutes, from 1:00 to 12:59."
    return (Question(text=text, answers=answers, kind=Kind.DIAL, box=box),)
