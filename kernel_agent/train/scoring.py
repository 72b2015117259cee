"""Rewards of rollouts, for TRL: `kernel_agent.rewards` unchanged, one reward function a component.

A function gives what its component adds to the total (value times weight, which may depend on the task), None where the task
has no such component, so that TRL's sum is the score's total and its metrics name every component. Rollouts are scored once a
batch, whole groups at a time. A rollout that cannot be scored gets 0 of everything, as one that did nothing, and the reason is logged.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel_agent.blocking import run_blocking
from kernel_agent.errors import InputError
from kernel_agent.rewards import Rewards, Score, Verdict, score_group
from kernel_agent.rewards.values import Component
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.train.environment import Environment
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, Json

COMPONENTS: dict[Rewards, tuple[str, ...]] = {
    Rewards.DEFAULT: (
        "answer", "format", "orientation", "crop", "necessity", "needless_orientation", "turns", "failures", "idle",
    ),
    Rewards.PAPER: (
        "accuracy", "format", "must_use", "exact", "necessity", "optional", "turn_limit", "poor_reasoning", "inappropriate",
    ),
    Rewards.REFERENCE: (
        "accuracy", "format", "mandatory", "necessity", "exact", "emergent", "usage", "spurious",
    ),
}  # fmt: skip
"""The names that a set's scores can have."""

logger = logging.getLogger(__name__)


def check_groups(per_device: int, steps: int, rollouts: int) -> None:
    """InputError where a process would see a part of a group: terms that compare the rollouts of a task need them all."""
    if rollouts < 2:
        raise InputError(f"{rollouts} rollouts a task: advantages compare them with each other, give at least 2")
    if per_device * steps % rollouts:
        raise InputError(
            f"a process generates {per_device} x {steps} = {per_device * steps} rollouts at a time, which {rollouts} a task do not "
            "divide: a group would be scored in parts. Give per-device batch and steps whose product is a multiple of it"
        )


class Scoring:
    """The reward functions of one run, and its records: `rollouts.jsonl`, and notebooks where wanted.

    Args:
        rewards: a set of `kernel_agent.rewards`.
        group: rollouts a task.
        records: a JSON lines file; one line a rollout is added.
        notebooks: folder of saved rollouts, one subfolder each `every` steps; None for none.
    """

    def __init__(self, rewards: str, group: int, records: Path, notebooks: Path | None = None, every: int = 1) -> None:
        self.rewards, self.group = Rewards(rewards), group
        self.records, self.notebooks, self.every = records, notebooks, every

    def functions(self) -> list[Callable[..., list[float | None]]]:
        """One a component, named after it."""
        return [self._function(name) for name in COMPONENTS[self.rewards]]

    def _function(self, name: str) -> Callable[..., list[float | None]]:
        def adds(
            environments: Sequence[Environment],
            completions: Sequence[Any],
            trainer_state: Any,
            log_metric: Any,
            **_: Any,
        ) -> list[float | None]:
            if any(environment.score is None for environment in environments):
                self._score(environments, completions, int(trainer_state.global_step), log_metric)
            return [_adds(environment.score, name) for environment in environments]

        adds.__name__ = name
        return adds

    def _score(
        self,
        environments: Sequence[Environment],
        completions: Sequence[Any],
        step: int,
        log_metric: Callable[[str, float], None],
    ) -> None:
        for environment, said in zip(environments, completions, strict=True):
            if environment.rollout.trajectory is None:  # TRL's own loop: its last message never came to a tool
                run_blocking(_finish(environment, str(said[-1].get("content", ""))))
        lines: list[dict[str, Json]] = []
        for start in range(0, len(environments), self.group):
            group = environments[start : start + self.group]
            truths = {environment.lesson.truth.id: environment.lesson.truth for environment in group}
            if len(truths) != 1:
                raise RuntimeError(f"a group of rollouts is of {len(truths)} tasks: {', '.join(truths)}")
            (truth,) = truths.values()
            runs = [environment.rollout.trajectory for environment in group]
            assert all(run is not None for run in runs)
            scores, failures = score_all(truth, [run for run in runs if run is not None], self.rewards)
            folder = self._folder(step, truth)
            for number, (environment, found, failure) in enumerate(zip(group, scores, failures, strict=True)):
                environment.score = found
                lines.append(_record(step, number, environment, failure))
                if folder is not None and environment.rollout.trajectory is not None:
                    environment.rollout.trajectory.save(folder / f"rollout-{number}.ipynb")
        log_metric("rollouts/steps", sum(len(line["actions"]) for line in lines) / len(lines))
        log_metric("rollouts/right", sum(line["correct"] for line in lines) / len(lines))
        log_metric("rollouts/unscored", sum(line["unscored"] is not None for line in lines))
        with self.records.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def _folder(self, step: int, truth: GroundTruth) -> Path | None:
        """Where the rollouts of a task are saved in this step, with the task beside them."""
        if self.notebooks is None or step % self.every:
            return None
        folder = self.notebooks / f"step-{step:06d}" / truth.id
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped before its next checkpoint
        folder.mkdir(parents=True)
        task = replace(truth, image=None if truth.image is None else str(Path(truth.image).absolute()))
        (folder / "task.json").write_text(json.dumps(task.to_json(), ensure_ascii=False), encoding="utf-8")
        return folder


