"""The loop: ask the model, read its action, run it, tell it what came of it, until it answers or a limit is met.

A `Conversation` is one run: a session, a trajectory and the messages so far. A failed run is data: model and kernel
failures end the turn with a typed stop reason and are kept in `Trajectory.failure`; only a cancel is raised on. A person
may watch (notices.py) and steer (steering.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_agent import prompts
from kernel_agent.budget import Spending
from kernel_agent.errors import InputError, KernelError, ModelError
from kernel_agent.notices import ActionRead, CellStarted, StepDone, TextWritten, Watch
from kernel_agent.protocols import Protocol
from kernel_agent.session import Session
from kernel_agent.steering import Decision, Instead, Steering
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import (
    Answer,
    CellResult,
    Event,
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
    TextPart,
)
from kernel_agent.waiting import end

if TYPE_CHECKING:
    from kernel_agent.models import Model


class Conversation:
    """One run: its kernel, its trajectory and its messages. `ask` adds a turn."""

    def __init__(
        self,
        model: Model,
        protocol: Protocol,
        sampling: Sampling,
        session: Session,
        trajectory: Trajectory,
        sent: Sequence[Message] = (),
        new: Sequence[Message] = (),
    ) -> None:
        self.model, self.protocol, self.sampling = model, protocol, sampling
        self.session, self.trajectory = session, trajectory
        self._sent = list(sent)  # the last request's messages
        self._new = list(new)  # what the next request adds
        self._described: dict[str, Json] | None = None

    async def ask(self, question: str, *, watch: Watch | None = None, steering: Steering | None = None) -> Trajectory:
        """Ask, and run steps until an answer or a limit. Model and kernel failures end the turn; a cancel is raised."""
        check_question(question)
        first = not self._sent and not self._new  # a turn before may have ended without a request
        self.trajectory.begin_turn(question)
        if first:
            self._new.append(Message(role="system", content=(TextPart(text=self.protocol.system()),)))
        parts = prompts.question(question, self.session.images if first else ())
        spent = self._spending()
        self._new.append(Message(role="user", content=(*parts, *spent.notice())))
        return await self._turn(spent, watch, steering, None)

    async def resume(
        self, instead: Instead | None = None, *, watch: Watch | None = None, steering: Steering | None = None
    ) -> Trajectory:
        """Go on with the open turn of a branch, with `instead` (where given) as its next step."""
        self.trajectory.reopen_turn()
        return await self._turn(self._spending(), watch, steering, instead)

    def _spending(self) -> Spending:
        """What the open turn has spent of its budget but for time: in a branch, what it had spent by then."""
        steps = self.trajectory.steps[self.trajectory.turns[-1].first_step :]
        made = sum(image.origin != "input" for image in self.session.images)
        spent = Spending(self.session.budget, images=made - sum(len(step.images) for step in steps))
        spent.notice()
        for step in steps:
            spent.show(step.new_messages)
            spent.add(step.completion)
            spent.done(step.action, step.cell)
            spent.notice()
        return spent

    async def _turn(
        self, spent: Spending, watch: Watch | None, steering: Steering | None, instead: Instead | None
    ) -> Trajectory:
        """Steps until the turn is over."""
        trajectory, answer = self.trajectory, None
        trajectory.failure = None
        reason: StopReason | None = None
        starting = asyncio.ensure_future(self._start())  # while the model writes its first message
        try:
            async with spent.within_time():
                while reason is None:
                    told = watch or (lambda notice: None)
                    reason, answer = await self._step(spent, told, steering, instead, starting)
                    instead = None
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
            await end(starting)  # its failure was raised where the kernel was needed
        return trajectory

    async def _start(self) -> None:
        await self.session.astart()
        for event in self.session.take_events():
            self.trajectory.add_event(event)
        isolation = self.session.isolation
        if self.trajectory.isolation != isolation:
            self.trajectory.add_event(_event("kernel_started", isolation=isolation))

    async def _step(
        self,
        spent: Spending,
        watch: Watch,
        steering: Steering | None,
        instead: Instead | None,
        starting: asyncio.Future[None],
    ) -> tuple[StopReason | None, str | None]:
        """One model call and what follows from it; the step is saved even when the cell is cancelled."""
        protocol, index = self.protocol, len(self.trajectory.steps)
        if steering is not None and instead is None:
            async with spent.stopped():
                await steering.before_model(index)
        began, clock = time.time(), time.perf_counter()
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, spent.tokens_left))
        new_messages = tuple(self._new)
        spent.show(new_messages)
        if instead is None:
            request = Request(messages=(*self._sent, *new_messages), tools=protocol.tools, sampling=sampling)
            completion = await self.model.complete(
                request, on_text=lambda text: watch(TextWritten(step=index, text=text))
            )
        else:
            completion = instead.completion
        spent.add(completion)
        described = dict(self.model.describe())
        if described not in (self._described, self.trajectory.model):
            self.trajectory.add_event(Event(kind="model_described", time=time.time(), data=described))
        self._described = described
        self._sent, self._new = [*self._sent, *new_messages], [protocol.reply(completion)]
        parsed = protocol.parse(completion, images=len(self.session.images))
        action = parsed.action
        cell: CellResult | None = None
        report: tuple[Part, ...] = ()
        status = Status.MALFORMED
        reason = StopReason.ANSWER if isinstance(action, Answer) else spent.over
        runs = reason is None or instead is not None  # what a person wrote runs also as a turn's last step
        watch(ActionRead(step=index, thought=parsed.thought, action=action, runs=runs))
        try:
            if isinstance(action, RunCode) and runs:
                decision = await self._decide(spent, steering, instead, index, action)
                edited = decision is not None and decision.code not in (None, action.code)
                if decision is not None and decision.code is None:
                    status, report = Status.REFUSED, prompts.refused_report(decision.reason)
                else:
                    action = replace(action, code=decision.code) if decision is not None and decision.code else action
                    known = tuple(self.session.images)
                    ran = len(self.session.cells)
                    try:
                        await starting
                        watch(CellStarted(step=index, code=action.code, edited=edited))
                        cell = await self.session.arun(action.code, image_index=action.image_index)
                    finally:
                        cell = next(iter(self.session.cells[ran:]), None)
                    if cell is not None:
                        status = cell.status
                        report = (*prompts.edited_report(action.code, edited), *prompts.cell_report(cell, known))
            elif isinstance(action, Malformed):
                report = prompts.malformed_report(action)
            spent.done(action, cell)
            if reason is None:
                reason = spent.hard_limit()
        finally:
            observation = None
            if report:
                report = (*report, *(spent.notice() if reason is None else ()))
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
            watch(StepDone(step=step, left=spent.left()))
        return reason, action.text if isinstance(action, Answer) else None

    async def _decide(
        self, spent: Spending, steering: Steering | None, instead: Instead | None, index: int, action: RunCode
    ) -> Decision | None:
        """What a person says of code that is about to run; recorded with the trajectory."""
        decision = instead.decision if instead is not None else None
        if steering is not None and instead is None:
            async with spent.stopped():
                decision = await steering.before_code(index, action)
        if decision is not None:
            kind = "refused" if decision.code is None else "approved" if decision.code == action.code else "code_edited"
            said: dict[str, Json] = {"reason": decision.reason} if decision.code is None else {}
            said |= {"written": action.code, "ran": decision.code} if kind == "code_edited" else {}
            self.trajectory.add_event(_event(kind, step=index, by=decision.by, **said))
        return decision

    def detached(self) -> Callable[[Trajectory], Conversation]:
        """How to take this conversation up again with its trajectory, without holding on to that."""
        parts = (self.model, self.protocol, self.sampling, self.session)
        sent, new = tuple(self._sent), tuple(self._new)
        return lambda trajectory: Conversation(*parts, trajectory, sent, new)

    async def branch(self, steps: int, *, in_turn: bool = False) -> Conversation:
        """A conversation of its own that shares the first `steps` steps, its kernel in the state after them.

        With `in_turn` the question that step `steps` belonged to is open in it, for `resume`.
        """
        made = self.trajectory.steps
        trajectory = self.trajectory.branch(steps, in_turn=in_turn)
        cells = sum(step.cell is not None for step in trajectory.steps)
        whole = self.trajectory.stop_reason is not None and cells == len(self.session.cells)
        session = await self.session.afork(cells=None if whole else cells)
        sent, new = history(self.protocol, trajectory)
        if in_turn:
            new = list(made[steps].new_messages)
            sent = [message for step in trajectory.steps for message in step.new_messages]
        return Conversation(self.model, self.protocol, self.sampling, session, trajectory, sent, new)

    async def aclose(self) -> None:
        """Stop the kernel and finish the notebook."""
        await self.session.aclose()
        self.trajectory.close()


def history(protocol: Protocol, trajectory: Trajectory) -> tuple[list[Message], list[Message]]:
    """What the model has been told, from a trajectory: (the last request's messages, what the next one adds)."""
    sent = [message for step in trajectory.steps for message in step.new_messages]
    new: list[Message] = []
    if trajectory.steps:
        last = trajectory.steps[-1]
        new.append(protocol.reply(last.completion))
        if last.observation is not None:
            new += protocol.observe(last.completion, last.observation.content)
    return sent, new


def check_question(question: str) -> None:
    """InputError for an empty question: before a file is written or a model asked."""
    if not question.strip():
        raise InputError("The question is empty: say what you want to know about the image.")


def _event(kind: str, **data: Json) -> Event:
    return Event(kind=str(kind), time=time.time(), data=data)
