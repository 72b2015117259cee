"""HR-Bench 4K and 8K: 200 questions, each in four cyclic orders of its options (digest section 8.7).

As VLMEvalKit reports it: accuracy in each cycle, then the mean over the cycles; "single" and "cross" likewise.

Files: `hr_bench_4k.tsv`, `hr_bench_8k.tsv` (base64 images), or the hub's parquet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kernel_agent.benchmarks.answers import choice_prompt, chosen_letter
from kernel_agent.benchmarks.base import Keep, Line, Loaded, Sample, Scored, as_is, load_rows, mean_line, text_field
from kernel_agent.tasks.released import Picture, RowError, read_picture
from kernel_agent.tasks.released.rows import Found

NAME = "hrbench"
TURNED = False
LETTERS = "ABCD"


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`."""
    return load_rows(path, _reader(keep), limit=limit, keep=as_is, what="HR-Bench")


def _reader(keep: Keep) -> Callable[[Found], Sample]:
    pictures: dict[str, Picture] = {}  # a short image cell names the row that has the picture

    def read(found: Found) -> Sample:
        row = found.row
        number = text_field(row, "index", "id", default=str(found.index))
        cell = row.get("image")
        if isinstance(cell, str) and cell in pictures:
            picture = pictures[cell]
        else:
            picture = pictures[number] = keep(read_picture(cell, folder=found.file.parent))
        options = {letter: str(row[letter]) for letter in LETTERS if row.get(letter) is not None}
        letter = text_field(row, "answer").strip().upper()
        if letter not in options:
            raise RowError(f"the right option is {letter!r}, there are {', '.join(options) or 'none'}")
        cycle = text_field(row, "cycle_category", "cycle", default="0")
        return Sample(
            id=f"{found.file.stem}-{number}",
            question=text_field(row, "question"),
            images=(picture,),
            gold=letter,
            category=text_field(row, "category", default=""),
            meta={"options": options, "cycle": cycle},
        )

    return read


def prompt(sample: Sample) -> str:
    """Question and options."""
    return choice_prompt(sample.question, sample.meta["options"])


def score(sample: Sample, answer: str | None) -> float:
    """1 for the right letter, else 0."""
    return float(chosen_letter(answer, sample.meta["options"]) == sample.gold)


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Accuracy averaged over the cycles: over all, and by category. A category that a cycle lacks adds nothing there."""
    cycles = sorted({str(one.meta.get("cycle")) for one in scored})
    names = sorted({one.category for one in scored if one.category})
    lines = []
    for name in ("all", *names):
        chosen = [one for one in scored if name in ("all", one.category)]
        parts = [mean_line(c, [one for one in chosen if str(one.meta.get("cycle")) == c]).score for c in cycles]
        lines.append(Line(name=name, score=sum(parts) / max(1, len(parts)), n=len(chosen)))
    whole = [mean_line(f"cycle {c}", [one for one in scored if str(one.meta.get("cycle")) == c]) for c in cycles]
    return (*lines, *whole)
