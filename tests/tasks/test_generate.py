import hashlib
import json
import re
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from PIL import Image, ImageFont

from kernel_agent.tasks import camera, charts, geometry, receipts, tables
from kernel_agent.tasks.annotation import Annotation, Word, bounding_box
from kernel_agent.tasks.canvas import Canvas
from kernel_agent.tasks.fonts import is_for_training, is_held_out, normalise_family
from kernel_agent.tasks.generate import SMALL, Series, generate
from kernel_agent.tasks.ground_truth import Kind, Operation, correction
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.placing import leaning, place
from kernel_agent.tasks.typefaces import Split, typefaces
from kernel_agent.types import Box

FACE = typefaces(Split.TRAIN)[0]


def words(annotation: Annotation) -> list[Word]:
    return [word for line in annotation.lines() for word in line.words]


def middle(word: Word) -> tuple[float, float]:
    x0, y0, x1, y1 = bounding_box(word.vertices)
    return (x0 + x1) / 2, (y0 + y1) / 2


def inside(annotation: Annotation, box: Box) -> str:
    """What stands in a box."""
    found = [w.text for w in words(annotation) if box[0] <= middle(w)[0] <= box[2] and box[1] <= middle(w)[1] <= box[3]]
    return " ".join(found)


def ink(pixels: np.ndarray) -> Box:
    """The box of what is darker than half on white."""
    ys, xs = np.nonzero(pixels[:, :, 0] < 128)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("series", list(Series))
def test_a_task_is_what_it_says(series: Series, split: Split) -> None:
    for index in range(6):
        made = generate(series, 5, index, split=split)
        task = made.task
        assert task.size == (made.shown.shape[1], made.shown.shape[0])
        upright = np.asarray(task.orientation.inverse.apply(Image.fromarray(made.shown)))
        assert np.array_equal(upright, made.drawing.pixels)
        turn = correction(task.orientation)
        assert (turn in task.required) is (turn is not None)
        if task.canonical_target is None:
            assert task.target is None
            assert Operation.CROP not in task.required
            continue
        assert task.target is not None
        size = (upright.shape[1], upright.shape[0])
        assert task.orientation.apply_to_box(task.canonical_target, size) == pytest.approx(task.target, abs=0.02)
        x0, y0, x1, y1 = task.target
        assert 0 <= x0 < x1 <= task.size[0]
        assert 0 <= y0 < y1 <= task.size[1]
        if task.kind is Kind.READING:
            text = inside(made.drawing.annotation, task.canonical_target)
            assert any(answer.split()[-1] in text for answer in task.answers), (task.question, task.answers, text)
            small = (x1 - x0) * (y1 - y0) < SMALL * size[0] * size[1]
            assert (Operation.CROP in task.required) is small


@pytest.mark.parametrize("series", [Series.PAGE, Series.RECEIPT, Series.SIGN, Series.LABEL])
def test_the_answer_stands_in_the_box(series: Series) -> None:
    """Every question of a drawing, not only the one that is asked."""
    for index in range(4):
        drawing = generate(series, 8, index).drawing
        for question in drawing.questions:
            if question.box is None:
                continue
            text = inside(drawing.annotation, question.box)
            loose = {answer for a in question.answers for answer in (a, a.zfill(5))}
            day = re.match(r"On which day", question.text)
            assert day or any(answer in text for answer in loose), (question, text)


