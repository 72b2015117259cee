"""The bare answer, and the option that an answer to a multiple-choice question means."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_OTHER = re.compile(r"<think>.*?(?:</think>|\Z)|<tool_response>.*?</tool_response>", re.DOTALL)
_SAID = re.compile(r"(?i:answer|option|choice)\s*(?:is|:|=)?\s*[:(\[*\"']*\s*([A-Z])\b(?!')")


def bare(answer: str | None) -> str:
    """The last `<answer>` of a text without its thoughts; a text without tags as it is. "" for None.

    What the agent answers is bare already; this makes a scorer safe for whoever feeds it a completion.
    """
    if answer is None:
        return ""
    found = _TAGGED.findall(_OTHER.sub("", answer))
    last: str = found[-1] if found else answer
    return last.strip()


def chosen_letter(answer: str | None, options: Mapping[str, str]) -> str | None:
    """The letter of the option meant, or None where that cannot be told.

    In this order: the letter alone ("C", "(c)", "C."); a letter said to be the answer ("... the answer is C"), the last
    one counts; the one capital letter of an option that stands alone in the text; the one option whose words are in the text.
    A first-letter rule would read "Based on ... answer is C" as B.
    """
    text = bare(answer)
    alone = re.fullmatch(r"[\s(\[*\"']*([A-Za-z])[\s)\].:,*\"']*", text)
    if alone:
        letter = str(alone[1]).upper()
        return letter if letter in options else None
    leading = re.match(r"\s*[(\[*]*([A-Z])[)\].:]+\s+\S", text)
    if leading and leading[1] in options:
        return str(leading[1])
    said = [str(letter) for letter in _SAID.findall(text) if letter in options]
    if said:
        return said[-1]
    words = re.sub(r"[.()\[\],:;!?*#{}\"]", " ", text).split()
    single = {word for word in words if word in options}
    if "A" in single and len(single) == 1 and len(words) > 3:
        single = set()  # as likely the article
    if len(single) == 1:
        return single.pop()
    lowered = text.lower()
    named = [letter for letter, option in options.items() if option and option.lower().strip(" .") in lowered]
    longest = [k for k in named if not any(k != o and options[k].lower() in options[o].lower() for o in named)]
    return longest[0] if len(longest) == 1 else None


def choice_prompt(question: str, options: Mapping[str, str]) -> str:
    """The question, its options one a line, and what to answer with."""
    lines = "\n".join(f"{letter}. {option}" for letter, option in options.items())
    return f"{question.strip()}\n{lines}\nAnswer with the letter of the right option alone."
