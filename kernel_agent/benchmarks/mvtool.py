"""MVTool-style questions of our own: on a small text of a turned picture, with exact truth (`codevision data generate`).

Compared by what the answer is: numbers as numbers; the letter or the words of a choice; a list as its elements in any order; text
apart from case, runs of blanks, and quotes or a full stop around it. Any of the alternatives counts. The pictures come turned, in
equal shares, so that no transforms are run by default; the table is broken down by kind and by orientation.

Files: a data set folder of ours (`tasks.jsonl` and `images/`), or its JSON lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kernel_agent.benchmarks.answers import bare, choice_prompt
from kernel_agent.benchmarks.base import Keep, Line, Loaded, Sample, Scored, as_is, by_category, load_rows, mean_line
from kernel_agent.errors import InputError
from kernel_agent.rewards.answers import compare
from kernel_agent.tasks.dataset import TASKS
from kernel_agent.tasks.ground_truth import AnswerType, GroundTruth
from kernel_agent.tasks.released import RowError, read_picture
from kernel_agent.tasks.released.rows import Found

NAME = "mvtool"
TURNED = False


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`."""
    if path is not None and (path / TASKS).is_file():
        path = path / TASKS
    return load_rows(
        path, read_sample, limit=limit, keep=keep, what="a data set (codevision data generate --kind mvtool)"
    )


def read_sample(found: Found) -> Sample:
    """A row of `tasks.jsonl`. Raises RowError."""
    try:
        truth = GroundTruth.from_json({key: value for key, value in found.row.items() if value is not None})
    except InputError as error:
        raise RowError(str(error)) from error
    if truth.image is None:
        raise RowError("a task without an image")
    options = {chr(ord("A") + place): choice for place, choice in enumerate(truth.choices)}
    return Sample(
        id=truth.id,
        question=truth.question,
        images=(read_picture({"path": truth.image}, folder=found.file.parent),),
        gold=list(truth.answers),
        category=str(truth.kind),
        meta={
            "answer_type": str(truth.answer_type),
            "orientation": str(truth.orientation),
            "options": options,
            "box": list(truth.target) if truth.target else None,
        },
    )


def prompt(sample: Sample) -> str:
    """The question, with its options where it has some."""
    options = sample.meta.get("options")
    if options and not all(option in sample.question for option in options.values()):
        return choice_prompt(sample.question, options)
    return sample.question


def score(sample: Sample, answer: str | None) -> float:
    """1 where the answer is one of the truths, as a task's answers are always compared (rewards/answers.py); else 0."""
    options = sample.meta.get("options") or {}
    kind = AnswerType(sample.meta["answer_type"])
    return float(compare(answer and bare(answer), sample.gold, kind, tuple(options.values())).correct)


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Accuracy over all, by kind and by how the picture lies."""
    lies = sorted({str(one.meta.get("orientation")) for one in scored})
    turned = [
        mean_line(f"lies {name}", [one for one in scored if one.meta.get("orientation") == name]) for name in lies
    ]
    return (*by_category(scored), *turned)
