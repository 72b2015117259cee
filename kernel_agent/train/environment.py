"""`Rollout` as TRL's trainers take it: an environment with one tool, and a reward function for each component of the score.

Nothing here imports torch or trl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernel_agent import prompts
from kernel_agent.blocking import run_blocking
from kernel_agent.models.text import IMAGE_TOKENS
from kernel_agent.rewards import Score
from kernel_agent.train.rollout import Lesson, Rollout, content_parts
from kernel_agent.train.scoring import COMPONENTS, Scoring
from kernel_agent.types import Completion, Json

if TYPE_CHECKING:
    from kernel_agent.agent import Agent

TOOL_NAME: str = prompts.TOOL["function"]["name"]


class Environment:
    """One rollout after another, as TRL's `environment_factory` wants it: `reset`, and one tool.

    `RolloutTrainer` hands messages to `rollout` itself; TRL's own GRPOTrainer calls the tool.

    Attributes:
        lesson, rollout: of the last `reset`.
        score: what scoring.py found, once the rollout is over and was scored.
    """

    lesson: Lesson
    rollout: Rollout

    def __init__(
        self,
        lessons: Mapping[str, Lesson],
        agent: Callable[[Rollout], Agent],
        about: Callable[[], Mapping[str, Json]] = dict,
        image_tokens: Iterable[str] = IMAGE_TOKENS,
    ) -> None:
        self._lessons, self._agent, self._about = lessons, agent, about
        self._image_tokens = tuple(image_tokens)
        self.score: Score | None = None

    def reset(self, **row: Any) -> list[dict[str, Any]]:
        """Begin the task with the row's `id`; the user's message: images by name and question. The kernel of before is let go."""
        return run_blocking(self._reset(str(row["id"])))

    async def _reset(self, task: str) -> list[dict[str, Any]]:
        if hasattr(self, "rollout"):
            await self.rollout.close()
        self.lesson, self.rollout, self.score = self._lessons[task], Rollout(self._about()), None
        messages = await self.rollout.start(self._agent(self.rollout), self.lesson)
        return content_parts(messages[-1], self._image_tokens)

    def code_image_tool(self, code: str, description: str, image_index: int) -> list[dict[str, Any]]:
        """(the words of prompts.TOOL, below)"""
        arguments = {"code": code, "description": description, "image_index": image_index}
        call = json.dumps({"name": TOOL_NAME, "arguments": arguments}, ensure_ascii=False)
        back = run_blocking(self.rollout.give(Completion(text=f"<tool_call>{call}</tool_call>")))
        if back is None:
            return [{"type": "text", "text": prompts.LAST_MESSAGE}]
        return content_parts(back, self._image_tokens)


def _docstring(tool: Mapping[str, Any]) -> str:
    """The tool's schema in the form that transformers reads schemas from."""
    arguments = tool["parameters"]["properties"].items()
    return f"{tool['description']}\n\nArgs:\n" + "\n".join(
        f"    {name}: {one['description']}" for name, one in arguments
    )


Environment.code_image_tool.__doc__ = _docstring(prompts.TOOL["function"])


def reward_functions(scoring: Scoring, rollouts: int) -> list[Callable[..., list[float | None]]]:
    """One a component, named after it; all are scored once a batch, in groups of `rollouts`.

    A function gives what its component adds to the total (value times weight, which may depend on the task), None where the task
    has no such component, so that TRL's sum is the score's total and its metrics name every component.
    """

    def function(name: str) -> Callable[..., list[float | None]]:
        def adds(
            environments: Sequence[Environment],
            completions: Sequence[Any],
            trainer_state: Any,
            log_metric: Callable[[str, float], None],
            **_: Any,
        ) -> list[float | None]:
            if any(environment.score is None for environment in environments):
                for environment, said in zip(environments, completions, strict=True):
                    if environment.rollout.trajectory is None:  # TRL's own loop: its last message never came to a tool
                        run_blocking(_finish(environment.rollout, str(said[-1].get("content", ""))))
                _score(environments, scoring, rollouts, int(trainer_state.global_step), log_metric)
            return [_adds(environment.score, name) for environment in environments]

        adds.__name__ = name
        return adds

    return [function(name) for name in COMPONENTS[scoring.rewards]]


async def _finish(rollout: Rollout, text: str) -> None:
    if await rollout.give(Completion(text=text)) is not None:
        await rollout.refuse("The trainer's loop was over before the rollout had an answer.")


def _score(
    environments: Sequence[Environment],
    scoring: Scoring,
    rollouts: int,
    step: int,
    log_metric: Callable[[str, float], None],
) -> None:
    lines: list[dict[str, Any]] = []
    for start in range(0, len(environments), rollouts):
        group = environments[start : start + rollouts]
        truths = {environment.lesson.truth.id: environment.lesson.truth for environment in group}
        if len(truths) != 1:
            raise RuntimeError(f"a group of rollouts is of {len(truths)} tasks: {', '.join(truths)}")
        (truth,) = truths.values()
        scores, records = scoring.score(truth, [environment.rollout.over for environment in group], step)
        for environment, score in zip(group, scores, strict=True):
            environment.score = score
        lines += records
    log_metric("rollouts/steps", sum(len(line["actions"]) for line in lines) / len(lines))
    log_metric("rollouts/right", sum(line["correct"] for line in lines) / len(lines))
    log_metric("rollouts/unscored", sum(line["unscored"] is not None for line in lines))


def _adds(score: Score | None, name: str) -> float | None:
    assert score is not None
    return next((one.contribution for one in score.components if one.name == name), None)
