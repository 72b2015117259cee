"""One live run: it goes on in the background, tells what happens, and takes commands.

Nothing a face does can rewrite what has happened: going back (`rewind`), changing the code of a step (`edit`) and trying something
else (`fork`) make a branch, a run of its own with the same beginning. What a person approved, changed or refused is
recorded in the trajectory. A run does not end when nobody watches it.

All of it lives on the background loop (blocking.py); commands may come from any thread through `submit` or `do`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kernel_agent.blocking import background_loop, run_blocking
from kernel_agent.conversation import Conversation, check_question
from kernel_agent.errors import CodeVisionError, LiveError
from kernel_agent.live import events
from kernel_agent.live.log import EventLog
from kernel_agent.notices import ActionRead, CellStarted, Notice, StepDone, TextWritten, Watch
from kernel_agent.steering import Decision, Instead
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Json, RunCode, StopReason

if TYPE_CHECKING:
    from kernel_agent.agent import Agent
    from kernel_agent.live.runs import Runs

logger = logging.getLogger(__name__)


class RunState(StrEnum):
    """What a run is doing."""

    RUNNING = "running"
    PAUSED = "paused"  # it goes on after `resume`
    WAITING = "waiting"  # for code to be approved or refused
    IDLE = "idle"  # the turn is over; it can be asked on
    CLOSED = "closed"


COMMANDS = (
    "ask",
    "stop",
    "pause",
    "resume",
    "approve_each",
    "approve",
    "refuse",
    "rewind",
    "edit",
    "fork",
    "close",
)


class LiveRun:
    """A run that is watched and steered; make it with `Runs`. It is its conversation's `Steering`.

    Attributes:
        log: its events.
        state, since: what it is doing, and since when (seconds since the epoch).
        watch: called with each notice, beside the log, on the background loop.
        parent: the run it is a branch of and how many steps they share, or None.
    """

    def __init__(
        self,
        agent: Agent,
        conversation: Conversation,
        runs: Runs,
        *,
        parent: tuple[str, int] | None = None,
        approve_each: bool = False,
        by: str = "user",
        watch: Watch | None = None,
    ) -> None:
        self.agent, self.conversation, self.parent = agent, conversation, parent
        self.log, self.watch = EventLog(), watch
        self.state, self.since = RunState.IDLE, time.time()
        self._runs, self._by = runs, by
        self._approve_each = approve_each
        self._task: asyncio.Task[None] | None = None
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()
        self._approval: asyncio.Future[Decision] | None = None
        self._isolation = ""
        self.trajectory._live = _Going(self)
        self._tell_history()

    @property
    def id(self) -> str:
        """The trajectory's id."""
        return self.trajectory.run_id

    @property
    def trajectory(self) -> Trajectory:
        """The run as a value; read it, or ask on through `ask`."""
        return self.conversation.trajectory

    # ------------------------------------------------------------------ commands, from any thread

    def submit(self, command: str, **arguments: Any) -> Future[LiveRun | None]:
        """Carry out a command of `COMMANDS`; the future holds the branch, where it makes one. Raises LiveError inside it."""
        if command not in COMMANDS:
            raise LiveError(f"there is no command {command!r}: take one of {', '.join(COMMANDS)}")
        method: Callable[..., Coroutine[Any, Any, LiveRun | None]] = getattr(self, f"_{command}_command")
        try:
            coroutine = method(**arguments)
        except TypeError as error:
            raise LiveError(f"{command}: {error}".replace(f"LiveRun._{command}_command() ", "")) from error
        return asyncio.run_coroutine_threadsafe(coroutine, background_loop())

    def do(self, command: str, **arguments: Any) -> LiveRun | None:
        """`submit`, waiting."""
        return self.submit(command, **arguments).result()

    def wait(self) -> Trajectory:
        """Wait until the turn is over. Ctrl-C stops the turn and is raised."""
        try:
            return run_blocking(self.finished())
        except KeyboardInterrupt:
            self.do("stop")
            raise

    async def finished(self) -> Trajectory:
        """On the background loop: wait until the turn is over; a cancel of the wait leaves the run alone."""
        if self._task is not None:
            await asyncio.wait([self._task])
        return self.trajectory

    # ------------------------------------------------------------------ commands, on the loop

    async def _ask_command(self, question: str) -> None:
        self._require(RunState.IDLE, "ask again when this turn is over, or stop it")
        check_question(question)
        self._begin(lambda: self.conversation.ask(question, watch=self._watch, steering=self), question)
        await asyncio.sleep(0)  # the turn takes its first step: whoever has asked finds the question in every list

    async def _stop_command(self) -> None:
        await asyncio.sleep(0)  # cancelled before its first step, a turn would never run, and so never be over
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _pause_command(self) -> None:
        self._require((RunState.RUNNING, RunState.WAITING, RunState.PAUSED), "there is nothing to pause")
        self._may_go_on.clear()

    async def _resume_command(self) -> None:
        self._may_go_on.set()

    async def _approve_each_command(self, on: bool) -> None:
        self._approve_each = bool(on)
        if self._approval is not None and not on:
            self._decide(Decision(code=None), as_written=True)
        self.log.append("state", state=str(self.state), approve_each=self._approve_each)

    async def _approve_command(self, code: str | None = None) -> None:
        if code is not None and not code.strip():
            raise LiveError("the code is empty: refuse the step instead, or write what is to run")
        self._decide(Decision(code=code, by=self._by), as_written=code is None)

    async def _refuse_command(self, reason: str = "") -> None:
        self._decide(Decision(code=None, reason=str(reason)[:2000], by=self._by))

    async def _rewind_command(self, steps: int) -> LiveRun:
        await self._stop_command()
        return await self._branch(steps, why="rewind")

    async def _fork_command(self, steps: int | None = None) -> LiveRun:
        return await self._branch(len(self.trajectory.steps) if steps is None else steps, why="fork")

    async def _edit_command(self, step: int, code: str) -> LiveRun:
        await self._stop_command()
        steps = self.trajectory.steps
        if not 0 <= step < len(steps) or not isinstance(steps[step].action, RunCode):
            raise LiveError(f"step {step} has no code to change: choose a step that ran code")
        if not code.strip():
            raise LiveError("the code is empty: write what is to run")
        branch = await self._branch(step, why="edit", in_turn=True)
        instead = Instead(completion=steps[step].completion, decision=Decision(code=code, by=self._by))
        conversation = branch.conversation
        branch._begin(lambda: conversation.resume(instead, watch=branch._watch, steering=branch), None)
        return branch

    async def _close_command(self) -> None:
        await self._stop_command()
        if self.state is not RunState.CLOSED:
            self.trajectory._live = None
            await self.conversation.aclose()
            self._be(RunState.CLOSED)
            self._runs.forget(self)

    async def release(self) -> None:
        """Stop the kernel of an idle run; the next question starts one and runs the cells again."""
        if self.state is RunState.IDLE:
            await self.conversation.session.aclose()

    def _require(self, states: RunState | tuple[RunState, ...], remedy: str) -> None:
        if self.state not in (states if isinstance(states, tuple) else (states,)):
            raise LiveError(f"the run is {self.state}: {remedy}")

    def _decide(self, decision: Decision, *, as_written: bool = False) -> None:
        if self._approval is None or self._approval.done():
            raise LiveError(f"no code waits for approval: the run is {self.state}")
        if as_written:
            decision = Decision(code=self._waiting_code, by=decision.by or self._by)
        self._approval.set_result(decision)

    # ------------------------------------------------------------------ a turn

    def _begin(self, turn: Callable[[], Awaitable[Trajectory]], question: str | None) -> None:
        trajectory = self.trajectory
        number = len(trajectory.turns) - (question is None)
        first = len(trajectory.steps) if question is not None else trajectory.turns[-1].first_step
        if question is not None:
            limits = events.limits(self.conversation.session.budget)
            self.log.append("turn", turn=number, question=question, budget=limits, first_step=first)
        self._may_go_on.set()
        self._be(RunState.RUNNING)
        self._task = asyncio.get_running_loop().create_task(self._turn(turn))

    async def _turn(self, turn: Callable[[], Awaitable[Trajectory]]) -> None:
        """One turn to its end, whatever that is; afterwards the notebook is whole and the run can be asked on."""
        trajectory, failure = self.trajectory, None
        try:
            trajectory.reopen()
            self._tell_run()  # its path may be another
            await turn()
            failure = trajectory.failure
        except asyncio.CancelledError:
            pass  # `stop`: the trajectory says "interrupted"
        except CodeVisionError as error:
            failure = error
        except Exception as error:
            logger.exception("run %s failed", self.id)
            failure = error
        try:
            await self._seal()
        except CodeVisionError as error:
            failure = failure or error
        if failure is not None:
            await self.conversation.session.aclose()
        reason = trajectory.stop_reason or StopReason.CRASHED
        said = None if failure is None else str(failure) or type(failure).__name__
        turns = len(trajectory.turns) - 1
        self.log.append("answer", turn=turns, answer=trajectory.answer, stop_reason=str(reason), failure=said)
        self._be(RunState.IDLE)
        await self._runs.spare_kernels()

    async def _seal(self) -> None:
        """Make the notebook whole, beside the loop: to sign it takes time. Whoever stops or closes the run waits for it."""
        sealed = asyncio.ensure_future(asyncio.to_thread(self.trajectory.seal))
        while not sealed.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([sealed])
        sealed.result()

    async def before_model(self, step: int) -> None:
        """Wait while the run is paused."""
        if not self._may_go_on.is_set():
            self._be(RunState.PAUSED)
            await self._may_go_on.wait()
            self._be(RunState.RUNNING)

    async def before_code(self, step: int, action: RunCode) -> Decision | None:
        """Wait while the run is paused, and for a decision where each cell needs one."""
        await self.before_model(step)
        if not self._approve_each:
            return None
        self._approval = asyncio.get_running_loop().create_future()
        self._waiting_code = action.code
        self._be(RunState.WAITING)
        try:
            decision = await self._approval
        finally:
            self._approval = None
        self._be(RunState.RUNNING)
        await self.before_model(step)
        return decision

    def _be(self, state: RunState) -> None:
        self.state, self.since = state, time.time()
        self.log.append("state", state=str(state), approve_each=self._approve_each)

    def _watch(self, notice: Notice) -> None:
        log = self.log
        if self.watch is not None:
            self.watch(notice)
        if isinstance(notice, TextWritten):
            log.append("writing", step=notice.step, text=notice.text)
        elif isinstance(notice, ActionRead):
            waits = notice.runs and self._approve_each and isinstance(notice.action, RunCode)
            action = events.action(notice.action)
            log.append("action", step=notice.step, thought=notice.thought, action=action, approval=waits)
        elif isinstance(notice, CellStarted):
            if self.trajectory.isolation != self._isolation:
                self._tell_run()
            log.append("running", step=notice.step, code=notice.code, edited=notice.edited)
        elif isinstance(notice, StepDone):
            log.append("step", **events.step(notice.step, self.trajectory))
            limit = events.limits(self.conversation.session.budget)
            log.append("budget", left=dict(notice.left), limit=limit)

    # ------------------------------------------------------------------ what has happened

    def _tell_run(self) -> None:
        trajectory = self.trajectory
        self._isolation = trajectory.isolation
        known = {item.index: item for item in trajectory.images}
        inputs = [events.image(item, known) for item in trajectory.images if item.origin == "input"]
        self.log.append(
            "run",
            id=self.id,
            parent=self.parent and {"run": self.parent[0], "steps": self.parent[1]},
            model=str(trajectory.model.get("model") or trajectory.model.get("kind") or "unknown"),
            protocol=trajectory.header.get("protocol"),
            isolation=self._isolation,
            path=str(trajectory.path) if trajectory.path else None,
            images=inputs,
        )

    def _tell_history(self) -> None:
        """The events of a run that was there before: a saved one, or the beginning of a branch."""
        trajectory, log = self.trajectory, self.log
        self._tell_run()
        limits = events.limits(self.conversation.session.budget)
        for number, turn in enumerate(trajectory.turns):
            log.append("turn", turn=number, question=turn.question, budget=limits, first_step=turn.first_step)
            last = number + 1 == len(trajectory.turns)
            end = len(trajectory.steps) if last else trajectory.turns[number + 1].first_step
            for step in trajectory.steps[turn.first_step : end]:
                log.append("step", **events.step(step, trajectory))
            if turn.stop_reason is not None:
                log.append("answer", turn=number, answer=turn.answer, stop_reason=str(turn.stop_reason), failure=None)
        log.append("state", state=str(self.state), approve_each=self._approve_each)

    async def _branch(self, steps: int, *, why: str, in_turn: bool = False) -> LiveRun:
        """A run with the first `steps` steps of this one, its kernel in the state after them."""
        made = len(self.trajectory.steps)
        if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= made:
            raise LiveError(f"there is no state after {steps!r} steps: this run has made {made}")
        conversation = await self.conversation.branch(steps, in_turn=in_turn)
        try:
            self._runs.record(conversation.trajectory)
            if not in_turn:
                await asyncio.to_thread(conversation.trajectory.seal)  # nothing goes on in it yet
        except BaseException:
            await conversation.session.aclose()
            raise
        branch = LiveRun(
            self.agent,
            conversation,
            self._runs,
            parent=(self.id, steps),
            approve_each=self._approve_each,
            by=self._by,
        )
        self._runs.add(branch)
        self.log.append("branch", run=branch.id, steps=steps, why=why)
        return branch


