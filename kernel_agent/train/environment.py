"""A rollout is a run of the agent whose model is the trainer: `Rollout.complete` asks, the trainer gives what it sampled.

So a rollout is what `Agent.arun` makes, by the same loop, with the same reports, budgets and isolation, and its record is a
real `Trajectory`. What goes wrong in it (failed code, time-outs, dead kernels, calls that cannot be read) is an observation.
However a rollout ends (answer, limit, `refuse`, `close`), its kernel is back in the pool when that call returns.

`Environment` is that in the shape of TRL's `environment_factory`. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernel_agent import prompts
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import ModelRefused
from kernel_agent.models.rendering import picture
from kernel_agent.models.text import IMAGE_TOKENS, break_up, mend
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.types import Completion, Json, Message, Request, Task, TextPart

if TYPE_CHECKING:
    from kernel_agent.agent import Agent
    from kernel_agent.rewards import Score
    from kernel_agent.trajectory import Trajectory

TOOL_NAME: str = prompts.TOOL["function"]["name"]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A task to train on; `images` are what `Task.images` takes."""

    truth: GroundTruth
    images: tuple[Any, ...]


class Rollout:
    """One run whose messages come from outside: `start`, then `give` until it returns None. For one event loop."""

    name = "policy"

    def __init__(self, about: Mapping[str, Json]) -> None:
        self.about = dict(about)
        self.trajectory: Trajectory | None = None  # when it is over
        self._asked: asyncio.Queue[Request] = asyncio.Queue()
        self._said: asyncio.Queue[Completion | Exception] = asyncio.Queue()
        self._run: asyncio.Task[Trajectory] | None = None

    # As a model

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """Wait for what the trainer samples."""
        self._asked.put_nowait(request)
        said = await self._said.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def aclose(self) -> None:
        """Nothing to release: the weights are the trainer's."""

    def describe(self) -> Mapping[str, Json]:
        """Kind, and what the trainer says of the weights."""
        return {"kind": "policy", **self.about}

    # As the trainer sees it

    async def start(self, agent: Agent, lesson: Lesson) -> tuple[Message, ...]:
        """Begin; the messages of the first request. Raises what `Agent.arun` raises before it asks (images, pool)."""
        truth = lesson.truth
        task = Task(question=truth.question, images=lesson.images, id=truth.id)
        self._run = asyncio.create_task(agent.arun(task))
        request = await self._next()
        return request.messages if request is not None else ()

    async def give(self, completion: Completion) -> Message | None:
        """Hand over a message; the one that comes back for it, or None where the rollout is over."""
        self._said.put_nowait(completion)
        request = await self._next()
        return request.messages[-1] if request is not None else None

    async def refuse(self, why: str) -> None:
        """End it: the conversation cannot go on ("model_error", as where a server refuses a prompt that is too long)."""
        self._said.put_nowait(ModelRefused(why))
        await self._next()

    async def close(self) -> None:
        """End it wherever it is. Its trajectory is lost if it was not over."""
        if self._run is not None and not self._run.done():
            self._run.cancel()
            await asyncio.wait({self._run})

    async def _next(self) -> Request | None:
        assert self._run is not None, "call start first"
        asked = asyncio.ensure_future(self._asked.get())
        try:
            await asyncio.wait({asked, self._run}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
        finally:
            asked.cancel()
        self.trajectory = self._run.result()
        return None


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


def content_parts(message: Message, image_tokens: Iterable[str] = IMAGE_TOKENS) -> list[dict[str, Any]]:
    """A message's parts as chat templates and TRL take them: texts, and the views as RGB images.

    A literal image token in text (in a question, or printed by a cell) would count as an image: it is broken up.
    """
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": break_up(mend(part.text)[0], image_tokens)[0]})
        else:
            parts.append({"type": "image", "image": picture(part.image.view)})
    return parts