def test_a_seed_is_the_same_picture_in_another_process() -> None:
    code = (
        "import hashlib, json\nfrom kernel_agent.tasks.generate import Series, generate\n"
        "for series in Series:\n    made = generate(series, 11, 3)\n"
        "    print(hashlib.sha256(made.packed() + json.dumps(made.task.to_json()).encode()).hexdigest())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = []
    for series in Series:
        made = generate(series, 11, 3)
        here.append(hashlib.sha256(made.packed() + json.dumps(made.task.to_json()).encode()).hexdigest())
    assert run.stdout.split() == here
    assert len(set(here)) == len(here)


def test_seeds_indices_and_splits_differ() -> None:
    pictures = {
        generate(Series.SIGN, seed, index, split=split).packed()
        for seed in (1, 2)
        for index in (0, 6)
        for split in Split
    }
    assert len(pictures) == 8


def test_training_and_test_share_no_typeface() -> None:
    """By the names that the files themselves carry."""

    def families(split: Split) -> set[str]:
        files = [file for face in typefaces(split) for file in (face.regular, face.bold)]
        return {normalise_family(str(ImageFont.truetype(str(file), 20).getname()[0])) for file in files}

    assert all(is_for_training(family) for family in families(Split.TRAIN))
    assert all(is_held_out(family) for family in families(Split.TEST))
    assert not families(Split.TRAIN) & families(Split.TEST)


def test_boxes_are_those_of_the_ink() -> None:
    canvas = Canvas((400, 120))
    line = canvas.write(30.4, 70.2, "Quartz jig, (fly)", (FACE.regular, 37), spread=3.3)
    for word in line.words:
        x0, y0, x1, y1 = (int(v) for v in bounding_box(word.vertices))
        alone = np.full_like(canvas.pixels, 255)
        alone[y0:y1, x0:x1] = canvas.pixels[y0:y1, x0:x1]
        ys, xs = np.nonzero(alone[:, :, 0] < 255)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x0, y0, x1, y1)
    ys, xs = np.nonzero(canvas.pixels[:, :, 0] < 255)
    assert bounding_box(line.vertices) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_boxes_follow_a_tilt() -> None:
    canvas = Canvas((300, 200))
    canvas.rectangle((60, 80, 200, 110), (0, 0, 0))
    pixels, matrix = camera.tilted(canvas.pixels, 7.0, (255, 255, 255))
    corners = np.array([[60, 80, 1], [200, 80, 1], [200, 110, 1], [60, 110, 1]]) @ matrix.T
    expected = (*corners[:, :2].min(axis=0), *corners[:, :2].max(axis=0))
    assert ink(pixels) == pytest.approx(expected, abs=1.0)


def test_boxes_follow_a_sheet_into_the_scene() -> None:
    rng = np.random.default_rng(4)
    sheet = Canvas((200, 100))
    sheet.rectangle((40, 30, 150, 60), (0, 0, 0))
    sheet.write(45, 55, "HIM", (FACE.bold, 24), (0, 0, 0))
    scene = Canvas((500, 400))
    matrix = place(scene, sheet, leaning(rng, (80, 90, 420, 300), 0.05, 6.0))
    corners = np.array([[40, 30, 1], [150, 30, 1], [150, 60, 1], [40, 60, 1]]) @ matrix.T
    points = corners[:, :2] / corners[:, 2:]
    assert ink(scene.pixels) == pytest.approx((*points.min(axis=0), *points.max(axis=0)), abs=1.5)
    (word,) = words(scene.annotation())
    x0, _y0, x1, _y1 = bounding_box(word.vertices)
    assert points[:, 0].min() < x0 < x1 < points[:, 0].max()


def test_a_receipt_adds_up() -> None:
    for seed in range(12):
        drawing = receipts.draw_receipt(np.random.default_rng(seed), typefaces(Split.TRAIN))
        lines = [line.text for line in drawing.annotation.lines()]
        at = {name: lines.index(name) for name in ("Subtotal", "TOTAL")}
        rate = next(i for i, text in enumerate(lines) if text.startswith("Tax "))
        first = lines.index("Cashier") + 2
        goods = [float(text) for text in lines[first : at["Subtotal"]] if re.fullmatch(r"\d+\.\d\d", text)]
        subtotal, tax, total = (float(lines[k + 1]) for k in (at["Subtotal"], rate, at["TOTAL"]))
        assert sum(goods) == pytest.approx(subtotal)
        assert tax == pytest.approx(subtotal * float(lines[rate][4:-1]) / 100, abs=0.0051)
        assert subtotal + tax == pytest.approx(total)
        for text in lines[first : at["Subtotal"]]:
            if found := re.fullmatch(r"(\d) x (\d+\.\d\d)", text):
                price = float(lines[lines.index(text) - 1])
                assert int(found[1]) * float(found[2]) == pytest.approx(price)


