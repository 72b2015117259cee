"""Is an answer right? By rules: never by what it looks like, and never by a part of it that could have been picked from many.

An answer that hedges ("7 or 8", "A or B") is wrong: two numbers are no number, two letters no choice. Text is compared whole, apart
from case, blanks, and quotes and a full stop around it. What the rules do not see (a paraphrase, a unit spelled
out) is for a judge, where there is one.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

from kernel_agent.rewards.values import Verdict
from kernel_agent.tasks.ground_truth import AnswerType, GroundTruth

LONGEST = 2000
"""Characters of an answer; more is a transcript, in which a right answer could be found among wrong ones."""
NEAR = 1e-4
"""Relative difference up to which numbers are equal (and absolute, near 0)."""

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")


def check_answer(task: GroundTruth, answer: str | None) -> Verdict:
    """Compare with every right answer of the task, by its answer type."""
    return compare(answer, task.answers, task.answer_type, task.choices)


def compare(answer: str | None, truths: Sequence[str], kind: AnswerType, choices: Sequence[str] = ()) -> Verdict:
    """Compare with every truth; `choices` are the options A, B, C, ... of a choice."""
    if answer is None or not answer.strip():
        return Verdict(correct=False, explanation="there is no answer")
    if len(answer) > LONGEST:
        return Verdict(
            correct=False, explanation=f"{len(answer)} characters are no answer: at most {LONGEST} are taken"
        )
    for truth in truths:
        if _same(answer, truth, kind, choices):
            return Verdict(correct=True, explanation=f"{_short(answer)} is {_short(truth)} as a {kind}")
    return Verdict(correct=False, explanation=f"{_short(answer)} is not {_short(truths[0])} as a {kind}")


def _same(said: str, truth: str, kind: AnswerType, choices: Sequence[str]) -> bool:
    if kind is AnswerType.CHOICE:
        return _same_choice(said, truth, choices)
    if _same_text(said, truth):
        return True
    if kind is AnswerType.NUMBER:
        return _same_number(said, truth)
    return kind is AnswerType.LIST and _elements(said) == _elements(truth)


def plain(text: str) -> str:
    """Without case, runs of blanks, and quotes and a full stop around it."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'“”‘’` ").removesuffix(".").strip("\"'“”‘’` ")


def _same_text(said: str, truth: str) -> bool:
    return plain(said) == plain(truth)


def _same_number(said: str, truth: str) -> bool:
    found, wanted = _NUMBER.findall(said), _NUMBER.findall(truth)
    if len(found) != 1 or len(wanted) != 1:
        return False
    left, right = (float(one[0].replace(",", "")) for one in (found, wanted))
    return math.isclose(left, right, rel_tol=NEAR, abs_tol=NEAR)


def _elements(text: str) -> list[str]:
    parts = re.split(r"[,;\n]|\band\b", text.strip().strip("[](){}"))
    return sorted(plain(part) for part in parts if part.strip())


def _same_choice(said: str, truth: str, choices: Sequence[str]) -> bool:
    letters = [chr(ord("A") + place) for place in range(len(choices) or 26)]
    right = next((place for place, choice in enumerate(choices) if plain(choice) == plain(truth)), None)
    wanted = truth.strip().upper() if right is None else letters[right]
    alone = re.fullmatch(r"[\s(\[*\"']*([A-Za-z])(?:[\s)\].:*\"']*|[).:]+\s+(.*))", said, re.DOTALL)
    if alone is None:
        place = letters.index(wanted) if wanted in letters and choices else None
        return place is not None and plain(said) == plain(choices[place])
    letter, words = alone[1].upper(), alone[2]
    if letter != wanted or letter not in letters:
        return False
    return words is None or not choices or plain(words) == plain(choices[letters.index(letter)])


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