class _Going:
    """What `Trajectory.ask`, `fork` and `close` do while the run lives."""

    def __init__(self, run: LiveRun) -> None:
        self._run = run

    def ask(self, trajectory: Trajectory, question: str, *, watch: Watch | None = None) -> Trajectory:
        self._run.watch = watch
        self._run.do("ask", question=question)
        self._run.wait()
        if trajectory.failure is not None:
            raise trajectory.failure
        return trajectory

    def fork(self, trajectory: Trajectory, steps: int) -> Trajectory:
        branch = self._run.do("fork", steps=steps)
        assert branch is not None
        return branch.trajectory

    def stop(self) -> None:
        self._run.do("close")


def described(run: LiveRun) -> Json:
    """A line of a list of runs."""
    trajectory = run.trajectory
    turns = trajectory.turns
    return {
        "id": run.id,
        "question": turns[0].question if turns else "",
        "answer": trajectory.answer,
        "stop_reason": trajectory.stop_reason and str(trajectory.stop_reason),
        "started": turns[0].started if turns else None,
        "seconds": round(sum(turn.seconds for turn in turns), 3),
        "steps": len(trajectory.steps),
        "path": str(trajectory.path) if trajectory.path else None,
        "parent": run.parent and {"run": run.parent[0], "steps": run.parent[1]},
        "live": True,
        "state": str(run.state),
    }
