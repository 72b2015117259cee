"""`Agent`: what runs share (model, protocol, limits). It serves any number of runs at once on one event loop.

The loop itself is in conversation.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_agent.blocking import run_blocking
from kernel_agent.conversation import Conversation, check_question
from kernel_agent.environment import environment
from kernel_agent.notices import Watch
from kernel_agent.protocols import Protocol, get_protocol
from kernel_agent.session import Session
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Budget, ImageEncoding, Json, KernelOptions, Sampling, Task

if TYPE_CHECKING:
    from kernel_agent.models import Model
    from kernel_agent.session import KernelPool
    from kernel_agent.session.images import ViewBounds
    from kernel_agent.trajectory.trajectory import Signer


class Agent:
    """A model that answers questions about images by running Python.

    Args:
        model: see `kernel_agent.models`.
        protocol: how the model says "run this"; a name of `kernel_agent.protocols.PROTOCOLS` or an object.
        budget: limits of a turn.
        sampling: how the model samples; `max_tokens` caps one message.
        bounds, max_pixels, allow_http, kernel, encoding, pool: as `Session` takes them.
        signer: signs what is saved of a run, at the end of each turn (`audit.signing.own_signer`); by default nobody does.
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
        kernel: KernelOptions = KernelOptions(),
        encoding: ImageEncoding = ImageEncoding(),
        pool: KernelPool | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.model = model
        self.protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
        self.budget = budget
        self.sampling = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *self.protocol.stop))))
        self.bounds, self.max_pixels, self.allow_http = bounds, max_pixels, allow_http
        self.kernel, self.pool = kernel, pool
        self.encoding, self.signer = encoding, signer

    def session(self, images: tuple[object, ...] = ()) -> Session:
        """A session as this agent needs it, not yet started. Raises ImageError."""
        return Session(
            images,
            names=self.protocol.names,
            budget=self.budget,
            bounds=self.bounds,
            max_pixels=self.max_pixels,
            allow_http=self.allow_http,
            kernel=self.kernel,
            encoding=self.encoding,
            pool=self.pool,
        )

    def run(
        self, task: Task, *, save_to: str | Path | None = None, force: bool = False, watch: Watch | None = None
    ) -> Trajectory:
        """`arun`, waiting. Ctrl-C ends the turn, leaves a valid notebook, and is raised on."""
        return run_blocking(self.arun(task, save_to=save_to, force=force, watch=watch))

    async def arun(
        self, task: Task, *, save_to: str | Path | None = None, force: bool = False, watch: Watch | None = None
    ) -> Trajectory:
        """Run a task to its end and stop its kernel. With a pool its turn comes first: the budget's time counts from then on.

        Raises InputError and StorageError before anything is asked, and KernelError where the pool refuses.
        """
        check_question(task.question)
        conversation = self.converse(task.images, save_to=save_to, force=force)
        try:
            await conversation.session.areserve()
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
        trajectory.signer = self.signer
        for event in session.take_events():
            trajectory.add_event(event)
        if save_to is not None:
            trajectory.record_to(save_to, force=force)
        return Conversation(self.model, self.protocol, self.sampling, session, trajectory)

    def header(self, session: Session) -> Mapping[str, Json]:
        """What a reader of the trajectory must know besides its steps."""
        return {
            "protocol": self.protocol.name,
            "model": dict(self.model.describe()),
            "sampling": asdict(self.sampling),
            "budget": asdict(self.budget),
            "view_bounds": asdict(session.bounds),
            "max_pixels": session.max_pixels,
            "kernel": asdict(session.kernel),
            "image_encoding": asdict(session.encoding),
            "names": asdict(self.protocol.names),
            "kernel_seed": session.seed,
            "environment": environment(),
        }