def score_all(
    truth: GroundTruth, runs: Sequence[Trajectory], rewards: Rewards
) -> tuple[tuple[Score, ...], tuple[str | None, ...]]:
    """`score_group`, where a run whose record cannot be scored takes part as one that did nothing. The reasons by run."""
    try:
        return score_group(truth, runs, rewards), (None,) * len(runs)
    except Exception:  # pictures and answers are the model's: whatever they break in scoring is one rollout's failure
        failures = [_failure(truth, run, rewards) for run in runs]
    if not any(failures):
        raise RuntimeError(f"the rollouts of task {truth.id} can be scored each, and not together")
    good = [run for run, failure in zip(runs, failures, strict=True) if failure is None]
    scores = iter(score_group(truth, good, rewards) if good else ())
    return tuple(next(scores) if failure is None else _nothing(rewards, failure) for failure in failures), tuple(
        failures
    )


def _failure(truth: GroundTruth, run: Trajectory, rewards: Rewards) -> str | None:
    try:
        score_group(truth, [run], rewards)
    except Exception as error:
        logger.warning("A rollout of task %s cannot be scored", truth.id, exc_info=True)
        return f"{type(error).__name__}: {error}"
    return None


def _nothing(rewards: Rewards, failure: str) -> Score:
    parts = tuple(Component(name=name, value=0.0, weight=0.0, explanation=failure) for name in COMPONENTS[rewards])
    return Score(rewards=rewards, components=parts, verdict=Verdict(correct=False, explanation=failure))


def _adds(score: Score | None, name: str) -> float | None:
    assert score is not None
    return next((one.contribution for one in score.components if one.name == name), None)


async def _finish(environment: Environment, text: str) -> None:
    if await environment.rollout.give(Completion(text=text)) is not None:
        await environment.rollout.refuse("The trainer's loop was over before the rollout had an answer.")


def _record(step: int, number: int, environment: Environment, failure: str | None) -> dict[str, Json]:
    run, score = environment.rollout.trajectory, environment.score
    assert run is not None
    assert score is not None
    return {
        "step": step,
        "task": environment.lesson.truth.id,
        "rollout": number,
        "run": run.run_id,
        "total": score.total,
        "correct": score.verdict.correct,
        "unscored": failure,
        "components": {one.name: {"value": one.value, "weight": one.weight} for one in score.components},
        "answer": run.answer,
        "stop_reason": str(run.stop_reason),
        "actions": [str(one.cell.status) if one.cell else type(one.action).__name__.lower() for one in run.steps],
        "tokens": run.usage.completion_tokens,
        "cell_seconds": round(sum(one.cell.seconds for one in run.steps if one.cell), 3),
    }
