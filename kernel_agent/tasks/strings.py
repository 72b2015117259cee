"""The strings to read, and the ways to ask for them."""

from __future__ import annotations

import numpy as np

from kernel_agent.tasks.fonts import ALPHABET
from kernel_agent.tasks.orientation import is_ambiguous

MIN_LENGTH, MAX_LENGTH = 3, 8

QUESTIONS = (
    "What is written on the label?",
    "What does the label say?",
    "Read the text in the image.",
    "What text is shown?",
    "Which characters can you read?",
    "Please read the label.",
    "What is the code in the picture?",
    "Tell me what is written here.",
    "What does it say?",
    "Read the code.",
    "What is printed on the label?",
    "Which code is shown in the image?",
    "Can you read the text?",
    "Transcribe the text.",
    "What letters and digits are in this picture?",
    "What is the text on the sign?",
)


def draw_text(rng: np.random.Generator, length: int | None = None) -> str:
    """3 to 8 characters of A-Z and 0-9, uniform, without strings that read as another one when turned round."""
    while True:
        count = int(rng.integers(MIN_LENGTH, MAX_LENGTH + 1)) if length is None else length
        text = "".join(ALPHABET[int(i)] for i in rng.integers(0, len(ALPHABET), count))
        if not is_ambiguous(text):
            return text


def draw_question(rng: np.random.Generator) -> str:
    """One of the paraphrases, uniform."""
    return QUESTIONS[int(rng.integers(len(QUESTIONS)))]
