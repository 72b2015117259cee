"""A rollout is a run of the agent whose model is the trainer: `Rollout.complete` asks, the trainer gives what it sampled.

So a rollout is what `Agent.arun` makes, by the same loop, with the same reports, budgets and isolation, and its record is a
real `Trajectory`. What goes wrong in it (failed code, time-outs, dead kernels, calls that cannot be read) is an observation.
However a rollout ends (answer, limit, `refuse`, `close`), its kernel is back in the pool when that call returns.

Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernel_agent.agent import Agent
from kernel_agent.errors import ModelRefused
from kernel_agent.models.rendering import picture
from kernel_agent.models.text import IMAGE_TOKENS, break_up, mend
from kernel_agent.models.tokens import joined, rendered_prompt
from kernel_agent.protocols import get_protocol
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.types import Budget, Completion, Json, Message, Request, Sampling, Task, TextPart, Usage

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool
    from kernel_agent.trajectory import Trajectory

_A_DAY = 86_400.0  # a rollout's clock stands still for nobody; messages and cells have limits of their own


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

    @property
    def over(self) -> Trajectory:
        """What it was. Raises RuntimeError before its end."""
        if self.trajectory is None:
            raise RuntimeError("a rollout that is not over has no trajectory: give it messages until it returns None")
        return self.trajectory

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


def rollout_agent(
    rollout: Rollout,
    pool: KernelPool,
    *,
    messages: int,
    turn_tokens: int,
    cell_seconds: float,
    images: int,
    temperature: float,
    top_p: float = 1.0,
) -> Agent:
    """The agent of a rollout: the protocol that CodeVision models are trained on, its limits, a kernel out of `pool`."""
    budget = Budget(
        steps=messages, seconds=_A_DAY, cell_seconds=cell_seconds, tokens=messages * turn_tokens, images=images
    )
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=turn_tokens, seed=None)
    return Agent(
        rollout, protocol=get_protocol("native"), budget=budget, sampling=sampling, kernel=pool.kernel, pool=pool
    )


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


def sampled(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], ends: Collection[int]) -> Completion:
    """Sampled ids as the agent reads them: text as `models/generate.py` decodes it. `ends`: ids that end a message."""
    text, raw = mend(str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
    return Completion(
        text=text,
        raw_json=raw,
        finish_reason="stop" if ids and ids[-1] in ends else "length",
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(ids)),
        prompt=rendered_prompt(prompt, None),
        token_ids=joined(ids),
    )
