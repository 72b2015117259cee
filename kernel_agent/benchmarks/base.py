"""What every benchmark gives: samples out of files, a prompt, a score, a table. All of it pure but the reading of files.

A benchmark is a module (or any object) that satisfies `Benchmark`. Scores are between 0 and 1 for one sample, percentages in
a table. `score` is given the bare answer: contains-matching over a whole transcript would inflate it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

from kernel_agent.tasks.released import Picture, Problem, RowError
from kernel_agent.tasks.released.rows import Found, read_rows
from kernel_agent.types import Json


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question with what its scorer needs.

    Attributes:
        id: unique in its benchmark, and the same whenever the same files are loaded.
        question: as in the data set; `Benchmark.prompt` makes of it what the model is asked.
        gold: the answers; their form is the benchmark's own.
        category: what the table is broken down by.
        meta: JSON data that prompt, score or summarise use.
    """

    id: str
    question: str
    images: tuple[Picture, ...] = field(repr=False)
    gold: Json
    category: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a file gave: samples, and the rows that were skipped."""

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sample's score with what `summarise` may group by."""

    id: str
    score: float
    category: str = ""
    meta: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table: `score` in percent over `n` samples. The first line of a table is the headline."""

    name: str
    score: float
    n: int


Keep: TypeAlias = Callable[[Picture], Picture]
"""What becomes of a picture once it is read: itself, or a file where it takes no memory (`spool`)."""


class Benchmark(Protocol):
    """A benchmark, as `kernel_agent.benchmarks.get_benchmark` gives it."""

    NAME: str
    TURNED: bool
    """Whether it is run under the five transforms by default (section 8.1); the others come turned, or are not turned."""

    def load(self, path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = ...) -> Loaded:
        """The first `limit` samples (all by default) in the order of the files. `seed` is for what is generated or drawn.

        Raises InputError where there is no such file; a bad row is a problem in the result.
        """

    def prompt(self, sample: Sample) -> str:
        """What the model is asked."""

    def score(self, sample: Sample, answer: str | None) -> float:
        """0 to 1, as the official scorer counts; None (no answer) is 0."""

    def summarise(self, scored: Sequence[Scored]) -> tuple[Line, ...]:
        """The table: the headline first."""


def as_is(picture: Picture) -> Picture:
    """Keeps a picture where it is."""
    return picture


def spool(folder: Path) -> Keep:
    """Writes pictures that are in memory to `folder`, each once, named by its content."""

    def keep(picture: Picture) -> Picture:
        if isinstance(picture, Path):
            return picture
        target = folder / hashlib.sha256(picture).hexdigest()
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(".part")
            part.write_bytes(picture)
            part.replace(target)  # whole, or not there
        return target

    return keep


def load_rows(
    path: Path | None,
    read: Callable[[Found], Sample],
    *,
    limit: int | None,
    keep: Keep,
    what: str,
) -> Loaded:
    """`read` on each row of the files until there are `limit` samples. What `read` raises as RowError is a problem."""
    from kernel_agent.errors import InputError

    if path is None:
        raise InputError(f"Say where {what} lies: --data FILE_OR_FOLDER.")
    problems: list[Problem] = []

    def samples() -> Iterator[Sample]:
        for found in read_rows(path):
            if isinstance(found, Problem):
                problems.append(found)
                continue
            try:
                yield read(found)
            except RowError as error:
                problems.append(found.problem(error))

    return Loaded(samples=tuple(kept(islice(samples(), limit), keep)), problems=tuple(problems))


def kept(samples: Iterable[Sample], keep: Keep) -> Iterator[Sample]:
    """The samples with their pictures where `keep` puts them; ids that come twice are told apart by a number."""
    from dataclasses import replace

    seen: dict[str, int] = {}
    for sample in samples:
        seen[sample.id] = count = seen.get(sample.id, 0) + 1
        name = sample.id if count == 1 else f"{sample.id}~{count}"
        yield replace(sample, id=name, images=tuple(map(keep, sample.images)))


def mean_line(name: str, scored: Sequence[Scored]) -> Line:
    """The mean of the scores, in percent."""
    n = len(scored)
    return Line(name=name, score=100 * sum(one.score for one in scored) / n if n else 0.0, n=n)


def by_category(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """The mean over all, then over each category by name."""
    names = sorted({one.category for one in scored})
    parts = [mean_line(name, [one for one in scored if one.category == name]) for name in names if name]
    return (mean_line("all", scored), *parts)


def text_field(row: Mapping[str, Json], *names: str, default: str | None = None) -> str:
    """The first of these fields that is there, as text. RowError where none is and there is no default."""
    for name in names:
        value = row.get(name)
        if value is not None and str(value).strip():
            return str(value)
    if default is None:
        raise RowError(f"no {' or '.join(names)}")
    return default
