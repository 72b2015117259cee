"""MVTool-style questions of our own: on a small text of a turned picture, with exact truth (`codevision data generate`).

Compared by what the answer is: numbers as numbers; the letter or the words of a choice; a list as its elements in any order; text
apart from case, runs of blanks, and quotes or a full stop around it. Any of the alternatives counts. The pictures come turned, in
equal shares, so that no transforms are run by default; the table is broken down by kind and by orientation.

Files: a data set folder of ours (`tasks.jsonl` and `images/`), or its JSON lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kernel_agent.benchmarks.answers import bare, choice_prompt, chosen_letter
from kernel_agent.benchmarks.base import Keep, Line, Loaded, Sample, Scored, as_is, by_category, load_rows, mean_line
from kernel_agent.benchmarks.mvtoolbench import same
from kernel_agent.errors import InputError
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
    """1 where the answer is one of the truths, else 0."""
    kind, options = sample.meta.get("answer_type"), sample.meta.get("options") or {}
    return float(answer is not None and is_one_of(answer, sample.gold, str(kind), options))


def is_right(task: GroundTruth, answer: str | None) -> bool:
    """Whether `answer` is right for a task of ours."""
    options = {chr(ord("A") + place): choice for place, choice in enumerate(task.choices)}
    return answer is not None and is_one_of(answer, task.answers, str(task.answer_type), options)


def is_one_of(answer: str, truths: Sequence[str], kind: str, options: Mapping[str, str]) -> bool:
    """Whether `answer` is one of `truths`, compared as an `AnswerType` says."""
    said = bare(answer)
    if kind == AnswerType.CHOICE and options:
        letter = chosen_letter(answer, options)
        return letter is not None and bool({letter, options[letter]} & {truth.strip() for truth in truths})
    if kind == AnswerType.NUMBER:
        return any(same(said, truth) for truth in truths)
    if kind == AnswerType.LIST:
        return any(_elements(said) == _elements(truth) for truth in truths)
    return any(_plain(said) == _plain(truth) for truth in truths)


def _plain(text: str) -> str:
    return " ".join(text.split()).strip("\"'“”‘’. ").casefold()


def _elements(text: str) -> list[str]:
    return sorted(_plain(part) for part in text.strip().strip("[]").replace(";", ",").split(",") if part.strip())


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Accuracy over all, by kind and by how the picture lies."""
    lies = sorted({str(one.meta.get("orientation")) for one in scored})
    turned = [
        mean_line(f"lies {name}", [one for one in scored if one.meta.get("orientation") == name]) for name in lies
    ]
    return (*by_category(scored), *turned)
