"""Runs an `Evaluation` without inspect_ai: the same runs, results and report, but no logs for its viewer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from kernel_agent.benchmarks.base import Sample
from kernel_agent.benchmarks.evaluation import Evaluation
from kernel_agent.benchmarks.results import Column
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import CodeVisionError, StorageError
from kernel_agent.waiting import all_of


def run(evaluation: Evaluation, *, retries: int = 1, progress: Callable[[int], None] = lambda done: None) -> int:
    """Run what is not finished, a run that fails `retries` more times; how many failed. `progress` is told how many are done."""
    return run_blocking(_run(evaluation, retries, progress))


async def _run(evaluation: Evaluation, retries: int, progress: Callable[[int], None]) -> int:
    gate = asyncio.Semaphore(evaluation.at_once)
    total = len(evaluation.columns) * len(evaluation.samples)
    done, failed = total - evaluation.left, 0
    progress(done)

    async def one(column: Column, sample: Sample) -> None:
        nonlocal done, failed
        async with gate:
            for attempt in range(retries + 1):
                try:
                    await evaluation.run(column, sample)
                    break
                except StorageError:
                    raise
                except CodeVisionError as error:
                    if attempt == retries:
                        print(f"{sample.id}, {column.name}: {error}", file=sys.stderr)
                        failed += 1
                        return
            done += 1
            progress(done)

    await all_of(
        one(column, sample)
        for column in evaluation.columns
        for sample in evaluation.samples.values()
        if (column.name, sample.id) not in evaluation.journal.done
    )
    return failed
