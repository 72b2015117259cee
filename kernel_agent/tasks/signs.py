"""Signs in a street: shop fronts, street names, opening hours, notices on walls, seen in perspective."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from kernel_agent.tasks import camera
from kernel_agent.tasks import vocabulary as v
from kernel_agent.tasks.annotation import Line, bounding_box
from kernel_agent.tasks.canvas import Canvas, Colour, Pixels, text_width, wrap
from kernel_agent.tasks.drawing import Drawing, Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind
from kernel_agent.tasks.placing import Quad, leaning, place
from kernel_agent.tasks.typefaces import Role, Typeface, pick

_INKS: tuple[tuple[Colour, Colour], ...] = (
    ((28, 66, 130), (245, 245, 245)),
    ((20, 92, 60), (248, 248, 244)),
    ((160, 30, 36), (250, 246, 236)),
    ((34, 34, 38), (240, 220, 140)),
    ((244, 240, 228), (40, 40, 44)),
    ((240, 196, 40), (24, 24, 24)),
    ((92, 48, 30), (246, 232, 206)),
)
_Sheet = tuple[Canvas, list[Question]]


def draw_signs(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> Drawing:
    """A street of 1200 to 1500 pixels in width with three to five signs; each question names its sign, not its place."""
    width, height = int(rng.integers(1200, 1501)), int(rng.integers(860, 1051))
    scene, slots = _street(rng, width, height)
    questions: list[Question] = []
    boards: list[Callable[[np.random.Generator, tuple[Typeface, ...]], _Sheet]] = [
        _shop,
        _street_name,
        _hours,
        _notice,
        _parking,
    ]
    for board, (x, y, w, h) in zip(boards, slots, strict=False):
        sheet, asked = board(rng, faces)
        fit = min(w / sheet.size[0], h / sheet.size[1])
        across, down = sheet.size[0] * fit, sheet.size[1] * fit
        left, top = x + (w - across) * rng.random(), y + (h - down) * rng.random()
        quad: Quad = leaning(rng, (left, top, left + across, top + down), 0.03, 2.5)
        matrix = place(scene, sheet, quad, shadow=int(rng.integers(2, 7)))
        questions.extend(question.mapped(matrix) for question in asked)
    pixels = camera.light(rng, scene.pixels, rng.uniform(0.05, 0.35))
    pixels = camera.soft(rng, pixels, 0.3, 0.6)
    camera.grain(rng, pixels, rng.uniform(1, 6))
    return Drawing(pixels=pixels, annotation=scene.annotation(), questions=tuple(questions), photo=True)


def _street(
    rng: np.random.Generator, width: int, height: int
) -> tuple[Canvas, list[tuple[float, float, float, float]]]:
    """House, pavement, sky; and where there is room for a shop sign, a street name, hours, a notice, a parking sign."""
    sky = np.asarray(v.choose(rng, ((150, 190, 226), (196, 204, 212), (226, 200, 170), (120, 140, 170))), np.float32)
    canvas = Canvas((width, height))
    pixels = canvas.pixels
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    column = np.ascontiguousarray((sky + (250 - sky) * ramp * 0.6).astype(np.uint8)[:, None, :])
    cv2.repeat(column, 1, width, dst=pixels)
    wall = np.asarray(
        v.choose(rng, ((168, 96, 74), (198, 186, 164), (140, 142, 146), (206, 190, 150), (112, 124, 132)))
    )
    right = round(width * rng.uniform(0.74, 0.84))
    ground = round(height * rng.uniform(0.82, 0.87))
    top = round(height * rng.uniform(0.02, 0.08))
    canvas.rectangle((0, top, right, ground), _colour(wall))
    _courses(rng, pixels[top:ground, :right], wall)
    far = round(height * rng.uniform(0.3, 0.5))
    canvas.rectangle((right, far, width, ground), _colour(wall * 0.4 + sky * 0.5))
    for left in range(right + 24, width - 30, 62):
        for above in range(far + 26, ground - 50, 74):
            canvas.rectangle((left, above, left + 32, above + 44), (92, 104, 120))
    canvas.rectangle((0, ground, width, height), v.choose(rng, ((122, 120, 118), (150, 144, 136), (98, 98, 104))))
    for joint in range(-width, 2 * width, 130):
        canvas.line([(joint, height), (joint + (width / 2 - joint) * 0.25, ground)], (108, 106, 104), 1)
    canvas.line([(0, ground), (width, ground)], (70, 68, 66), 4)
    glass, frame = (72, 88, 104), v.choose(rng, ((240, 238, 232), (60, 50, 44), (40, 66, 58)))
    board = round(height * 0.3)
    door = right * 0.62, ground - height * 0.42, right * 0.8, ground
    window = right * 0.05, height * 0.46, right * 0.34, ground - height * 0.08
    for index in range(4):
        x = right * (0.06 + 0.24 * index)
        box = (x, top + height * 0.03, x + right * 0.13, top + height * 0.14)
        canvas.rectangle(box, glass)
        canvas.rectangle(box, frame, 5)
    for opening in (door, window):
        canvas.rectangle(opening, glass)
        x0, y0, x1, y1 = opening
        canvas.polygon([(x0 + (x1 - x0) * 0.2, y1), (x0 + (x1 - x0) * 0.5, y1), (x0 + (x1 - x0) * 0.9, y0), (x0 + (x1 - x0) * 0.6, y0)], (88, 106, 122))  # fmt: skip
        canvas.rectangle(opening, frame, 9)
    canvas.circle((door[0] + 22, (door[1] + door[3]) / 2), 6, (200, 180, 90))
    pole = right + (width - right) * 0.5
    canvas.rectangle((pole - 5, height * 0.26, pole + 5, ground + 20), (84, 86, 90))
    free = width - right - 16
    return canvas, [
        (right * 0.05, board - height * 0.1, right * 0.72, height * 0.22),
        (right * 0.79, board - height * 0.09, right * 0.2, height * 0.1),
        (right * 0.4, height * 0.47, right * 0.18, height * 0.3),
        (right * 0.825, height * 0.45, right * 0.165, height * 0.32),
        (right + 8, height * 0.2, free, height * 0.24),
    ]


def _courses(rng: np.random.Generator, part: Pixels, wall: NDArray[np.integer]) -> None:
    """Bricks or plaster."""
    height, width = part.shape[:2]
    if rng.random() < 0.6:
        mortar = tuple(float(c) for c in np.clip(wall * 0.82 + 20, 0, 255))
        tall, long = 18, 52
        shades = rng.integers(-12, 13, (height // tall + 1, width // long + 2))
        tone = cv2.resize(shades.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
        _shade(part, np.asarray(tone, dtype=np.float32))
        for row, y in enumerate(range(0, height, tall)):
            cv2.line(part, (0, y), (width, y), mortar, 2)
            for x in range((row % 2) * long // 2, width, long):
                cv2.line(part, (x, y), (x, y + tall), mortar, 2)
    else:
        coarse = rng.normal(0, 7, (height // 3, width // 3)).astype(np.float32)
        tone = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        _shade(part, np.asarray(tone, dtype=np.float32))


def _shade(part: Pixels, tone: NDArray[np.float32]) -> None:
    """Brighter or darker by `tone`, in place."""
    brighter, darker = (np.clip(sign * tone, 0, 255).astype(np.uint8) for sign in (1, -1))
    part[:] = cv2.subtract(cv2.add(part, cv2.merge([brighter] * 3)), cv2.merge([darker] * 3))


def _colour(values: NDArray[np.floating | np.integer]) -> Colour:
    red, green, blue = (int(c) for c in np.clip(values, 0, 255))
    return red, green, blue


def _board(size: tuple[int, int], ground: Colour, ink: Colour) -> Canvas:
    canvas = Canvas(size, ground)
    canvas.rectangle((5, 5, size[0] - 5, size[1] - 5), ink, 3)
    return canvas


def _fitting(text: str, face: Typeface, width: float, most: int) -> tuple[object, int]:
    """The bold face at the largest size, up to `most`, at which `text` is no wider than `width`."""
    size = most
    while size > 12 and text_width(text, (face.bold, size)) > width:
        size -= 2
    return face.bold, size


def _shop(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> _Sheet:
    ground, ink = v.choose(rng, _INKS)
    name, since, call = v.shop(rng), str(int(rng.integers(1880, 2022))), v.phone(rng)
    face, small = pick(rng, faces, Role.DISPLAY, Role.SERIF), pick(rng, faces, Role.SANS)
    canvas = _board((900, 190), ground, ink)
    path, size = _fitting(name, face, 820, 92)
    named = canvas.write(450, 70 + size * 0.35, name, (path, size), ink, "middle")  # type: ignore[arg-type]
    canvas.paragraph()
    lower = canvas.write(450, 166, f"Since {since} - Call {call}", (small.regular, 26), ink, "middle")
    canvas.paragraph()
    return canvas, [
        Question(text="What is the name of the shop?", answers=(name,), kind=Kind.READING, box=bounding_box(named.vertices)),
        _number("Since which year does the shop exist?", since, lower, 1),
        Question(text="What is the telephone number on the shop sign?", answers=(call,), kind=Kind.READING, box=bounding_box(lower.words[-1].vertices)),
    ]  # fmt: skip


def _street_name(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> _Sheet:
    ground, ink = v.choose(rng, _INKS[:4])
    name = v.choose(rng, v.STREETS).upper()
    face = pick(rng, faces, Role.SANS, Role.DISPLAY)
    canvas = _board((460, 120), ground, ink)
    path, size = _fitting(name, face, 410, 58)
    line = canvas.write(230, 60 + size * 0.36, name, (path, size), ink, "middle")  # type: ignore[arg-type]
    canvas.paragraph()
    return canvas, [
        Question(text="What does the street sign say?", answers=(name,), kind=Kind.READING, box=bounding_box(line.vertices))
    ]  # fmt: skip


def _hours(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> _Sheet:
    ground, ink = v.choose(rng, ((_INKS[4]), ((252, 252, 250), (30, 30, 34)), ((40, 44, 48), (236, 236, 230))))
    face = pick(rng, faces, Role.SANS, Role.SERIF)
    canvas = _board((340, 420), ground, ink)
    canvas.write(170, 62, "OPENING HOURS", (face.bold, 32), ink, "middle")
    canvas.paragraph()
    questions = []
    y = 116.0
    closed = int(rng.integers(7))
    for index, day in enumerate(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")):
        opens, closes = f"{int(rng.integers(6, 12)):02d}:{v.choose(rng, ('00', '15', '30', '45'))}", f"{int(rng.integers(13, 23)):02d}:{v.choose(rng, ('00', '15', '30', '45'))}"  # fmt: skip
        canvas.write(28, y, day, (face.regular, 23), ink)
        hours = "closed" if index == closed else f"{opens} - {closes}"
        line = canvas.write(312, y, hours, (face.regular, 23), ink, "right")
        canvas.paragraph()
        box = bounding_box(line.vertices)
        if index == closed:
            questions.append(
                Question(text="On which day is the shop closed?", answers=(day,), kind=Kind.READING, box=box)
            )
        else:
            when, word = v.choose(rng, (("open", 0), ("close", 2)))
            answer = (opens, closes)[word // 2]
            questions.append(
                Question(
                    text=f"At what time does the shop {when} on {day}?",
                    answers=(answer, answer.lstrip("0")) if answer[0] == "0" else (answer,),
                    kind=Kind.READING,
                    box=bounding_box(line.words[word].vertices),
                )
            )
        y += 42
    return canvas, v.some(rng, questions, 3)


def _notice(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> _Sheet:
    face = pick(rng, faces, Role.SERIF, Role.SANS)
    canvas = _board((360, 440), v.choose(rng, ((252, 250, 240), (250, 240, 170), (230, 240, 246))), (60, 60, 64))
    ink: Colour = (28, 28, 32)
    title = v.choose(rng, ("NOTICE", "LOST DOG", "FOR SALE", "CONCERT", "MEETING", "TO LET"))
    canvas.write(180, 64, title, (face.bold, 44), ink, "middle")
    canvas.paragraph()
    y = 112.0
    for row in wrap(v.sentences(rng, 16), (face.regular, 22), 304)[:7]:
        canvas.write(28, y, row, (face.regular, 22), ink)
        y += 31
    canvas.paragraph()
    name, call = v.person(rng), v.phone(rng)
    first = canvas.write(180, 372, f"Ask for {name}", (face.regular, 22), ink, "middle")
    second = canvas.write(180, 408, call, (face.bold, 26), ink, "middle")
    canvas.paragraph()
    return canvas, [
        Question(text=f'For whom should one ask, according to the notice "{title}"?', answers=(name,), kind=Kind.READING, box=bounding_box(*(w.vertices for w in first.words[2:]))),
        Question(text=f'What is the telephone number on the notice "{title}"?', answers=(call,), kind=Kind.READING, box=bounding_box(second.vertices)),
    ]  # fmt: skip


def _parking(rng: np.random.Generator, faces: tuple[Typeface, ...]) -> _Sheet:
    face = pick(rng, faces, Role.SANS)
    canvas = Canvas((260, 330), (246, 246, 246))
    canvas.rectangle((0, 0, 260, 200), (30, 80, 160))
    canvas.rectangle((4, 4, 256, 326), (240, 240, 240), 4)
    canvas.write(130, 160, "P", (face.bold, 150), (250, 250, 250), "middle")
    canvas.paragraph()
    minutes, price = str(int(rng.integers(2, 19)) * 10), f"{int(rng.integers(2, 40)) / 4:.2f}"
    first = canvas.write(130, 250, f"max. {minutes} min", (face.bold, 30), (20, 20, 20), "middle")
    second = canvas.write(130, 296, f"{price} per hour", (face.regular, 28), (20, 20, 20), "middle")
    canvas.paragraph()
    return canvas, [
        _number("How many minutes may one park here at most?", minutes, first, 1),
        _number("What does an hour of parking cost?", price, second, 0),
    ]


def _number(text: str, answer: str, line: Line, word: int) -> Question:
    box = bounding_box(line.words[word].vertices)
    return Question(text=text, answers=(answer,), kind=Kind.READING, answer_type=AnswerType.NUMBER, box=box)
