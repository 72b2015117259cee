"""Benchmarks: one module each with `load`, `prompt`, `score` and `summarise` (see `base.Benchmark`).

    from kernel_agent.benchmarks import get_benchmark

    ocrbench = get_benchmark("ocrbench")
    loaded = ocrbench.load(Path("OCRBench.json"))
    ocrbench.score(loaded.samples[0], "CENTRE")     # 0..1, as the official script counts

Loading and scoring need no inspect_ai; parquet files need pyarrow (both in `kernel-agent[eval]`). The runner is
evaluation.py (`codevision eval`), its report report.py; inspect_tasks.py offers the benchmarks to the `inspect` command.
"""

from __future__ import annotations

import importlib
from typing import cast

from kernel_agent.benchmarks.base import Benchmark, Line, Loaded, Sample, Scored
from kernel_agent.errors import InputError

NAMES = ("orientation", "mvtool", "ocrbench", "chartqapro", "vstar", "hrbench", "mvtoolbench")

__all__ = ["NAMES", "Benchmark", "Line", "Loaded", "Sample", "Scored", "get_benchmark"]


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. InputError for an unknown one."""
    if name not in NAMES:
        raise InputError(f"There is no benchmark {name!r}: take one of {', '.join(NAMES)}.")
    return cast(Benchmark, importlib.import_module(f"kernel_agent.benchmarks.{name}"))
