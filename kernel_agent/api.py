"""The short way in: `ask` a question, and go on from a trajectory.

    t = ask("What is written on the label?", "photo.jpg")
    t.answer; t.steps[0].images; t.save("run.ipynb")
    t.ask("and the date below it?")     # same images, history and live kernel

The kernel of `ask` stays until the trajectory is closed or forgotten; a trajectory without one (loaded from a file,
closed, or ended by a failure) gets a new kernel in which its cells are run again. For many runs at once use `Agent.arun`.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_agent.agent import Agent
from kernel_agent.blocking import background_loop, run_blocking
from kernel_agent.conversation import Conversation, check_question, history
from kernel_agent.errors import InputError
from kernel_agent.notices import Watch
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Budget, ImageEncoding, Sampling

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
    at all, a kernel that cannot be had, a full disk and Ctrl-C are raised; the run so far is `error.trajectory`.
    """
    check_question(question)
    agent = Agent(choose_model(model, base_url=base_url, api_key=api_key), **options)
    conversation = agent.converse(images, save_to=save_to, force=force)
    return _turn(conversation, question, watch)


def continue_trajectory(
    trajectory: Trajectory,
    question: str,
    *,
    model: str | Model | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    save_to: str | Path | None = None,
    force: bool = False,
    watch: Watch | None = None,
    **options: Any,
) -> Trajectory:
    """Ask on in a new kernel that runs the trajectory's cells again first.

    What is not given is as the trajectory was made: model, protocol, budget, sampling, view bounds. With `save_to` it is
    recorded there from now on, else to where it was recorded before.
    """
    check_question(question)
    options = {"signer": trajectory.signer, **recorded_options(trajectory.header), **options}
    agent = Agent(recorded_model(trajectory, model, base_url, api_key=api_key), **options)
    trajectory.close()
    conversation = taken_up(agent, trajectory)
    if save_to is not None:
        trajectory.record_to(save_to, force=force)
    else:
        trajectory.reopen()
    return _turn(conversation, question, watch)


def taken_up(agent: Agent, trajectory: Trajectory) -> Conversation:
    """The trajectory's conversation as the model knows it, with a session that has yet to get its state."""
    sent, new = history(agent.protocol, trajectory)
    session, trajectory.signer = agent.session(), agent.signer
    if isinstance(seed := trajectory.header.get("kernel_seed"), int):
        session.seed = seed
    session.resume_from(trajectory.images, [step.cell for step in trajectory.steps if step.cell is not None])
    return Conversation(agent.model, agent.protocol, agent.sampling, session, trajectory, sent, new)


def _turn(conversation: Conversation, question: str, watch: Watch | None) -> Trajectory:
    """One turn; the notebook is whole afterwards and the trajectory can be asked on, whatever happened.

    The kernel stays unless the turn failed; then the next question starts one and runs the cells again.
    """
    trajectory, session = conversation.trajectory, conversation.session
    try:
        try:
            run_blocking(conversation.ask(question, watch=watch))
        finally:
            trajectory.seal()
        if trajectory.failure is not None:
            raise trajectory.failure
    except BaseException as error:
        run_blocking(session.aclose())
        error.trajectory = trajectory  # type: ignore[attr-defined]
        raise
    finally:
        trajectory._live = _Kept(trajectory, conversation)
    return trajectory


class _Kept:
    """Goes on in a conversation's kernel without holding on to the trajectory: forgetting that stops the kernel."""

    def __init__(self, trajectory: Trajectory, conversation: Conversation) -> None:
        self._attach = conversation.detached()
        before = trajectory._live
        known = before._end if isinstance(before, _Kept) else None
        self._end: Callable[[], object] = known or weakref.finalize(trajectory, _stop, conversation.session)

    def ask(self, trajectory: Trajectory, question: str, *, watch: Watch | None = None) -> Trajectory:
        check_question(question)
        trajectory.reopen()
        return _turn(self._attach(trajectory), question, watch)

    def fork(self, trajectory: Trajectory, steps: int) -> Trajectory:
        branch = run_blocking(self._attach(trajectory).branch(steps))
        branch.trajectory._live = _Kept(branch.trajectory, branch)
        return branch.trajectory

    def stop(self) -> None:
        self._end()


def _stop(session: Session) -> None:
    """Stop the kernel of a closed or forgotten trajectory; waits only where it may (not on the loop's own thread)."""
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


def recorded_model(
    trajectory: Trajectory, model: str | Model | None = None, base_url: str | None = None, *, api_key: str | None = None
) -> Model:
    """The model meant, by default the one that a trajectory was made with. InputError where that cannot be had again."""
    if model is None and base_url is None:
        model, base_url = _recorded_model(trajectory.model)
    return choose_model(model, base_url=base_url, api_key=api_key)


def is_embedded(trajectory: Trajectory) -> bool:
    """Whether a trajectory was made with the model that ships with the package; any other is what its file names."""
    return (trajectory.model.get("kind"), trajectory.model.get("model")) == ("transformers", "embedded")


def _recorded_model(model: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(model, base_url) to use again, from a trajectory's description of its model."""
    kind, name = model.get("kind"), model.get("model")
    if kind == "openai":
        return name, model.get("base_url")
    if kind == "transformers":
        return ("embedded" if model.get("embedded") else name), None
    raise InputError(
        f"This run was made with a model of kind {kind!r}, which cannot be had again by itself: say which model goes on, "
        "with `model` or `base_url` (--model, --base-url)."
    )


def recorded_options(header: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's options a trajectory was made with; its kernel's are left out: a file must not choose its isolation."""
    from kernel_agent.session.images import MAX_PIXELS, ViewBounds

    options: dict[str, Any] = {key: header[key] for key in ("protocol", "max_pixels") if key in header}
    if "budget" in header:
        options["budget"] = Budget(**header["budget"])
    if "sampling" in header:
        options["sampling"] = Sampling(**{**header["sampling"], "stop": tuple(header["sampling"].get("stop", ()))})
    if "view_bounds" in header:
        bounds = options["bounds"] = ViewBounds(**header["view_bounds"])
        if bounds.min_pixels > MAX_PIXELS:  # every picture would be made as large
            raise InputError(
                f"the run's view bounds ask for at least {bounds.min_pixels!s:.20} pixels, and {MAX_PIXELS:,} are made at most"
            )
    if "image_encoding" in header:
        options["encoding"] = ImageEncoding(**header["image_encoding"])
    return options
