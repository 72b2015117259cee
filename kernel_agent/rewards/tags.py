"""The format that the paper rewards, and where its code looks for the answer (digest sections 6.2, 6.3)."""

from __future__ import annotations

import re

_TOLD = re.compile(r"<tool_response>.*?</tool_response>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


def well_formed(text: str) -> tuple[bool, str]:
    """Whether a rollout begins with a thought, closes each, and ends with its only answer, outside of any; and what is wrong."""
    text = _TOLD.sub("", text).strip()
    if not text.startswith("<think>"):
        return False, "it does not start with <think>"
    if text.count("<think>") != text.count("</think>"):
        return False, "not every thought is closed"
    answers = list(_ANSWER.finditer(text))
    if len(answers) != 1:
        return False, f"there are {len(answers)} answers"
    answer = answers[0]
    if answer.end() != len(text):
        return False, "something follows the answer"
    for thought in _THOUGHT.finditer(text):
        held = any(thought.start() < place < thought.end() for place in (answer.start(), answer.end()))
        if held and "<answer>" in thought[0]:
            return False, "the answer lies inside a thought"
    return True, "thoughts closed, one answer at the end"


def released_answer(text: str) -> str | None:
    """The answer that the released code reads: the last one in tags (inside a thought too), else a rest, else the last line."""
    if not text:
        return None
    text = _TOLD.sub("", text)
    if found := _ANSWER.findall(text):
        last: str = found[-1]
        return last.strip()
    _, opened, rest = text.strip().rpartition("<answer>")
    if opened:
        return rest.strip()
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines and len(lines) < 500 else None
