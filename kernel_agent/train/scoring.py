"""Rewards of rollouts: `kernel_agent.rewards` unchanged, over whole groups, with a record of each.

A rollout that cannot be scored gets 0 of everything, as one that did nothing, and the reason is logged.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kernel_agent.rewards import Rewards, Score, Verdict, score_group
from kernel_agent.rewards.values import Component
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Json

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


class Scoring:
    """Scores groups of rollouts, and keeps their records: JSON lines, and notebooks where wanted.

    Args:
        rewards: a set of `kernel_agent.rewards`.
        records: a JSON lines file; one line a rollout is added.
        notebooks: folder of saved rollouts, one subfolder each `every` steps; None for none.
    """

    def __init__(self, rewards: str, records: Path, notebooks: Path | None = None, every: int = 1) -> None:
        self.rewards = Rewards(rewards)
        self.records, self.notebooks, self.every = records, notebooks, every

    def score(
        self, truth: GroundTruth, runs: Sequence[Trajectory], step: int
    ) -> tuple[tuple[Score, ...], list[dict[str, Json]]]:
        """Scores of all rollouts of a task in one step, and their records, which are written."""
        scores, failures = score_all(truth, runs, self.rewards)
        folder = self._folder(step, truth)
        lines: list[dict[str, Json]] = []
        for number, (run, score, failure) in enumerate(zip(runs, scores, failures, strict=True)):
            lines.append(_record(step, number, truth, run, score, failure))
            if folder is not None:
                run.save(folder / f"rollout-{number}.ipynb")
        self.records.parent.mkdir(parents=True, exist_ok=True)
        with self.records.open("a", encoding="utf-8") as out:
            out.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return scores, lines

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


def _record(
    step: int, number: int, truth: GroundTruth, run: Trajectory, score: Score, failure: str | None
) -> dict[str, Json]:
    return {
        "step": step,
        "task": truth.id,
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
