"""OCRBench: 1,000 questions on text in images (digest section 8.5).

Scored as the official script does: an answer is right when one of the alternatives is IN it. HME100k drops all spaces and
keeps case; everything else is lower-cased. (lmms-eval lower-cases the predictions of HME100k too, so that a third of its
formulas cannot be matched: not followed.) The score of a full run is hits of 1,000; the table has it in percent.

Files: the official `OCRBench.json` with its image folder, the parquet of the hub, VLMEvalKit's TSV.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernel_agent.benchmarks.answers import bare
from kernel_agent.benchmarks.base import Keep, Line, Loaded, Sample, Scored, as_is, by_category, load_rows, text_field
from kernel_agent.tasks.released import Picture, RowError, read_picture
from kernel_agent.tasks.released.rows import Found

NAME = "ocrbench"
TURNED = True
FORMULAS = ("HME100k", "Handwritten Mathematical Expression Recognition")
"""How the data set and its category of formulas are called."""


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`."""
    return load_rows(path, _sample, limit=limit, keep=keep, what="OCRBench")


def _sample(found: Found) -> Sample:
    row = found.row
    dataset = text_field(row, "dataset_name", "dataset", default="")
    category = text_field(row, "type", "question_type", "category", default=dataset)
    number = text_field(row, "id", "index", default=str(found.index))
    return Sample(
        id=f"{dataset}-{number}" if dataset else number,
        question=text_field(row, "question"),
        images=(_image(found),),
        gold=_answers(next((row[key] for key in ("answers", "answer") if row.get(key) is not None), None)),
        category=category,
        meta={"formula": dataset in FORMULAS or category in FORMULAS},
    )


def _image(found: Found) -> Picture:
    value, folder = found.row.get("image"), found.file.parent
    if value is None:
        name = text_field(found.row, "image_path")
        places = (folder, folder / "OCRBench_Images", folder / "images")
        folder = next((place for place in places if (place / name).is_file()), folder)
        value = {"path": str(folder / name)}
    return read_picture(value, folder=folder)


def _answers(value: Any) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:  # VLMEvalKit's table holds the list as text
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        value = parsed if isinstance(parsed, list) else value
    values = value if isinstance(value, list | tuple) else [value]
    found = [str(one) for one in values if one is not None and str(one) != ""]
    if not found:
        raise RowError("no answers")
    return found


def prompt(sample: Sample) -> str:
    """The question alone, as the official script asks."""
    return sample.question


def score(sample: Sample, answer: str | None) -> float:
    """1 where an alternative is in the answer, else 0."""
    said = bare(answer).strip().replace("\n", " ")
    for truth in sample.gold:
        wanted = truth.strip().replace("\n", " ")
        if sample.meta.get("formula"):
            hit = wanted.replace(" ", "") in said.replace(" ", "")
        else:
            hit = wanted.lower() in said.lower()
        if hit and said:
            return 1.0
    return 0.0


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """Hits in percent, over all and by the official categories."""
    return by_category(scored)
