"""The report of an evaluation: the paper's table, the controls, what it took. Pure: from `results.jsonl` to tables.

    report = load("DIR")
    report.paper_table(); report.controls(); report.effort(); report.runs()

The average is over all columns of a condition, the source included (as in the paper's table 1); the worst drop is relative to the
source. Tool gain and harm are paired: over the runs that both conditions finished, the mean of what tools add where they
add, and of what they cost where they cost. A condition whose columns lack samples says so by its n; nothing is filled in.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import quantiles

from kernel_agent.benchmarks import get_benchmark
from kernel_agent.benchmarks.base import Line, Scored
from kernel_agent.benchmarks.results import Condition, Result, read_results, transform_name
from kernel_agent.benchmarks.tables import Link, Plot, Series, Table, bars
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.types import Json

ORDER = tuple(transform_name(one) for one in Orientation)
MOST_RUNS = 500
"""Runs that the table of runs shows, wrong ones first; all are in results.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Tools against a control, in percent of `n` paired runs: `tools` - `control` = `gain` - `harm`."""

    control: str
    n: int
    tools: float
    control_score: float
    gain: float
    harm: float


def load(folder: str | os.PathLike[str]) -> Report:
    """The report of a folder of results. Raises InputError."""
    settings, results = read_results(Path(folder))
    return Report(settings, results)


class Report:
    """Tables and plots over finished runs."""

    def __init__(self, settings: Mapping[str, Json], results: Sequence[Result]) -> None:
        self.settings, self.results = settings, tuple(results)
        self.benchmark = get_benchmark(str(settings["benchmark"]))

    @cached_property
    def columns(self) -> Mapping[str, Mapping[str, tuple[Line, ...]]]:
        """By condition, then transform: the benchmark's own table of that column."""
        out: dict[str, dict[str, tuple[Line, ...]]] = {}
        for condition in (str(one) for one in Condition):
            for transform in ORDER:
                runs = [r for r in self.results if (r.condition, r.transform) == (condition, transform)]
                if runs:
                    scored = [Scored(id=r.sample, score=r.score, category=r.category, meta=r.meta) for r in runs]
                    out.setdefault(condition, {})[transform] = self.benchmark.summarise(scored)
        return out

    @property
    def transforms(self) -> tuple[str, ...]:
        """The columns that there are, in the paper's order."""
        return tuple(name for name in ORDER if any(name in row for row in self.columns.values()))

    def average(self, condition: str) -> float:
        """Mean of the condition's columns, in percent."""
        scores = [lines[0].score for lines in self.columns[condition].values()]
        return sum(scores) / len(scores)

    def worst_drop(self, condition: str) -> float | None:
        """How far the worst column is below the source, in percent of the source; None without both."""
        row = self.columns[condition]
        turned = [lines[0].score for name, lines in row.items() if name != "source"]
        source = row["source"][0].score if "source" in row else 0.0
        return 100 * (source - min(turned)) / source if turned and source else None

    def paper_table(self) -> Table:
        """Source, transforms, average, worst drop: one row a condition."""
        rows = []
        for condition, row in self.columns.items():
            scores = [row[name][0].score if name in row else None for name in self.transforms]
            n = {row[name][0].n for name in row}
            size = str(min(n)) if len(n) == 1 else f"{min(n)}-{max(n)}"
            rows.append((condition, *scores, self.average(condition), self.worst_drop(condition), size))
        return Table(
            title=f"{self.benchmark.NAME}: score in percent",
            head=("condition", *self.transforms, "average", "worst drop %", "n a column"),
            rows=tuple(rows),
            note="The average is over all columns, the source included.",
        )

    def parts(self, condition: str = "tools") -> Table:
        """The benchmark's own breakdown, by column."""
        row = self.columns.get(condition, {})
        names = list(dict.fromkeys(line.name for lines in row.values() for line in lines))
        found = {(line.name, name): line for name, lines in row.items() for line in lines}
        cells = [[found.get((part, name)) for name in row] for part in names]
        return Table(
            title=f"By category, condition {condition}",
            head=("category", *row, "n"),
            rows=tuple(
                (
                    part,
                    *(line.score if line else None for line in lines),
                    max((line.n for line in lines if line), default=0),
                )
                for part, lines in zip(names, cells, strict=True)
            ),
        )

    def comparisons(self, transform: str | None = None) -> tuple[Comparison, ...]:
        """Tools against each control, over all transforms or one."""
        tools = {(r.transform, r.sample): r.score for r in self.results if r.condition == "tools"}
        out = []
        for control in (str(one) for one in Condition if one is not Condition.TOOLS):
            other = {(r.transform, r.sample): r.score for r in self.results if r.condition == control}
            both = [key for key in tools if key in other and transform in (None, key[0])]
            if both:
                change = [tools[key] - other[key] for key in both]
                out.append(
                    Comparison(
                        control=control,
                        n=len(both),
                        tools=_percent([tools[key] for key in both]),
                        control_score=_percent([other[key] for key in both]),
                        gain=_percent([max(0.0, one) for one in change]),
                        harm=_percent([max(0.0, -one) for one in change]),
                    )
                )
        return tuple(out)

    def controls(self) -> Table:
        """Tool gain and tool harm against each control."""
        rows = [(c.control, c.tools, c.control_score, c.gain, c.harm, c.n) for c in self.comparisons()]
        return Table(
            title="Tools against the controls, paired",
            head=("control", "tools", "control", "tool gain", "tool harm", "n pairs"),
            rows=tuple(rows),
            note="Gain: what tools add where they add. Harm: what they cost where they cost. Both in percent of all pairs.",
        )

    def effort(self) -> Table:
        """What a run takes, by condition."""
        rows = []
        for condition in self.columns:
            runs = [r for r in self.results if r.condition == condition]
            n, errors = len(runs), sum(r.errors for r in runs)
            rows.append(
                (
                    condition,
                    n,
                    f"{sum(r.steps for r in runs) / n:.2f}",
                    f"{sum(r.cells for r in runs) / n:.2f}",
                    f"{sum(r.prompt_tokens for r in runs) / n:.0f}",
                    f"{sum(r.completion_tokens for r in runs) / n:.0f}",
                    errors,
                    100 * sum(r.recovered for r in runs) / errors if errors else None,
                    f"{_quantile([r.seconds for r in runs], 50):.2f}",
                    f"{_quantile([r.seconds for r in runs], 95):.2f}",
                    ", ".join(f"{name} {k}" for name, k in Counter(r.stop_reason for r in runs).most_common()),
                )
            )
        return Table(
            title="What a run takes (means)",
            head=(
                "condition",
                "runs",
                "steps",
                "cells",
                "prompt tokens",
                "tokens written",
                "errors",
                "recovered %",
                "seconds, median",
                "seconds, 95 %",
                "ended by",
            ),
            rows=tuple(rows),
            note="Errors: cells that failed and messages that could not be read. Recovered: a later cell worked.",
        )

    def runs(self) -> Table:
        """Every run with its notebook, wrong ones first."""
        chosen = sorted(self.results, key=lambda r: (r.score, r.column, r.sample))[:MOST_RUNS]
        cut = len(self.results) - len(chosen)
        return Table(
            title="Runs",
            head=("run", "column", "score", "answer", "truth", "steps", "ended by"),
            rows=tuple(
                (
                    Link(text=r.sample, href=r.notebook),
                    r.column,
                    f"{r.score:.2f}",
                    _short(r.answer),
                    _short(r.gold),
                    r.steps,
                    r.stop_reason,
                )
                for r in chosen
            ),
            note=f"{cut} more are in results.jsonl." if cut else "",
        )

    def plot_columns(self) -> Plot:
        """Scores by transform, one colour a condition."""
        series = [
            Series(name=condition, values=[row[name][0].score if name in row else None for name in self.transforms])
            for condition, row in self.columns.items()
        ]
        return bars(f"{self.benchmark.NAME}: score by transform", self.transforms, series, unit="percent")

    def plot_gain(self) -> Plot | None:
        """Gain and harm by transform, against the first control; None without a control."""
        found = [next(iter(self.comparisons(name)), None) for name in self.transforms]
        if not any(found):
            return None
        control = next(one.control for one in found if one)
        series = [
            Series(name="tool gain", values=[one.gain if one else None for one in found]),
            Series(name="tool harm", values=[one.harm if one else None for one in found]),
        ]
        return bars(f"Tools against the control `{control}`", self.transforms, series, unit="percent of pairs")

    def plot_steps(self) -> Plot:
        """How many runs took how many steps."""
        runs = [r for r in self.results if r.condition == "tools"]
        most = max((r.steps for r in runs), default=1)
        counts = Counter(r.steps for r in runs)
        values = [float(counts[k]) for k in range(1, most + 1)]
        return bars(
            "Steps of a run with tools",
            [str(k) for k in range(1, most + 1)],
            [Series(name="", values=values)],
            unit="runs",
        )

    def as_data(self) -> dict[str, Json]:
        """All of it as JSON data."""
        return {
            "benchmark": self.benchmark.NAME,
            "settings": dict(self.settings),
            "n": len(self.results),
            "conditions": {
                condition: {
                    "columns": {name: {"score": lines[0].score, "n": lines[0].n} for name, lines in row.items()},
                    "average": self.average(condition),
                    "worst_drop": self.worst_drop(condition),
                    "parts": {
                        name: [{"name": line.name, "score": line.score, "n": line.n} for line in lines]
                        for name, lines in row.items()
                    },
                    "effort": self._effort_data(condition),
                }
                for condition, row in self.columns.items()
            },
            "controls": {
                c.control: {"n": c.n, "tools": c.tools, "control": c.control_score, "gain": c.gain, "harm": c.harm}
                for c in self.comparisons()
            },
        }

    def _effort_data(self, condition: str) -> dict[str, Json]:
        runs = [r for r in self.results if r.condition == condition]
        n = len(runs)
        return {
            "runs": n,
            "steps": sum(r.steps for r in runs) / n,
            "cells": sum(r.cells for r in runs) / n,
            "prompt_tokens": sum(r.prompt_tokens for r in runs),
            "completion_tokens": sum(r.completion_tokens for r in runs),
            "errors": sum(r.errors for r in runs),
            "recovered": sum(r.recovered for r in runs),
            "seconds_p50": _quantile([r.seconds for r in runs], 50),
            "seconds_p95": _quantile([r.seconds for r in runs], 95),
            "stop_reasons": dict(Counter(r.stop_reason for r in runs)),
        }


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _quantile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else sum(values)


def _short(value: Json) -> str:
    text = " | ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
