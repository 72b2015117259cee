"""The benchmarks for the `inspect` command, through the entry point group `inspect_ai`:

    inspect eval kernel_agent/ocrbench --model codevision/embedded -T data=OCRBench.json -T transform=rot90

Task parameters: `data`, `out` (folder of trajectories and results), `transform` and `condition` (the column), `model_name`,
`base_url`, `limit`, `seed`, `at_once`, `protocol`. `codevision eval` runs all columns and writes the report.
"""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

from inspect_ai import Task, task

from kernel_agent.benchmarks import inspect_run
from kernel_agent.benchmarks.evaluation import Options, open_evaluation, parse_transforms
from kernel_agent.benchmarks.results import Column, Condition


def _column(
    benchmark: str,
    *,
    data: str | None = None,
    out: str | None = None,
    transform: str = "source",
    condition: str = "tools",
    model_name: str | None = None,
    base_url: str | None = None,
    **options: Any,
) -> Task:
    chosen = Condition(condition)
    transforms = parse_transforms(transform) or ()
    evaluation = open_evaluation(
        Options(
            benchmark=benchmark,
            data=Path(data) if data else None,
            out=Path(out or f"codevision-eval-{benchmark}-{condition}-{transform}"),
            transforms=transforms,
            controls=() if chosen is Condition.TOOLS else (chosen,),
            model=model_name,
            base_url=base_url,
            api_key=os.environ.get("CODEVISION_API_KEY") or None,
            **options,
        )
    )
    atexit.register(evaluation.close)
    return inspect_run.task(evaluation, Column(condition=chosen, transform=transforms[-1]))


@task
def orientation(**options: Any) -> Task:
    """Reading in six orientations (benchmarks/orientation.py)."""
    return _column("orientation", **options)


@task
def mvtool(**options: Any) -> Task:
    """Generated questions that need turning and cropping (benchmarks/mvtool.py)."""
    return _column("mvtool", **options)


@task
def ocrbench(**options: Any) -> Task:
    """OCRBench (benchmarks/ocrbench.py)."""
    return _column("ocrbench", **options)


@task
def chartqapro(**options: Any) -> Task:
    """ChartQAPro (benchmarks/chartqapro.py)."""
    return _column("chartqapro", **options)


@task
def vstar(**options: Any) -> Task:
    """V* (benchmarks/vstar.py)."""
    return _column("vstar", **options)


@task
def hrbench(**options: Any) -> Task:
    """HR-Bench (benchmarks/hrbench.py)."""
    return _column("hrbench", **options)


@task
def mvtoolbench(**options: Any) -> Task:
    """MVToolBench (benchmarks/mvtoolbench.py)."""
    return _column("mvtoolbench", **options)
