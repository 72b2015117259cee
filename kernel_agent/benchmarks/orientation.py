"""Reading in six orientations: generated pictures with one line of text, which the transforms turn.

Ours: the same questions upright and under the paper's five transforms, with exact truth and without a download. Answers
must be exact. The fonts are those the embedded model never saw in training (`kernel-agent[data]`).

With a path, the pictures and truths come from there: JSON lines (or JSON, TSV, parquet) with image, question and answer, or a
data set of ours (`codevision data generate`), whose pictures are put upright first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kernel_agent.benchmarks import mvtool
from kernel_agent.benchmarks.answers import bare
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
from kernel_agent.tasks.dataset import TASKS
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.released import RowError, as_pil, read_picture
from kernel_agent.tasks.released.rows import Found

NAME = "orientation"
TURNED = True
DEFAULT_N = 300
"""Pictures where no limit is given."""


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`; without a path `limit` pictures of the series `seed` are drawn."""
    if path is not None and (path / TASKS).is_file():
        path = path / TASKS
    if path is not None:
        return load_rows(path, _sample, limit=limit, keep=keep, what="the data set")
    return Loaded(samples=tuple(kept(_drawn(seed, DEFAULT_N if limit is None else limit), keep)))


def _drawn(seed: int, n: int) -> Iterator[Sample]:
    from kernel_agent.tasks.fonts import held_out_faces
    from kernel_agent.tasks.reading import draw_task

    faces = held_out_faces()
    for index in range(n):
        task = draw_task(seed, index, faces)
        file = io.BytesIO()
        task.orientation.inverse.apply(task.image).save(file, "PNG")
        height = task.glyph_height
        yield Sample(
            id=f"reading-{seed}-{index}",
            question=task.question,
            images=(file.getvalue(),),
            gold=task.answer,
            category=f"glyphs of {'14-20' if height < 20 else '20-40' if height < 40 else '40-80'} px",
        )


def _sample(found: Found) -> Sample:
    row = found.row
    if "answers" in row:
        return _ours(found)
    return Sample(
        id=text_field(row, "id", "index", default=f"{found.file.stem}-{found.index}"),
        question=text_field(row, "question"),
        images=(read_picture(row.get("image"), folder=found.file.parent),),
        gold=text_field(row, "answer"),
        category=text_field(row, "category", default=""),
    )


def _ours(found: Found) -> Sample:
    sample = mvtool.read_sample(found)
    lies = Orientation(sample.meta["orientation"])
    if lies is Orientation.UPRIGHT:
        return sample
    file = io.BytesIO()
    try:
        lies.inverse.apply(as_pil(sample.images[0])).save(file, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:
        raise RowError(f"the picture cannot be decoded ({error})") from error
    return replace(sample, images=(file.getvalue(),))


def prompt(sample: Sample) -> str:
    """The question alone."""
    return sample.question


def score(sample: Sample, answer: str | None) -> float:
    """1 where the answer is exact, apart from blanks around it; in a data set of ours as `mvtool` counts."""
    if "answer_type" in sample.meta:
        return mvtool.score(sample, answer)
    return float(answer is not None and bare(answer) == str(sample.gold).strip())


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Accuracy over all and by category."""
    return by_category(scored)
