"""Rewards: `score(task, trajectory)` gives every component of a named set, `score_group` those that need the other rollouts too.

Pure: they read the record, never a kernel and never the network, unless a `Judge` is given for answers that the rules count as
wrong. The three sets (`paper`, `reference`, `default`) are described in docs/rewards.md. What is not here: advantages, which
trainers make of totals themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kernel_agent.errors import InputError
from kernel_agent.rewards import default, paper, reference
from kernel_agent.rewards.answers import check_answer
from kernel_agent.rewards.facts import Facts
from kernel_agent.rewards.judge import Judge
from kernel_agent.rewards.values import Component, GroupFacts, Rewards, Score, Verdict
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.trajectory import Trajectory

__all__ = [
    "Component",
    "GroupFacts",
    "Judge",
    "Rewards",
    "Score",
    "Verdict",
    "check",
    "check_answer",
    "score",
    "score_group",
]

_COMPONENTS: dict[Rewards, Callable[[Facts, GroupFacts | None], tuple[Component, ...]]] = {
    Rewards.PAPER: paper.components,
    Rewards.REFERENCE: reference.components,
    Rewards.DEFAULT: default.components,
}
_USED: dict[Rewards, Callable[[Facts], bool]] = {
    Rewards.PAPER: paper.used_optional,
    Rewards.REFERENCE: reference.used_tool,
    Rewards.DEFAULT: default.used_tool,
}


def check(
    task: GroundTruth, trajectory: Trajectory, rewards: str = Rewards.DEFAULT, *, judge: Judge | None = None
) -> Verdict:
    """Whether the run's last answer is right: by rules, then by the judge. Raises ModelError where that cannot be asked."""
    chosen = _named(rewards)
    if chosen is Rewards.REFERENCE:
        return reference.check(task, trajectory, judge)
    answer = trajectory.answer
    verdict = check_answer(task, answer)
    if verdict.correct or judge is None or answer is None or not answer.strip():
        return verdict
    return judge.strict(task, answer)


def score(
    task: GroundTruth,
    trajectory: Trajectory,
    rewards: str = Rewards.DEFAULT,
    *,
    judge: Judge | None = None,
    verdict: Verdict | None = None,
) -> Score:
    """All components of one run: all its steps, its last answer. `verdict` is one made before (`check`, `Judge.astrict`).

    Raises InputError for an unknown set and TrajectoryError for pictures that cannot be decoded.
    """
    return score_group(task, [trajectory], rewards, judge=judge, verdicts=None if verdict is None else [verdict])[0]


def score_group(
    task: GroundTruth,
    trajectories: Sequence[Trajectory],
    rewards: str = Rewards.DEFAULT,
    *,
    judge: Judge | None = None,
    verdicts: Sequence[Verdict] | None = None,
) -> tuple[Score, ...]:
    """The rollouts of one task, each with the terms that compare it with the others (necessity of tools)."""
    chosen = _named(rewards)
    if verdicts is None:
        verdicts = [check(task, trajectory, chosen, judge=judge) for trajectory in trajectories]
    if len(verdicts) != len(trajectories):
        raise InputError(f"{len(verdicts)} verdicts for {len(trajectories)} runs: give one each")
    pairs = zip(trajectories, verdicts, strict=True)
    facts = [Facts(task=task, trajectory=trajectory, verdict=verdict) for trajectory, verdict in pairs]
    group = _group(facts, _USED[chosen]) if len(facts) > 1 else None
    return tuple(
        Score(rewards=chosen, components=_COMPONENTS[chosen](one, group), verdict=one.verdict) for one in facts
    )


def _group(facts: Sequence[Facts], used: Callable[[Facts], bool]) -> GroupFacts:
    uses = [(used(one), one.verdict.correct) for one in facts]
    return GroupFacts(
        with_tool=sum(tool for tool, _ in uses),
        right_with=sum(tool and right for tool, right in uses),
        without_tool=sum(not tool for tool, _ in uses),
        right_without=sum(not tool and right for tool, right in uses),
    )


def _named(rewards: str) -> Rewards:
    try:
        return Rewards(rewards)
    except ValueError:
        raise InputError(f"rewards={rewards!r}: give one of {', '.join(Rewards)}") from None
