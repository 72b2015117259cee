"""V*: 191 questions on small things in large photos, 115 on attributes and 76 on positions (digest section 8.7).

The original files always give the right option first, so they are shuffled (by `seed` and the sample, the same each time);
the hub's parquet and VLMEvalKit's TSV come with letters. Scored by the letter meant.

Files: the original folders (`direct_attributes/*.json` beside the photos, or the folder above them), the hub's parquet or
JSON lines, VLMEvalKit's TSV.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from kernel_agent.benchmarks.answers import choice_prompt, chosen_letter
from kernel_agent.benchmarks.base import (
    Keep,
    Line,
    Loaded,
    Sample,
    Scored,
    as_is,
    by_category,
    kept,
    load_rows,
    text_field,
)
from kernel_agent.tasks.released import Problem, RowError, read_picture
from kernel_agent.tasks.released.rows import Found, Row

NAME = "vstar"
TURNED = False
LETTERS = "ABCDEF"
_OPTION = re.compile(r"\(([A-F])\)\s*(.*?)\s*(?=\([A-F]\)|\n|$)", re.DOTALL)


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`; `seed` draws the order of the options where the file does not."""

    def read(found: Found) -> Sample:
        return _sample(found, seed)

    folders = [path] if path is not None else []
    if (
        path is not None
        and path.is_dir()
        and not any(file.suffix in (".parquet", ".jsonl", ".tsv", ".json") for file in path.iterdir())
    ):
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and any(folder.glob("*.json")))
    if len(folders) < 2:
        return load_rows(folders[0] if folders else path, read, limit=limit, keep=keep, what="V*")
    samples: list[Sample] = []
    problems: list[Problem] = []
    for folder in folders:
        part = load_rows(folder, read, limit=None if limit is None else limit - len(samples), keep=as_is, what="V*")
        samples += part.samples
        problems += part.problems
    return Loaded(samples=tuple(kept(samples, keep)), problems=tuple(problems))


def _sample(found: Found, seed: int) -> Sample:
    row, original = found.row, isinstance(found.row.get("options"), list)
    name = f"{found.file.parent.name}/{found.file.stem}" if original else f"{found.file.stem}-{found.index}"
    name = text_field(row, "question_id", "index", default=name)
    question = text_field(row, "question", "text")
    if original:
        options, letter = _shuffled([str(option) for option in row["options"]], f"{seed}/{name}")
    else:
        letter = text_field(row, "label", "answer").strip().strip("()").upper()[:1]
        question, options = _lettered(row, question)
    if letter not in options:
        raise RowError(f"the right option is {letter!r}, there are {', '.join(options) or 'none'}")
    image = row.get("image")
    if image is None:
        image = {"path": f"{found.file.stem}.jpg"}
    return Sample(
        id=name,
        question=question,
        images=(read_picture(image, folder=found.file.parent),),
        gold=letter,
        category=text_field(row, "category", default=found.file.parent.name if original else ""),
        meta={"options": options},
    )


def _shuffled(options: list[str], seed: str) -> tuple[dict[str, str], str]:
    """Letters for options of which the first is right, and its letter."""
    order = list(range(len(options)))
    random.Random(seed).shuffle(order)
    lettered = {LETTERS[place]: options[index] for place, index in enumerate(order)}
    return lettered, LETTERS[order.index(0)]


def _lettered(row: Row, question: str) -> tuple[str, dict[str, str]]:
    """Question and options out of the columns A, B, ..., or out of the text ("... (A) red (B) blue")."""
    columns = {letter: str(row[letter]) for letter in LETTERS if row.get(letter) is not None}
    if columns:
        return question, columns
    options = {letter: option.strip() for letter, option in _OPTION.findall(question)}
    return question.partition("(A)")[0].strip(), options


def prompt(sample: Sample) -> str:
    """Question and options."""
    return choice_prompt(sample.question, sample.meta["options"])


def score(sample: Sample, answer: str | None) -> float:
    """1 for the right letter, else 0."""
    return float(chosen_letter(answer, sample.meta["options"]) == sample.gold)


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Accuracy over all and by category."""
    return by_category(scored)
