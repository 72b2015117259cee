"""The published formula, the released code's, and the terms that need the group, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from reward_runs import TARGET, Run, scene, task

from kernel_agent.errors import InputError
from kernel_agent.operations import Applied
from kernel_agent.rewards import Rewards, Verdict, score, score_group
from kernel_agent.rewards.code_reading import read_call
from kernel_agent.rewards.facts import iou
from kernel_agent.rewards.reference import expected, released_equal
from kernel_agent.rewards.tags import released_answer, well_formed
from kernel_agent.tasks.ground_truth import Operation

UPRIGHT = scene()


def terms(found):
    return {one.name: one.value for one in found.components}


@pytest.mark.parametrize(
    ("code", "description", "names", "boxes"),
    [
        ("image.rotate(90, expand=True)", "", {"rotate_90"}, []),
        ("image.rotate(-90)", "", {"rotate_270"}, []),
        ("image.rotate(2 * 90 + 4)", "", {"rotate_180"}, []),
        ("image.rotate(84)", "", set(), []),
        ("image.rotate(angle)", "", set(), []),
        ("image.transpose(Image.ROTATE_90)", "", {"rotate_90"}, []),
        ("image.transpose(Image.Transpose.ROTATE_90)", "", set(), []),
        ("np.rot90(a, 2)", "", {"rotate_90"}, []),
        ("np.rot90(a, k=2)", "", {"rotate_180"}, []),
        ("cv2.flip(a, 1); np.fliplr(a)", "", set(), []),
        ("cv2.rotate(a, cv2.ROTATE_90_CLOCKWISE)", "", {"rotate_270"}, []),
        ("ImageOps.mirror(image)", "", {"flip_horizontal"}, []),
        ("ImageOps.flip(image)", "", {"flip_vertical"}, []),
        ("w, h = image.size\nimage.crop((0, 0, w // 2, h))", "", set(), []),
        ("x = 10\nimage.crop((x, x + 5, max(30, 20), int(40.7)))", "", {"crop"}, [[10, 15, 30, 40]]),
        ("x = 10\nx = clamp(x)\nimage.crop((x, 0, 9, 9))", "", {"crop"}, [[10, 0, 9, 9]]),
        ("ImageEnhance.Contrast(image).enhance(1.02)", "", {"contrast"}, []),
        ("ImageEnhance.Brightness(image).enhance(1.3)", "", {"brightness_up"}, []),
        ("ImageEnhance.Sharpness(image).enhance(f)", "", {"sharpness"}, []),
        ("ImageOps.grayscale(image)", "", set(), []),
        ("image.convert('L')", "", {"grayscale"}, []),
        ("cv2.convertScaleAbs(a, alpha=1.5, beta=-20)", "", {"contrast_up", "brightness_down"}, []),
        ("image.filter(ImageFilter.EDGE_ENHANCE_MORE)", "", {"edge_enhance"}, []),
        ("pass", "Crop (1, 2, 3.5, 4) and mirror horizontally", {"crop", "flip_horizontal"}, [[1, 2, 3.5, 4]]),
        ("not python (", "vertical flip", {"flip_vertical"}, []),
    ],
)
def test_what_the_released_detector_reads(code, description, names, boxes):
    assert (set(read_call(code, description)[0]), read_call(code, description)[1]) == (names, boxes)


def test_released_total_to_the_last_decimal():
    """Half the operations, IoU of 1/2, two calls too many, a visible extra: 0.1 + 1 + (1/2 + 1/2 * 1/2) + 0.2 - 0.5 * 2."""
    two = task(Operation.ROTATE90, Operation.CROP, target=(0, 0, 100, 100))
    run = Run(UPRIGHT)
    run.turn(None, code="im = image.rotate(90, expand=True)\nresult = im.crop((0, 0, 100, 50)).convert('L')")
    for _ in range(3):
        run.turn(None)
    found = score(two, run.answer("HARBOR"), "reference")
    assert terms(found) == {
        "accuracy": 1.0, "format": 1.0, "mandatory": 0.75, "necessity": 0.0, "exact": 0.1, "emergent": 0.2, "usage": 2.0, "spurious": 0.0,
    }  # fmt: skip
    assert found.total == pytest.approx(1 + 0.1 + 0.75 + 0.1 + 0.2 - 1.0, abs=1e-12)


def test_released_code_scales_the_answer_where_the_crop_missed():
    missed = Run(UPRIGHT).turn(None, code="result = image.crop((0, 0, 20, 20))").answer("HARBOR")
    found = score(task(Operation.CROP), missed, "reference")
    assert found["accuracy"].value == found["mandatory"].value == 0.0
    with_turn = task(Operation.ROTATE180, Operation.CROP)
    turned = Run(UPRIGHT).turn(None, code="result = image.rotate(180).crop((0, 0, 20, 20))").answer("HARBOR")
    assert score(with_turn, turned, "reference")["accuracy"].value == 1.0  # never fires beside an orientation


def test_expected_operations_of_the_released_code():
    assert expected(task(Operation.ROTATE90, Operation.CROP)) == {"rotate_90", "crop"}
    for given in (["crop", "rotate_90"], {"rotate_90": {}, "crop": None}):
        assert expected(task(extra={"transform": given})) == {"crop", "rotate_270"}
    assert expected(task(extra={"transform": "flip_vertical"})) == {"flip_vertical"}
    assert expected(task(extra={"transform": ["rotate_45", "rotate_360", "blur"]})) == {"blur"}


@pytest.mark.parametrize(
    ("said", "truth", "equal"),
    [
        ("7", "7.0", True), ("7 or 8", "8", True), ("8 or 7", "8", False), ("Kelp", "kelp", False), ("kelp", "kelp", True),
        ("I think (B)", "B", True), ("A or B", "B", True), ("b", "B", True), ("0.33334", "1/3", True), ("1,000", "1000", False), ("", "", True),
    ],
)  # fmt: skip
def test_rules_of_the_released_answer_check(said, truth, equal):
    assert released_equal(said, truth) is equal


def test_where_the_released_code_reads_the_answer():
    assert released_answer("<think>a</think><answer> 7 </answer><answer>8</answer>") == "8"
    assert released_answer("<tool_response><answer>9</answer></tool_response>x <answer>5") == "5"
    assert released_answer("one\ntwo") == "two"
    assert released_answer("\n".join("x" * 600)) is None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>a</think><answer>7</answer>", True),
        ("<think>a</think>\n<tool_response>x</tool_response><think>b</think><answer>7</answer> ", True),
        ("a<think>b</think><answer>7</answer>", False),
        ("<think>a<answer>7</answer></think>", False),
        ("<think>a</think><answer>7</answer><answer>8</answer>", False),
        ("<think>a</think><answer>7</answer> done", False),
        ("<think>a<answer>7</answer>", False),
        ("", False),
    ],
)
def test_format(text, good):
    assert well_formed(text)[0] is good


def test_published_terms():
    both = task(Operation.ROTATE180, Operation.CROP)
    clean = Run(UPRIGHT.rotate(180)).turn(Applied.ROTATE180).turn(None, crop=TARGET, of=1).answer("HARBOR")
    target = (320 - TARGET[2], 240 - TARGET[3], 320 - TARGET[0], 240 - TARGET[1])
    found = score(task(Operation.ROTATE180, Operation.CROP, target=target), clean, "paper")
    assert (found["must_use"].value, found["exact"].value, found["turn_limit"].value) == (1.0, 0.1, 0.0)
    missed = score(both, clean, "paper")  # a target elsewhere
    assert (missed["must_use"].value, missed["poor_reasoning"].value) == (0.5, 1.0)
    long = Run(UPRIGHT.rotate(180)).fail().fail().turn(Applied.ROTATE180).turn(None, crop=TARGET, of=1).answer("x")
    assert score(both, long, "paper")["turn_limit"].value == 1.0  # one spare turn is free, two are not
    refined = (
        Run(UPRIGHT).turn(None, crop=(100, 20, 310, 120)).turn(None, crop=(80, 20, 190, 60), of=1).answer("HARBOR")
    )
    assert score(task(Operation.CROP), refined, "paper")["must_use"].value == pytest.approx(
        1.0
    )  # improvements add up to the best


def test_optional_tools_are_those_that_the_task_suggests():
    run = Run(UPRIGHT).turn(None, crop=TARGET).answer("HARBOR")
    for suggested, value in (((Operation.CROP,), 1.0), ((Operation.ROTATE90,), 0.0), ((), 1.0)):
        assert score(task(suggested=suggested), run, "paper")["optional"].value == value


def test_two_turns_that_come_to_the_right_one():
    turned = UPRIGHT.rotate(90, expand=True)  # needs 270
    run = Run(turned).turn(Applied.ROTATE90).turn(Applied.ROTATE180, of=1).answer("HARBOR")
    assert score(task(Operation.ROTATE270), run)["orientation"].value == 0.5
    assert score(task(Operation.ROTATE270), run, "paper")["must_use"].value == 1.0


def test_necessity_needs_the_group():
    def with_tool(answer):
        return Run(UPRIGHT).turn(None, crop=TARGET).answer(answer)

    def without(answer):
        return Run(UPRIGHT).answer(answer)

    runs = [with_tool("HARBOR"), with_tool("HARBOR"), with_tool("no"), without("HARBOR"), without("no"), without("no")]
    gain = 2 / 3 - 1 / 3
    for name, weight in ((Rewards.PAPER, 0.2), (Rewards.DEFAULT, 0.1)):
        scores = score_group(task(), runs, name)
        assert [one["necessity"].value for one in scores] == pytest.approx([gain, gain, 0, 0, 0, 0])
        assert scores[0]["necessity"].weight == weight
        assert score(task(), runs[0], name)["necessity"].value == 0.0
        lucky = score_group(task(), [*runs, without("HARBOR")], name)  # two right without: not needed
        assert all(one["necessity"].value == 0.0 for one in lucky)
        alone = score_group(task(), runs[:3], name)  # nobody went without
        assert all(one["necessity"].value == 0.0 for one in alone)
    assert all(one["necessity"].contribution == 0.0 for one in score_group(task(), runs, "reference"))


def test_a_verdict_given_is_taken_and_an_unknown_set_is_refused():
    run = Run(UPRIGHT).answer("the harbour")
    assert score(task(), run)["answer"].value == 0.0
    assert score(task(), run, verdict=Verdict(correct=True, by="judge"))["answer"].value == 1.0
    with pytest.raises(InputError, match="give one of paper, reference, default"):
        score(task(), run, "best")
    with pytest.raises(InputError, match="2 runs"):
        score_group(task(), [run, run], verdicts=[Verdict(correct=True)])


def test_a_target_in_another_size_is_scaled():
    run = Run(UPRIGHT).turn(None, crop=TARGET).answer("HARBOR")
    double = task(Operation.CROP, target=tuple(2 * side for side in TARGET))
    from dataclasses import replace

    assert score(replace(double, size=(640, 480)), run)["crop"].value == pytest.approx(1.0)


def test_iou():
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert (
        iou((0, 0, 10, 10), (20, 20, 30, 30))
        == iou((0, 0, 0, 0), (0, 0, 0, 0))
        == iou((9, 9, 1, 1), (0, 0, 10, 10))
        == 0.0
    )
