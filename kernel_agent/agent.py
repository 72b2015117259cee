"""The loop: ask the model, read its action, run it, tell it what came of it, until it answers or a limit is met.

`Agent` holds what runs share (model, protocol, limits) and serves any number of runs at once on one event loop.
`Conversation` is one run: a session, a trajectory and the messages so far. A failed run is data: model and kernel
failures end the turn with a typed stop reason and are kept in `Trajectory.failure`; only a cancel is raised on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kernel_agent import prompts
from kernel_agent.blocking import run_blocking
from kernel_agent.environment import environment
from kernel_agent.errors import InputError, KernelError, ModelError
from kernel_agent.protocols import Protocol, get_protocol
from kernel_agent.session import DEFAULT_PROVISIONER, Session
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import (
    Action,
    Answer,
    Budget,
    CellResult,
    Completion,
    Event,
    ImagePart,
    Json,
    Malformed,
    Message,
    Observation,
    Part,
    Request,
    RunCode,
    Sampling,
    Status,
    Step,
    StopReason,
    Task,
    TextPart,
)

if TYPE_CHECKING:
    from kernel_agent.models import Model
    from kernel_agent.session.images import ViewBounds


@dataclass(frozen=True, kw_only=True)
class TextWritten:
    """The model wrote this much more."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class ActionRead:
    """The model's message is complete; code is about to run."""

    step: int
    thought: str
    action: Action


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step is over and saved."""

    step: Step


Notice: TypeAlias = TextWritten | ActionRead | StepDone
Watch: TypeAlias = Callable[[Notice], None]


class Agent:
    """A model that answers questions about images by running Python.

    Args:
        model: see `kernel_agent.models`.
        protocol: how the model says "run this"; a name of `kernel_agent.protocols.PROTOCOLS` or an object.
        budget: limits of a turn.
        sampling: how the model samples; `max_tokens` caps one message.
        bounds, max_pixels, allow_http, provisioner: as `Session` takes them.
    """

    def __init__(
        self,
        model: Model,
        *,
        protocol: str | Protocol = "native",
        budget: Budget = Budget(),
        sampling: Sampling = Sampling(),
        bounds: ViewBounds | None = None,
        max_pixels: int = 100_000_000,
        allow_http: bool = False,
        provisioner: str = DEFAULT_PROVISIONER,
    ) -> None:
        self.model = model
        self.protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
        self.budget = budget
        self.sampling = replace(sampling, stop=(*sampling.stop, *self.protocol.stop))
        self.bounds, self.max_pixels, self.allow_http, self.provisioner = bounds, max_pixels, allow_http, provisioner

    def session(self, images: tuple[object, ...] = ()) -> Session:
        """A session as this agent needs it, not yet started. Raises ImageError."""
        return Session(
            images,
            names=self.protocol.names,
            budget=self.budget,
            bounds=self.bounds,
            max_pixels=self.max_pixels,
            allow_http=self.allow_http,
            provisioner=self.provisioner,
        )

    def run(
        self, task: Task, *, save_to: str | Path | None = None, force: bool = False, watch: Watch | None = None
    ) -> Trajectory:
        """`arun`, waiting. Ctrl-C ends the turn, leaves a valid notebook, and is raised on."""
        return run_blocking(self.arun(task, save_to=save_to, force=force, watch=watch))

    async def arun(
        self, task: Task, *, save_to: str | Path | None = None, force: bool = False, watch: Watch | None = None
    ) -> Trajectory:
        """Run a task to its end and stop its kernel. Raises InputError and StorageError before anything is asked."""
        check_question(task.question)
        conversation = self.converse(task.images, save_to=save_to, force=force)
        try:
            await conversation.ask(task.question, watch=watch)
        finally:
            await conversation.aclose()
        return conversation.trajectory

    def converse(
        self, images: tuple[object, ...], *, save_to: str | Path | None = None, force: bool = False
    ) -> Conversation:
        """A run whose kernel stays for follow-up questions. Close it with `aclose`."""
        session = self.session(images)
        trajectory = Trajectory.start(images=session.images, header=self.header(session))
        for event in session.events:
            trajectory.add_event(event)
        if save_to is not None:
            trajectory.record_to(save_to, force=force)
        return Conversation(self, session, trajectory)

    def header(self, session: Session) -> Mapping[str, Json]:
        """What a reader of the trajectory must know besides its steps."""
        return {
            "protocol": self.protocol.name,
            "model": dict(self.model.describe()),
            "sampling": asdict(self.sampling),
            "budget": asdict(self.budget),
            "view_bounds": asdict(session.bounds),
            "max_pixels": session.max_pixels,
            "provisioner": session.provisioner,
            "names": asdict(self.protocol.names),
            "environment": environment(),
        }


class Conversation:
    """One run: its kernel, its trajectory and its messages. `ask` adds a turn."""

    def __init__(
        self,
        agent: Agent,
        session: Session,
        trajectory: Trajectory,
        sent: Sequence[Message] = (),
        new: Sequence[Message] = (),
    ) -> None:
        self.agent, self.session, self.trajectory = agent, session, trajectory
        self._sent = list(sent)  # the last request's messages
        self._new = list(new)  # what the next request adds

    async def ask(self, question: str, *, watch: Watch | None = None) -> Trajectory:
        """Ask, and run steps until an answer or a limit. Model and kernel failures end the turn; a cancel is raised."""
        check_question(question)
        trajectory, spent = self.trajectory, _Spent(self.agent.budget)
        first = not trajectory.turns
        trajectory.begin_turn(question)
        trajectory.failure = None
        if first:
            self._new.append(Message(role="system", content=(TextPart(text=self.agent.protocol.system()),)))
        parts = prompts.question(question, self.session.images if first else ())
        self._new.append(Message(role="user", content=(*parts, *spent.notice())))
        answer: str | None = None
        reason: StopReason | None = None
        starting = asyncio.ensure_future(self._start())  # while the model writes its first message
        try:
            async with asyncio.timeout_at(spent.deadline):
                while reason is None:
                    reason, answer = await self._step(spent, watch or (lambda notice: None), starting)
        except TimeoutError:
            reason = StopReason.TIME_LIMIT
        except asyncio.CancelledError:
            reason = StopReason.INTERRUPTED
            raise
        except (ModelError, KernelError) as error:
            reason = StopReason.MODEL_ERROR if isinstance(error, ModelError) else StopReason.KERNEL_ERROR
            trajectory.failure = error
            trajectory.add_event(_event(reason, error=type(error).__name__, message=str(error)))
        finally:
            if reason not in (None, StopReason.ANSWER, StopReason.MODEL_ERROR, StopReason.KERNEL_ERROR):
                trajectory.add_event(_event("turn_cut", reason=str(reason), **spent.as_data()))
            trajectory.end_turn(answer=answer, stop_reason=reason or StopReason.CRASHED)
            await _settle(starting)
        return trajectory

    async def _start(self) -> None:
        await self.session.astart()
        isolation = self.session.isolation
        if self.trajectory.isolation != isolation:
            self.trajectory.add_event(_event("kernel_started", isolation=isolation))

    async def _step(
        self, spent: _Spent, watch: Watch, starting: asyncio.Future[None]
    ) -> tuple[StopReason | None, str | None]:
        """One model call and what follows from it; the step is saved even when the cell is cancelled."""
        protocol, index, began = self.agent.protocol, len(self.trajectory.steps), time.time()
        clock = time.perf_counter()
        sampling = replace(self.agent.sampling, max_tokens=min(self.agent.sampling.max_tokens, spent.tokens_left))
        new_messages = tuple(self._new)
        spent.show(new_messages)
        request = Request(messages=(*self._sent, *new_messages), tools=protocol.tools, sampling=sampling)
        completion = await self.agent.model.complete(
            request, on_text=lambda text: watch(TextWritten(step=index, text=text))
        )
        spent.add(completion)
        self._sent, self._new = list(request.messages), [protocol.reply(completion)]
        parsed = protocol.parse(completion, images=len(self.session.images))
        action = parsed.action
        watch(ActionRead(step=index, thought=parsed.thought, action=action))
        cell: CellResult | None = None
        report: tuple[Part, ...] = ()
        reason = StopReason.ANSWER if isinstance(action, Answer) else spent.over
        try:
            if isinstance(action, RunCode) and reason is None:
                known = tuple(self.session.images)
                ran = len(self.session.cells)
                try:
                    await starting
                    cell = await self.session.arun(action.code, image_index=action.image_index)
                finally:
                    cell = next(iter(self.session.cells[ran:]), None)
                spent.cell(cell)
                report = prompts.cell_report(cell, known) if cell else ()
            elif isinstance(action, Malformed):
                report = prompts.malformed_report(action)
            spent.malformed = spent.malformed + 1 if isinstance(action, Malformed) else 0
            if reason is None:
                reason = spent.hard_limit()
        finally:
            observation = None
            if report:
                report = (*report, *spent.notice())
                status = cell.status if cell else Status.MALFORMED
                observation = Observation(status=status, content=report)
                self._new += protocol.observe(completion, report)
            step = Step(
                index=index,
                new_messages=new_messages,
                completion=completion,
                thought=parsed.thought,
                action=action,
                cell=cell,
                observation=observation,
                sampling=sampling,
                started=began,
                seconds=time.perf_counter() - clock,
            )
            self.trajectory.add_step(step)
            watch(StepDone(step=step))
        return reason, action.text if isinstance(action, Answer) else None

    async def aclose(self) -> None:
        """Stop the kernel and finish the notebook."""
        await self.session.aclose()
        self.trajectory.close()


class _Spent:
    """What a turn has used of its budget. A limit that leaves room for one more message asks for the answer first."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.deadline = asyncio.get_running_loop().time() + budget.seconds
        self.steps = self.tokens = self.pixels = self.images = self.malformed = 0
        self.refused = False
        self.over: StopReason | None = None  # the model was told that its next message is the last

    @property
    def tokens_left(self) -> int:
        return max(1, self.budget.tokens - self.tokens)

    def show(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            for part in message.content:
                if isinstance(part, ImagePart):
                    self.pixels += part.image.view_size[0] * part.image.view_size[1]

    def add(self, completion: Completion) -> None:
        self.steps += 1
        self.tokens += completion.usage.completion_tokens

    def cell(self, cell: CellResult | None) -> None:
        if cell is not None:
            self.images += len(cell.images)
            self.refused = any(event.kind == "images_refused" for event in cell.events)

    def notice(self) -> tuple[TextPart, ...]:
        """The last-message notice where a limit is reached that one answer still fits in."""
        if self.steps >= self.budget.steps - 1:
            self.over = StopReason.STEP_LIMIT
        elif self.refused or self.images > self.budget.images:
            self.over = StopReason.IMAGE_LIMIT
        elif self.pixels >= self.budget.pixels:
            self.over = StopReason.PIXEL_LIMIT
        return (TextPart(text=prompts.LAST_MESSAGE),) if self.over else ()

    def hard_limit(self) -> StopReason | None:
        """A limit that ends the turn at once."""
        if self.malformed >= self.budget.malformed:
            return StopReason.MALFORMED
        if self.tokens >= self.budget.tokens:
            return StopReason.TOKEN_LIMIT
        return None

    def as_data(self) -> dict[str, Json]:
        return {"steps": self.steps, "tokens": self.tokens, "pixels": self.pixels, "images": self.images}


def check_question(question: str) -> None:
    """InputError for an empty question: before a file is written or a model asked."""
    if not question.strip():
        raise InputError("The question is empty: say what you want to know about the image.")


def _event(kind: str, **data: Json) -> Event:
    return Event(kind=str(kind), time=time.time(), data=data)


async def _settle(starting: asyncio.Future[None]) -> None:
    """Let a kernel start end either way; its failure was raised where the kernel was needed."""
    if not starting.done():
        starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
