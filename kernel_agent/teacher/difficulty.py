"""How hard tasks are for a model: several sampled runs of each, right or wrong, kept in one file that a later run goes on with.

A line is one finished run: {"task", "rollout", "right", "answer"}. A run that the model or its kernel failed is not finished:
the failure is raised when those in flight are done, and the next call tries it again.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from kernel_agent.agent import Agent
from kernel_agent.errors import InputError
from kernel_agent.models import Model
from kernel_agent.rewards.answers import check_answer
from kernel_agent.session import KernelPool
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.types import Budget, Sampling, Task


async def rollouts(
    tasks: Sequence[GroundTruth],
    model: Model,
    count: int,
    file: Path,
    pool: KernelPool,
    *,
    temperature: float = 1.0,
    protocol: str = "native",
    budget: Budget = Budget(),
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, list[bool]]:
    """`count` runs of each task that has a picture; whether each was right. `progress` is told how many runs are done.

    Raises InputError where `file` is of another model or other options, ModelError, KernelError.
    """
    settings = {"model": model.name, "temperature": temperature, "protocol": protocol, "budget": asdict(budget)}
    done = _read(file, settings)
    wanted = [(task, number) for task in tasks if task.image for number in range(count)]
    finished = sum((task.id, number) in done for task, number in wanted)
    progress(finished)
    gate = asyncio.Semaphore(pool.size)

    async def one(task: GroundTruth, number: int) -> None:
        nonlocal finished
        async with gate:
            agent = Agent(
                model,
                protocol=protocol,
                budget=budget,
                sampling=Sampling(temperature=temperature, seed=number),
                kernel=pool.kernel,
                pool=pool,
            )
            ran = await agent.arun(Task(question=task.question, images=(task.image,), id=task.id))
            if ran.failure is not None:
                raise ran.failure
            right = check_answer(task, ran.answer).correct
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"task": task.id, "rollout": number, "right": right, "answer": ran.answer}) + "\n")
            done[task.id, number] = right
            finished += 1
            progress(finished)

    outcomes = await asyncio.gather(
        *(one(task, number) for task, number in wanted if (task.id, number) not in done), return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    out: dict[str, list[bool]] = defaultdict(list)
    for task, number in wanted:
        out[task.id].append(done[task.id, number])
    return dict(out)


def _read(file: Path, settings: dict[str, object]) -> dict[tuple[str, int], bool]:
    """Finished runs by task and number; a last line that was cut short is dropped. Begins the file where there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return {}
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        file.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    found = json.loads(lines[0]) if lines else {}
    if found != json.loads(json.dumps(settings)):
        raise InputError(
            f"{file} has rollouts of another model or other options: give another folder, or the same again"
        )
    runs = [json.loads(line) for line in lines[1:]]
    return {(run["task"], run["rollout"]): run["right"] for run in runs}
