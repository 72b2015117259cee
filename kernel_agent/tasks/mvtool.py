"""Questions in the manner of MVToolBench (paper, section 5): about a line or paragraph named by how it starts or ends.

From any annotation in HierText's schema. Each question is of one of three kinds (recognition, counting, retrieval), names
its passage by words that no other passage of the picture starts (ends) with, and says nothing of where it stands. The
passage covers at most `MOST_AREA` of the picture, so that it has to be cropped; with an orientation applied to the picture
(`generate`) that has to be undone first.

The paper puts the bound at 0.01% of the image, which its own published examples do not keep (their boxes would need
pictures of 24 to 185 megapixels); 1% fits them. What is not guaranteed: that HierText's own transcriptions are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kernel_agent.tasks.annotation import Annotation, Line, Paragraph, Vertices, Word, bounding_box
from kernel_agent.tasks.drawing import Question
from kernel_agent.tasks.ground_truth import AnswerType, Kind

MOST_AREA = 0.01
"""Largest share of the picture that a line may cover; a paragraph may cover four times as much."""
LEAST_HEIGHT = 8.0
"""Lowest line, in pixels, that is asked about."""
KINDS = (Kind.RECOGNITION, Kind.COUNTING, Kind.RETRIEVAL)
LONG_FIRST = 0.85
"""Share of counting questions that are about the longest passage there is: in a line every word comes once."""
NONE_SHARE = 0.1
"""Share of counting questions whose word is not there."""
COUNTED = ("the", "a", "and", "of", "in", "to", "is", "was", "for", "on")


class Passage(NamedTuple):
    """A line or a paragraph."""

    noun: str
    words: tuple[Word, ...]
    vertices: Vertices


def questions(annotation: Annotation, rng: np.random.Generator, kinds: Sequence[Kind] = KINDS) -> list[Question]:
    """One question of each of `kinds`, in that order, about different passages; a kind that no passage is fit for is left out."""
    found = list(passages(annotation))
    order = [found[int(i)] for i in rng.permutation(len(found))]
    beginnings, ends = _marks(annotation, first=True), _marks(annotation, first=False)
    out: list[Question] = []
    for kind in kinds:
        ranked = order
        if kind is Kind.COUNTING and rng.random() < LONG_FIRST:
            ranked = sorted(order, key=lambda passage: -len(passage.words))
        for passage in ranked:
            question = _ask(rng, kind, passage, beginnings, ends)
            if question is not None:
                out.append(question)
                order.remove(passage)
                break
    return out


def passages(annotation: Annotation) -> Iterator[Passage]:
    """Legible lines of three words or more, and paragraphs of two lines or more, that are small and not tiny."""
    area = annotation.size[0] * annotation.size[1]
    for paragraph in annotation.paragraphs:
        lines = [line for line in paragraph.lines if _good(line)]
        for line in lines:
            if len(line.words) >= 3 and _area(line.vertices) <= MOST_AREA * area:
                yield Passage("line", line.words, line.vertices)
        whole = len(lines) == len(paragraph.lines) and 2 <= len(lines) <= 8
        if whole and _area(paragraph.vertices) <= 4 * MOST_AREA * area:
            words = tuple(word for line in paragraph.lines for word in line.words)
            yield Passage("paragraph", words, paragraph.vertices)


def _good(line: Line) -> bool:
    x0, y0, x1, y1 = bounding_box(line.vertices)
    readable = line.legible and not line.vertical and all(word.legible for word in line.words)
    return readable and min(x1 - x0, y1 - y0) >= LEAST_HEIGHT and all(word.text.strip() for word in line.words)


def _area(vertices: Vertices) -> float:
    x0, y0, x1, y1 = bounding_box(vertices)
    return (x1 - x0) * (y1 - y0)


def _marks(annotation: Annotation, *, first: bool) -> dict[str, list[list[str]]]:
    """The words of all lines and of all paragraphs, each from its start, or from its end backwards."""

    def words(part: Line | Paragraph) -> list[str]:
        lines: Sequence[Line] = (part,) if isinstance(part, Line) else part.lines
        given = [word.text for line in lines for word in line.words]
        return given if first else given[::-1]

    return {
        "line": [words(line) for line in annotation.lines()],
        "paragraph": [words(paragraph) for paragraph in annotation.paragraphs],
    }


def _hint(words: Sequence[str], marks: Sequence[Sequence[str]], most: int) -> int | None:
    """How many of `words` name this passage and no other; None where even `most` do not."""
    for count in range(2, most + 1):
        head = [_plain(word) for word in words[:count]]
        if sum([_plain(word) for word in other[:count]] == head for other in marks) == 1:
            return count
    return None


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word).lower()


def _ask(
    rng: np.random.Generator,
    kind: Kind,
    passage: Passage,
    beginnings: dict[str, list[list[str]]],
    ends: dict[str, list[list[str]]],
) -> Question | None:
    words = [word.text for word in passage.words]
    most = min(5, len(words) - (2 if kind is Kind.RECOGNITION else 1))
    from_end = rng.random() < 0.5
    count = _hint(words[::-1] if from_end else words, (ends if from_end else beginnings)[passage.noun], most)
    if count is None:
        return None
    mark = " ".join(words[-count:] if from_end else words[:count])
    where = f'the {passage.noun} that {"ends" if from_end else "starts"} with "{mark}"'
    box = bounding_box(passage.vertices)
    if kind is Kind.RECOGNITION:
        if len(words) > 40:
            return None
        return Question(text=f"What is the full text of {where}?", answers=(" ".join(words),), kind=kind, box=box)
    plain = [_plain(word) for word in words]
    if kind is Kind.COUNTING:
        by_count: dict[int, list[str]] = {}
        for word in COUNTED:
            by_count.setdefault(plain.count(word), []).append(word)
        some = sorted(count for count in by_count if count)
        if not some:
            return None
        if 0 in by_count and rng.random() < NONE_SHARE:
            some = [0]
        elif len(some) > 1 and some[0] == 1 and rng.random() < 0.7:
            del some[0]  # else "1" would be a good guess
        same = by_count[some[int(rng.integers(len(some)))]]
        word = same[int(rng.integers(len(same)))]
        text = f'How many times does the word "{word}" appear in {where}? Count capital and small letters alike.'
        return Question(text=text, answers=(str(plain.count(word)),), kind=kind, answer_type=AnswerType.NUMBER, box=box)
    return _retrieval(rng, words, plain, where, passage)


def _retrieval(
    rng: np.random.Generator, words: list[str], plain: list[str], where: str, passage: Passage
) -> Question | None:
    box = bounding_box(passage.vertices)
    choice = int(rng.integers(4))
    if choice < 2:
        short, name = choice == 0, ("shortest", "longest")[choice]
        lengths = [len(word) for word in plain]
        best = min(lengths) if short else max(lengths)
        if best == 0 or lengths.count(best) != 1:
            return None
        answer = words[lengths.index(best)].strip(".,;:!?\"'()")
        text = f"What is the {name} word in {where}? Leave punctuation out."
        return Question(text=text, answers=(answer,), kind=Kind.RETRIEVAL, box=box)
    if choice == 2:
        text = f"How many words are in {where}?"
        return Question(text=text, answers=(str(len(words)),), kind=Kind.RETRIEVAL, answer_type=AnswerType.NUMBER, box=box)  # fmt: skip
    inner = [i for i in range(1, len(words) - 1) if plain[i] and plain.count(plain[i]) == 1 and plain[i + 1]]
    if not inner:
        return None
    index = inner[int(rng.integers(len(inner)))]
    answer = words[index + 1].strip(".,;:!?\"'()")
    text = f'Which word follows "{words[index].strip(".,;:")}" in {where}? Leave punctuation out.'
    return Question(text=text, answers=(answer,), kind=Kind.RETRIEVAL, box=box)
