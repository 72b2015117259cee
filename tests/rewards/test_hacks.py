"""Every hack that the paper and our notes report: what it earns under the released code, and that ours pays nothing for it."""

from __future__ import annotations

import pytest
from reward_runs import SIZE, TARGET, Run, scene, task

from kernel_agent.operations import Applied
from kernel_agent.operations.affine import IDENTITY, orientation_map
from kernel_agent.rewards import score
from kernel_agent.tasks.ground_truth import Operation
from kernel_agent.types import StopReason

UPRIGHT = scene()
TURNED = UPRIGHT.rotate(-90, expand=True)  # needs a rotation by 90 degrees
TURNED_TARGET = (SIZE[1] - TARGET[3], TARGET[0], SIZE[1] - TARGET[1], TARGET[2])
NEEDS_90 = task(Operation.ROTATE90, target=TURNED_TARGET)
BOTH = task(Operation.ROTATE90, Operation.CROP, target=TURNED_TARGET)
CROP = task(Operation.CROP)
NOTHING = task()


def rotations(*how: Applied) -> Run:
    run = Run(TURNED)
    for one in how:
        run.turn(one, code=f"result = image.rotate({str(one)[6:]}, expand=True)")
    return run


def test_rotating_through_all_angles():
    once = rotations(Applied.ROTATE90).answer("HARBOR")
    through = rotations(Applied.ROTATE270, Applied.ROTATE180, Applied.ROTATE90).answer("HARBOR")
    assert score(NEEDS_90, through, "reference")["mandatory"].value == 1.0
    assert score(NEEDS_90, through, "paper")["must_use"].value == 1.0
    assert score(NEEDS_90, once)["orientation"].value == 1.0
    assert score(NEEDS_90, through)["orientation"].value == pytest.approx(1 / 3)
    assert score(NEEDS_90, through).total < score(NEEDS_90, once).total - 0.3


def test_rotating_through_all_angles_in_one_cell_and_side_by_side():
    shown = [
        (TURNED.rotate(angle, expand=True), 0, orientation_map(how, TURNED.size))
        for angle, how in ((90, Applied.ROTATE90), (180, Applied.ROTATE180), (270, Applied.ROTATE270))
    ]
    assert score(NEEDS_90, Run(TURNED).show(shown).answer("HARBOR"))["orientation"].value == pytest.approx(1 / 3)
    width = sum(picture.width for picture, _, _ in shown)
    wall = UPRIGHT.resize((width, 330))
    wall.paste(0, (0, 0, *wall.size))
    left = 0
    for picture, _, _ in shown:
        wall.paste(picture, (left, 0))
        left += picture.width
    assert score(NEEDS_90, Run(TURNED).show([(wall, None, None)]).answer("HARBOR"))["orientation"].value == 0.0


def test_over_long_crops():
    whole = (
        Run(UPRIGHT).turn(None, crop=(2, 2, 318, 238), code="result = image.crop((2, 2, 318, 238))").answer("HARBOR")
    )
    strip = Run(UPRIGHT).turn(None, crop=(0, 40, 320, 80)).answer("HARBOR")
    tight = Run(UPRIGHT).turn(None, crop=(176, 36, 294, 84)).answer("HARBOR")
    values = [score(CROP, run)["crop"].value for run in (whole, strip, tight)]
    assert values[0] < 0.1
    assert values[1] < 0.4 < 0.7 < values[2]
    assert score(CROP, whole, "paper")["poor_reasoning"].value == 1.0


def test_repeated_crops_until_one_fits():
    run = Run(UPRIGHT)
    for left in (20, 100, 178, 10):
        run.turn(None, crop=(left, 40, left + 112, 80), code=f"result = image.crop(({left}, 40, {left + 112}, 80))")
    found = run.answer("HARBOR")
    assert score(CROP, found, "reference")["mandatory"].value > 0.9
    assert score(CROP, found, "paper")["must_use"].value > 0.9
    assert score(CROP, found)["crop"].value == 0.0
    assert score(CROP, found)["turns"].value > 0
    again = Run(UPRIGHT)
    for _ in range(4):
        again.turn(None, crop=(178, 40, 290, 80))
    assert score(CROP, again.answer("HARBOR"))["idle"].value == 1.0


def test_turning_what_is_upright():
    run = (
        Run(UPRIGHT)
        .turn(Applied.ROTATE180, code="result = image.rotate(180)")
        .turn(Applied.FLIP_VERTICAL)
        .answer("HARBOR")
    )
    assert score(NOTHING, run)["needless_orientation"].contribution == -0.2
    assert score(NOTHING, run, "paper")["inappropriate"].contribution == -0.5
    assert score(NOTHING, run, "reference")["spurious"].value == 1.0  # it sees rotate(180) alone
    assert score(NOTHING, Run(UPRIGHT).answer("HARBOR")).total > score(NOTHING, run).total


def test_an_enhancement_that_cannot_be_seen():
    from PIL import ImageEnhance

    code = "result = ImageEnhance.Contrast(image).enhance(1.02)"
    run = Run(UPRIGHT).show([(ImageEnhance.Contrast(UPRIGHT).enhance(1.02), 0, IDENTITY)], code=code).answer("HARBOR")
    plain = Run(UPRIGHT).answer("HARBOR")
    assert score(NOTHING, run, "reference")["emergent"].contribution == 0.2
    assert score(NOTHING, run, "paper")["optional"].value == 0.0
    assert score(NOTHING, run).total < score(NOTHING, plain).total
    seen = Run(UPRIGHT).show([(ImageEnhance.Contrast(UPRIGHT).enhance(2.0), 0, IDENTITY)]).answer("HARBOR")
    assert score(NOTHING, seen, "paper")["optional"].value == 1.0
    assert score(NOTHING, seen)["idle"].value == 0.0