def test_a_cell_of_a_table_is_that_of_its_row_and_head() -> None:
    checked = 0
    for seed in range(15):
        drawing = tables.draw_table(np.random.default_rng(seed), typefaces(Split.TEST))
        lines = {line.text: bounding_box(line.vertices) for line in drawing.annotation.lines()}
        question = drawing.questions[0]
        found = re.fullmatch(r'What is the value of "(.+)" for (.+)\?', question.text)
        assert found
        assert question.box
        head, name = lines[found[1]], lines[found[2]]
        cell = inside(drawing.annotation, question.box)
        assert cell in question.answers
        assert question.box[2] == pytest.approx(head[2], abs=4)  # columns are set to the right
        assert (question.box[1] + question.box[3]) / 2 == pytest.approx((name[1] + name[3]) / 2, abs=6)
        checked += 1
    assert checked == 15


def test_a_bar_is_as_high_as_its_value() -> None:
    """Read back from the pixels' frame: the bar's top between the numbers on the axis."""
    checked = 0
    for seed in range(60):
        drawing = charts.draw_chart(np.random.default_rng(seed), typefaces(Split.TRAIN))
        question = drawing.questions[0]
        if not question.text.startswith("What is the value for") or question.box is None:
            continue
        axis = [w for w in words(drawing.annotation) if w.text.isdigit()]
        right = max(bounding_box(w.vertices)[2] for w in axis if w.text == "0")
        marks = [(middle(w)[1], int(w.text)) for w in axis if abs(bounding_box(w.vertices)[2] - right) < 3]
        low, high = max(marks), min(marks)
        value = low[1] + (low[0] - question.box[1]) * (high[1] - low[1]) / (low[0] - high[0])
        step = sorted(mark[1] for mark in marks)[1]
        assert value == pytest.approx(float(question.answers[0]), abs=0.15 * step)
        checked += 1
    assert checked > 10


def test_the_parts_of_a_pie_make_a_whole() -> None:
    checked = 0
    for seed in range(40):
        drawing = charts.draw_chart(np.random.default_rng(seed), typefaces(Split.TRAIN))
        shares = [int(w.text[:-1]) for w in words(drawing.annotation) if w.text.endswith("%")]
        if shares:
            checked += 1
            assert sum(shares) == 100
            smallest = next(q for q in drawing.questions if "smallest" in q.text)
            assert smallest.box is not None
            assert inside(drawing.annotation, smallest.box) == smallest.answers[0]
    assert checked > 3


def test_the_angles_of_a_triangle_make_180() -> None:
    checked = 0
    for seed in range(60):
        drawing = geometry.draw_geometry(np.random.default_rng(seed), typefaces(Split.TRAIN))
        question = drawing.questions[0]
        shown = [int(w.text[:-1]) for w in words(drawing.annotation) if w.text.endswith("°")]
        if question.text == "What is the size of the angle x, in degrees?" and len(shown) == 2:
            assert sum(shown) + int(question.answers[0]) == 180
            checked += 1
    assert checked > 2


def test_annotations_come_back_from_their_json() -> None:
    annotation = generate(Series.SIGN, 2, 1).drawing.annotation
    again = Annotation.from_json(json.loads(json.dumps(annotation.to_json())))
    assert [line.text for line in again.lines()] == [line.text for line in annotation.lines()]
    for one, other in islice(zip(words(again), words(annotation), strict=True), 20):
        assert np.allclose(one.vertices, other.vertices, atol=0.006)


def test_orientations_take_turns() -> None:
    assert [generate(Series.DIAL, 1, index).task.orientation for index in range(6)] == list(Orientation)
