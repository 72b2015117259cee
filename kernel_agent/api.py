"""The short way in: `ask` a question, and go on from a trajectory.

    t = ask("What is written on the label?", "photo.jpg")
    t.answer; t.steps[0].images; t.save("run.ipynb")
    t.ask("and the date below it?")     # same images, history and live kernel

The kernel of `ask` stays until the trajectory is closed or forgotten; a trajectory without one (loaded from a file, or
closed) gets a new kernel in which its cells are run again. For many runs at once use `Agent.arun`.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_agent.agent import Agent
from kernel_agent.blocking import background_loop, run_blocking
from kernel_agent.conversation import Conversation, check_question
from kernel_agent.errors import InputError
from kernel_agent.notices import Watch
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Message

if TYPE_CHECKING:
    from kernel_agent.models import Model
    from kernel_agent.session import Session


def ask(
    question: str,
    *images: Any,
    model: str | Model | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    save_to: str | Path | None = None,
    force: bool = False,
    watch: Watch | None = None,
    **options: Any,
) -> Trajectory:
    """Answer a question about images and return the whole run.

    Args:
        question: what to find out.
        images: paths, bytes, PIL images, NumPy arrays, data URIs; http(s) URLs with `allow_http=True`.
        model: see `choose_model`; the embedded model by default.
        base_url, api_key: of an OpenAI-compatible server.
        save_to: notebook to write while the run goes on; `force` replaces an existing one.
        watch: called with each `notices.Notice`.
        options: as `Agent` takes them (`protocol`, `budget`, `sampling`, `bounds`, ...).

    A run that ends without an answer is returned like any other (`stop_reason` says why). A model that cannot be asked
    at all, or a kernel that cannot be had, raises; what was done by then is in `save_to` and in `error.trajectory`.
    """
    check_question(question)
    agent = Agent(choose_model(model, base_url=base_url, api_key=api_key), **options)
    conversation = agent.converse(images, save_to=save_to, force=force)
    return run_blocking(_turn(conversation, question, watch))


def continue_trajectory(
    trajectory: Trajectory,
    question: str,
    *,
    model: str | Model | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Trajectory:
    """Ask on where no kernel lives any more: a new one runs the cells again first. The header's model is the default."""
    if model is None and base_url is None:
        model, base_url = _recorded_model(trajectory.header)
    options.setdefault("protocol", trajectory.header.get("protocol", "native"))
    agent = Agent(choose_model(model, base_url=base_url, api_key=api_key), **options)
    return run_blocking(_resume(agent, trajectory, question, watch))


async def _resume(agent: Agent, trajectory: Trajectory, question: str, watch: Watch | None) -> Trajectory:
    session = agent.session()
    sent: list[Message] = [message for step in trajectory.steps for message in step.new_messages]
    new: list[Message] = []
    if trajectory.steps:
        last = trajectory.steps[-1]
        new.append(agent.protocol.reply(last.completion))
        if last.observation is not None:
            new += agent.protocol.observe(last.completion, last.observation.content)
    conversation = Conversation(agent.model, agent.protocol, agent.sampling, session, trajectory, sent, new)
    try:
        cells = [step.cell for step in trajectory.steps if step.cell is not None]
        await session.aresume(trajectory.images, cells)
    except BaseException:
        await session.aclose()
        raise
    for event in session.events:
        trajectory.add_event(event)
    return await _turn(conversation, question, watch)


async def _turn(conversation: Conversation, question: str, watch: Watch | None) -> Trajectory:
    """One turn; the notebook is whole afterwards and the kernel stays with the trajectory."""
    trajectory = conversation.trajectory
    try:
        await conversation.ask(question, watch=watch)
    except BaseException as error:
        await conversation.session.aclose()
        if isinstance(error, Exception):
            error.trajectory = trajectory  # type: ignore[attr-defined]
        raise
    finally:
        trajectory.close()
    if trajectory.failure is not None:
        await conversation.session.aclose()
        trajectory.failure.trajectory = trajectory  # type: ignore[attr-defined,unused-ignore]
        raise trajectory.failure
    if trajectory._continue is None:
        weakref.finalize(trajectory, _stop, conversation.session)

    def go_on(trajectory: Trajectory, question: str) -> Trajectory:
        trajectory.reopen()
        return run_blocking(_turn(conversation, question, None))

    trajectory._continue = go_on
    return trajectory


def _stop(session: Session) -> None:
    """Stop a forgotten trajectory's kernel; waits only where it may (not on the loop's own thread)."""
    loop = background_loop()
    future = asyncio.run_coroutine_threadsafe(session.aclose(), loop)
    with contextlib.suppress(RuntimeError):
        if asyncio.get_running_loop() is loop:
            return
    with contextlib.suppress(Exception):  # at exit: nobody is left to tell
        future.result(5)


def choose_model(model: str | Model | None, *, base_url: str | None = None, api_key: str | None = None) -> Model:
    """The model meant: an object as it is, a name on a server with `base_url`, a checkpoint folder, or the embedded one."""
    from kernel_agent import models

    if model is not None and not isinstance(model, str):
        return model
    if base_url is not None:
        return models.OpenAIModel(model, base_url=base_url, api_key=api_key)
    if model is None or model == "embedded":
        return models.embedded()
    return models.TransformersModel(model)


def _recorded_model(header: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(model, base_url) to use again, from a trajectory's header."""
    model = header.get("model", {})
    kind, name = model.get("kind"), model.get("model")
    if kind == "openai":
        return name, model.get("base_url")
    if kind == "transformers":
        return ("embedded" if model.get("embedded") else name), None
    raise InputError(
        f"This run was made with a model of kind {kind!r}: say which model goes on (`model=`, `base_url=`)."
    )