def test_answering_inside_a_thought():
    run = Run(UPRIGHT).malformed("<think>It says <answer>HARBOR</answer></think>").give_up(StopReason.MALFORMED)
    released = score(NOTHING, run, "reference")
    assert (released["accuracy"].value, released["format"].value) == (1.0, 0.0)
    for name, outcome in (("paper", "accuracy"), ("default", "answer")):
        assert (score(NOTHING, run, name)[outcome].value, score(NOTHING, run, name)["format"].value) == (0.0, 0.0)


def test_words_in_the_description():
    said = {
        "description": f"Rotate, then crop {list(TURNED_TARGET)} and flip it horizontally.",
        "code": "result = image.copy()",
    }
    run = Run(TURNED).show([(TURNED, 0, IDENTITY)], **said).answer("HARBOR")
    flipped = task(Operation.FLIP_HORIZONTAL, Operation.CROP, target=TURNED_TARGET)
    assert score(flipped, run, "reference")["mandatory"].value == 1.0
    assert score(flipped, run, "paper")["must_use"].value == 0.0
    assert score(flipped, run)["orientation"].value == score(flipped, run)["crop"].value == 0.0


def test_a_call_that_failed_did_nothing():
    run = Run(TURNED).fail("result = image.rotate(90, expand=True); 1 / 0").answer("HARBOR")
    assert score(NEEDS_90, run, "reference")["mandatory"].value == 1.0
    assert score(NEEDS_90, run, "paper")["must_use"].value == 0.0
    assert score(NEEDS_90, run)["orientation"].value == 0.0
    assert score(NEEDS_90, run)["failures"].value == 0.25


def test_forged_lineage():
    claim = orientation_map(Applied.ROTATE90, TURNED.size)
    run = Run(TURNED).show([(TURNED.rotate(-90, expand=True), 0, claim)]).answer("HARBOR")
    assert score(NEEDS_90, run)["orientation"].value == 0.0
    noise = scene(5).rotate(37).resize(SIZE)
    assert score(NEEDS_90, Run(TURNED).show([(noise, 0, claim)]).answer("HARBOR"))["orientation"].value == 0.0


def test_a_picture_that_shows_nothing_earns_nothing():
    from PIL import Image

    white = Image.new("RGB", TURNED.size, "white")
    run = Run(white).turn(Applied.ROTATE90).turn(None, crop=TURNED_TARGET).answer("HARBOR")
    assert score(BOTH, run)["orientation"].value == score(BOTH, run)["crop"].value == 0.0


def test_boxes_are_compared_in_the_frame_of_the_input():
    run = Run(TURNED).turn(Applied.ROTATE90, code="result = image.rotate(90, expand=True)")
    found = run.turn(None, crop=TARGET, of=1, code=f"result = image.crop({TARGET})").answer("HARBOR")
    assert score(BOTH, found)["crop"].value == pytest.approx(1.0)
    assert score(BOTH, found, "paper").total == pytest.approx(1 + 0.1 + 1 + 0.1)
    assert score(BOTH, found, "reference")["mandatory"].value == pytest.approx(0.5, abs=0.1)  # raw numbers do not meet


def test_a_crop_before_it_is_upright_counts_half():
    first = Run(TURNED).turn(None, crop=TURNED_TARGET).turn(Applied.ROTATE90, of=1).answer("HARBOR")
    value = score(BOTH, first)
    assert (value["orientation"].value, value["crop"].value) == (1.0, 0.5)
    assert score(BOTH, first, "paper")["exact"].value == 0.0
    together = Run(TURNED).turn(Applied.ROTATE90, crop=TARGET).answer("HARBOR")
    assert score(BOTH, together)["crop"].value == pytest.approx(1.0)


def test_penalties_are_bounded_and_a_wrong_answer_never_wins():
    run = Run(UPRIGHT)
    for _ in range(12):
        run.fail().malformed().turn(Applied.ROTATE180)
    worst = score(NOTHING, run.answer("HARBOR"))
    assert sum(one.contribution for one in worst.components if one.weight < 0) == pytest.approx(-0.7)
    assert worst["format"].value == 0.0
    diligent = Run(TURNED).turn(Applied.ROTATE90).turn(None, crop=TARGET, of=1).answer("HARBOUR")
    assert score(BOTH, diligent).total <= 0.6 + 1e-9 < score(BOTH, Run(TURNED).answer("HARBOR")).total
    assert score(NOTHING, run.trajectory, "reference")["usage"].contribution == -11.0


def test_lineage_forged_on_lines_of_text():
    """A page is like itself a few lines further down; where it fits better counts."""
    from perf.operation_scenes import page

    sheet = page(7)
    for claim in ((1.0, 0.0, 50.0, 0.0, 1.0, 40.0), (1.0, 0.0, 0.0, 0.0, 1.0, 26.0)):
        run = Run(sheet).show([(sheet.rotate(180), 0, claim)]).answer("HARBOR")
        found = score(task(Operation.CROP, target=(50, 40, sheet.width, sheet.height)), run)
        assert found["crop"].value == 0.0
        assert score(task(Operation.ROTATE180), run)["orientation"].value == 1.0
