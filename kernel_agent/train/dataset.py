"""What a model is trained on: the runs of files as its examples, some of each kind held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel_agent.errors import CodeVisionError, InputError
from kernel_agent.models.hashes import file_sha256
from kernel_agent.tasks.released import Problem
from kernel_agent.train.examples import Example, Writer
from kernel_agent.train.runs import files_of, places, read_run
from kernel_agent.types import Json

Told = Callable[[str, int, int], None]
"""Is told what is going on, how much of it is done, and of how much."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is learned from, what is held out, and what the record says of both."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    problems: tuple[Problem, ...]
    about: dict[str, Json]


def gather(
    data: Sequence[str], writer: Writer, told: Told, *, limit: int | None = None, eval_share: float = 0.0, seed: int = 0
) -> Data:
    """Read the (first `limit`) runs of `data` and write them as examples. InputError where nothing is left to learn from.

    `eval_share` of the runs of each kind are held out, at least one of those that have two; `seed` says which.
    """
    found = list(places(files := files_of(Path(one).expanduser() for one in data)))[:limit]
    runs: list[tuple[Example, ...]] = []
    problems: list[Problem] = []
    seen = unseen = 0
    for number, place in enumerate(found):
        run = read_run(place)
        told("reading", number + 1, len(found))
        if isinstance(run, Problem):
            problems.append(run)
            continue
        try:
            written = writer.write(run)
        except (CodeVisionError, OSError, SyntaxError) as error:  # what Pillow raises where a picture's file is cut off
            problems.append(run.problem(f"it cannot be written as an example ({error})"))
            continue
        seen, unseen = seen + written.seen, unseen + written.unseen
        if written.left_out:
            problems.append(run.problem(written.left_out))
        if written.examples:
            runs.append(written.examples)
    held = _held_out([examples[0].kind for examples in runs], eval_share, seed)
    train = tuple(one for number, examples in enumerate(runs) if number not in held for one in examples)
    held_out = tuple(one for number in sorted(held) for one in runs[number])
    if not train:
        first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise InputError(f"{', '.join(data)}: no run is left to learn from{first}")
    about = {
        "files": {file.name: file_sha256(file) for file in files},
        "runs": len(runs),
        "kinds": dict(sorted(Counter(examples[0].kind for examples in runs).items())),
        "held_out_runs": len(held),
        "examples": len(train),
        "tokens": sum(len(one.ids) for one in train),
        "learned_tokens": sum(one.learned for one in train),
        "examples_sha256": _hash([*train, *held_out]),
        "recorded_prompts": {"equal": seen, "other": unseen},
        "left_out": [str(problem) for problem in problems],
    }
    return Data(train=train, held_out=held_out, problems=tuple(problems), about=about)


def _held_out(kinds: Sequence[str], share: float, seed: int) -> set[int]:
    """Numbers of the runs that are held out: the share of each kind, at least one of those that have two."""
    out: set[int] = set()
    for kind in set(kinds):
        numbers = [number for number, one in enumerate(kinds) if one == kind]
        numbers.sort(key=lambda number: hashlib.sha256(f"{seed} {number}".encode()).digest())
        if share and len(numbers) > 1:
            out.update(numbers[: max(1, round(share * len(numbers)))])
    return out


def _hash(examples: Sequence[Example]) -> str:
    """Over ids, labels and pictures, in order."""
    whole = hashlib.sha256()
    for one in examples:
        whole.update(json.dumps([one.ids.tolist(), one.labels.tolist(), one.pictures]).encode())
    return whole.hexdigest()
