"""ChartQAPro: 1,948 questions on 1,341 charts (digest section 8.6).

Scored as VLMEvalKit does, which its authors recommend, quirks included: the last answer counts, without dots around it; lists
are compared element by element and a missing or extra element is 0; an element flagged as a year must be equal; numbers may
be 5% off (of 0: not at all); other text gets 1 minus its normalised edit distance, 0 from one half on. Fact checking and
multiple choice are NOT held to exact equality: the official script computes that flag and never passes it on.

Files: the parquet of the hub, VLMEvalKit's TSV (whose lists are text).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernel_agent.benchmarks.answers import bare
from kernel_agent.benchmarks.base import Keep, Line, Loaded, Sample, Scored, as_is, by_category, load_rows, text_field
from kernel_agent.tasks.released import RowError, read_picture
from kernel_agent.tasks.released.rows import Found

NAME = "chartqapro"
TURNED = True
TOLERANCE = 0.05
"""Largest relative error of a number."""

_ASK = {
    "Factoid": "Answer the question about the chart with one word, number or phrase.",
    "Hypothetical": "Answer the hypothetical question about the chart with one word, number or phrase.",
    "Conversational": "Answer the last question of the conversation about the chart with one word, number or phrase.",
    "Multi Choice": "Choose the right option from what the chart shows. Answer with its letter alone (a, b, c or d).",
    "Fact Checking": "Judge the statement by the chart. Answer with true or false.",
}
_FORM = (
    "If the chart does not tell, answer: unanswerable. Add no units; where a number needs a scale (million, m, billion, B, K) "
    "write it as the chart does. Several answers go into one list: ['first', 'second']."
)


def load(path: Path | None, *, limit: int | None = None, seed: int = 0, keep: Keep = as_is) -> Loaded:
    """See `Benchmark.load`."""
    return load_rows(path, _sample, limit=limit, keep=keep, what="ChartQAPro")


def _sample(found: Found) -> Sample:
    row = found.row
    questions, answers = _list(row.get("Question", row.get("question"))), _list(row.get("Answer", row.get("answer")))
    kind = text_field(row, "Question Type", "question_type", "category")
    if not questions or not answers:
        raise RowError("no Question" if not questions else "no Answer")
    if kind not in _ASK:
        raise RowError(f"Question Type {kind!r} is none of {', '.join(_ASK)}")
    return Sample(
        id=text_field(row, "index", "id", default=f"{found.file.stem}-{found.index}"),
        question=questions[-1] if kind == "Conversational" else questions[0],
        images=(read_picture(row.get("image"), folder=found.file.parent),),
        gold=answers[-1],
        category=kind,
        meta={
            "years": _list(row.get("Year")) or ["NO"],
            "paragraph": text_field(row, "Paragraph", default=""),
            "history": [list(pair) for pair in zip(questions[:-1], answers[:-1], strict=False)],
        },
    )


def _list(value: Any) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        value = parsed if isinstance(parsed, list) else value
    values = value if isinstance(value, list | tuple) else [value]
    return [str(one) for one in values if one is not None]


def prompt(sample: Sample) -> str:
    """Instruction by type, the paragraph that goes with the chart, the conversation so far, the question."""
    parts = [f"{_ASK[sample.category]} {_FORM}"]
    if sample.meta.get("paragraph"):
        parts.append(str(sample.meta["paragraph"]))
    if sample.category == "Conversational":
        parts += [f"Q: {asked}\nA: {said}" for asked, said in sample.meta.get("history", ())]
    return "\n\n".join([*parts, f"Question: {sample.question}"])


def score(sample: Sample, answer: str | None) -> float:
    """Mean over the elements of the answer."""
    if answer is None:
        return 0.0
    years = [str(flag) for flag in sample.meta.get("years", ("NO",))]
    if sample.category == "Conversational":
        years = years[-1:]
    return relaxed(str(sample.gold).strip(".").strip("\n"), bare(answer).strip(".").strip("\n"), years)


def relaxed(target: str, said: str, years: Sequence[str]) -> float:
    """The official relaxed correctness of two stripped strings; `years` holds YES or NO for each element."""
    wanted = _elements(str(_quoted(target))) or [target]
    given = _elements(said) or [said]
    if len(years) < len(wanted):
        years = list(years) * len(wanted)
    scores = [0.0] * max(len(wanted), len(given))
    for index, (one, other) in enumerate(zip(wanted, given, strict=False)):
        is_year = index < len(years) and years[index].upper() == "YES"
        scores[index] = float(one.strip().lower() == other.strip().lower()) if is_year else element(one, other)
    return sum(scores) / len(scores)


def _quoted(text: str) -> Any:
    """A list whose words lack quotes, as the list meant. As the official script does it, words of one element run
    together: [New York, Paris] is ['NewYork', 'Paris']."""
    inside = re.match(r"^\[(.*)\]$", text.strip())
    if inside is None:
        return text
    try:
        return ast.literal_eval("[" + re.sub(r"(?<!['\w])\w['\w]*", lambda word: f"'{word[0]}'", inside[1]) + "]")
    except (SyntaxError, ValueError):
        return text


def _elements(text: str) -> list[str]:
    try:
        parsed = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return []
    return [str(one).strip(" '") for one in parsed] if isinstance(parsed, list) else []


def element(target: str, said: str) -> float:
    """One element against another: as numbers where both are, else as text."""
    wanted, given = target.strip().strip("%").strip(), said.strip().strip("%").strip()
    numbers = _number(wanted), _number(given)
    if numbers[0] is not None and numbers[1] is not None:
        if numbers[0] == 0.0:
            return float(numbers[1] == 0.0)
        return float(abs(numbers[1] - numbers[0]) / abs(numbers[0]) <= TOLERANCE)
    return similarity(wanted, given)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def similarity(target: str, said: str) -> float:
    """ANLS with threshold 0.5: case and runs of spaces do not count."""
    one, other = " ".join(said.lower().split()), " ".join(target.lower().split())
    length = max(len(one), len(other))
    if length == 0:
        return 1.0
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    distance = row[-1] / length
    return 1 - distance if distance < 0.5 else 0.0


def summarise(scored: Sequence[Scored]) -> tuple[Line, ...]:
    """The mean over questions, over all and by type."""
    return by_category(scored)
