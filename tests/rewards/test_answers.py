"""Answers by rule: gold counts, wrong does not, and no hedge does."""

from __future__ import annotations

import pytest

from kernel_agent.rewards import check_answer
from kernel_agent.tasks.ground_truth import AnswerType, GroundTruth

RIGHT = [
    (AnswerType.TEXT, ["Main Street 12"], "main  street 12."),
    (AnswerType.TEXT, ["K7P2", "K7-P2"], '"K7-P2"'),
    (AnswerType.TEXT, ["Ａ１"], "A1"),
    (AnswerType.NUMBER, ["7"], "7.0"),
    (AnswerType.NUMBER, ["1234.5"], "1,234.5 kg"),
    (AnswerType.NUMBER, ["-3"], "The answer is -3"),
    (AnswerType.NUMBER, ["12%"], "12 %"),
    (AnswerType.CHOICE, ["B"], "(b)"),
    (AnswerType.CHOICE, ["B"], "B. blue"),
    (AnswerType.CHOICE, ["blue"], "B"),
    (AnswerType.CHOICE, ["B"], "Blue"),
    (AnswerType.LIST, ["red, green"], "[Green; red]"),
    (AnswerType.LIST, ["red, green"], "green and red"),
]
WRONG = [
    (AnswerType.TEXT, ["Main Street 12"], "Main Street"),
    (AnswerType.TEXT, ["cat"], "cat or dog"),
    (AnswerType.TEXT, ["cat"], ""),
    (AnswerType.TEXT, ["cat"], None),
    (AnswerType.TEXT, ["cat"], "cat " * 1000),
    (AnswerType.NUMBER, ["7"], "7 or 8"),
    (AnswerType.NUMBER, ["7"], "1 2 3 4 5 6 7"),
    (AnswerType.NUMBER, ["7"], "seven"),
    (AnswerType.NUMBER, ["7"], "70"),
    (AnswerType.NUMBER, ["1000"], "1001"),
    (AnswerType.CHOICE, ["B"], "A or B"),
    (AnswerType.CHOICE, ["B"], "B. red"),
    (AnswerType.CHOICE, ["B"], "Based on what I see"),
    (AnswerType.CHOICE, ["B"], "red"),
    (AnswerType.LIST, ["red, green"], "red"),
    (AnswerType.LIST, ["red, green"], "red, green, blue"),
]


def made(kind, answers):
    choices = ("red", "blue", "green") if kind is AnswerType.CHOICE else ()
    return GroundTruth(id="q", question="?", answers=tuple(answers), answer_type=kind, choices=choices)


@pytest.mark.parametrize(("kind", "answers", "said"), RIGHT)
def test_right(kind, answers, said):
    assert check_answer(made(kind, answers), said).correct


@pytest.mark.parametrize(("kind", "answers", "said"), WRONG)
def test_wrong(kind, answers, said):
    verdict = check_answer(made(kind, answers), said)
    assert not verdict.correct
    assert len(verdict.explanation) < 250


@pytest.mark.parametrize(("kind", "answers", "_"), RIGHT)
def test_gold_is_right(kind, answers, _):
    assert all(check_answer(made(kind, answers), answer).correct for answer in answers)
