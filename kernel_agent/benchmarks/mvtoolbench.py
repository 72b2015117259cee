"""MVToolBench: questions on a small text of a photo that is turned, so that turning and cropping are both needed (8.2).

Scored as the paper's code does before it asks a judge (section 6.3): the bare answer equal as text (case counts) or as a number;
for an option letter the last one that stands alone; else the last number in the answer. The released code asks a language
model about everything else, with its general prompt; without a judge (`--judge-url`) these count as wrong, so that the
score is a lower bound. Where a truth is a list each of its aliases counts by rule (the released code leaves lists to the judge).

Files: the hub's parquet. The images come turned, so that no transforms are run by default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from kernel_agent.benchmarks.answers import bare
from kernel_agent.benchmarks.base import Keep, Line, Loaded, Sample, Scored, as_is, by_category, load_rows
from kernel_agent.tasks.released.codevision_rl import read_task
from kernel_agent.tasks.released.rows import Found

NAME = "mvtoolbench"
TURNED = False
NEAR = Fraction(1, 10_000)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?|[-+]?\.\d+")


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`."""
    return load_rows(path, _sample, limit=limit, keep=keep, what="MVToolBench")


def _sample(found: Found) -> Sample:
    task = read_task(found)
    return Sample(
        id=task.id,
        question=task.question,
        images=task.images,
        gold=list(task.truths),
        category=next((name for name in task.transforms if name != "crop"), "none"),
        meta={"transforms": list(task.transforms), "box": list(task.box) if task.box else None, "source": task.source},
    )


def prompt(sample: Sample) -> str:
    """The question alone."""
    return sample.question


def score(sample: Sample, answer: str | None) -> float:
    """1 where the rules find the answer equal to a truth, else 0."""
    return float(answer is not None and any(same(bare(answer), truth) for truth in sample.gold))


def same(said: str, truth: str) -> bool:
    """The rules of the released answer check for one truth."""
    said, truth = said.strip(), truth.strip()
    if said == truth or _equal_numbers(said, truth):
        return True
    if truth in ("A", "B", "C", "D"):
        letters = re.findall(r"\b([A-D])\b", said.upper())
        return bool(letters) and letters[-1] == truth
    numbers = _NUMBER.findall(said)
    return bool(numbers) and (numbers[-1] == truth or _equal_numbers(numbers[-1], truth))


def _equal_numbers(one: str, other: str) -> bool:
    left, right = _fraction(one), _fraction(other)
    return left is not None and right is not None and abs(left - right) < NEAR


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "")) if len(text) < 100 else None
    except (ValueError, ZeroDivisionError):
        return None


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Accuracy over all and by the transform of the image."""
    return by_category(scored)
