"""One kernel's isolation, on the host's side: what it is to apply to itself, who it runs as, how much it may use.

A kernel isolates itself (sandbox/), behind bubblewrap, Seatbelt or a container engine where those make part of the walls.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kernel_agent.provisioners.run_folder import RunFolder
from kernel_agent.provisioners.sandbox import bwrap, container, seatbelt, users
from kernel_agent.provisioners.sandbox.memory import MemoryCap
from kernel_agent.provisioners.sandbox.plan import MIB, Plan
from kernel_agent.provisioners.sandbox.prepare import clear, command, environment, prepare
from kernel_agent.provisioners.sandbox.probes import Choice, How
from kernel_agent.provisioners.sandbox.spawn import spawn
from kernel_agent.types import Isolation

_ENGINE_SECONDS = 10.0


class Enclosure:
    """Made for one start of a kernel, in its run folder; `close` when the kernel is gone.

    Attributes:
        plan: what the kernel applies to itself; None at the level `none`.
    """

    def __init__(self, choice: Choice, folder: RunFolder, memory_mb: int) -> None:
        """Raises KernelError where there is no user id left for it (as root)."""
        self.choice, self.folder = choice, folder
        self.plan: Plan | None = None
        self._user: int | None = None
        self._cap: MemoryCap | None = None
        self._memory = memory_mb * MIB
        self._container = ""
        self._lifeline = -1
        if choice.level is Isolation.NONE:
            return
        self._user = users.lease()
        try:
            if self._user is not None:
                folder.path.chmod(0o711)  # on the way to its parts
            self.plan = prepare(
                choice.level,
                connection_file=folder.connection_file,
                scratch=folder.scratch,
                namespaces=choice.own_namespaces,
                user=self._user,
                memory_mb=memory_mb,
            )
        except BaseException:
            self.close()
            raise

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The kernel's, from the harmless part of the host's."""
        return dict(env) if self.plan is None else environment(self.plan, env)

    def spawn(self, cmd: Sequence[str], env: Mapping[str, str], stdio: Sequence[int]) -> subprocess.Popen[Any]:
        """Start a process of its own for the kernel. `cmd` is `[interpreter..., "-m", launcher, "-f", file]`. Raises OSError."""
        assert self.plan is not None
        words = command(self.plan, cmd[-2:], interpreter=cmd[:-4])
        if self.choice.how is How.BUBBLEWRAP:
            words = [*bwrap.prefix(self.plan), *words]
        elif self.choice.how is How.SEATBELT:
            words = [*seatbelt.prefix(self.plan), *words]
        elif self.choice.how is How.ENGINE:
            self._container = f"codevision-{uuid.uuid4().hex[:12]}"
            image = os.environ[container.IMAGE_VARIABLE]
            words = container.command(self.plan, image, program=container.engine(), name=self._container)
            env = os.environ  # the engine's client has the user's own; the container has none of it
        stdin, stdout, stderr = stdio
        options = {"env": dict(env), "cwd": os.sep, "start_new_session": True}
        if not self._container:
            return spawn(words, stdin=stdin, stdout=stdout, stderr=stderr, **options)
        until_we_end, self._lifeline = os.pipe()
        try:
            return spawn(words, stdin=until_we_end, stdout=stdout, stderr=stderr, **options)
        finally:
            os.close(until_we_end)

    def watch(self, pid: int, killed: Callable[[str], object]) -> None:
        """Cap the memory and the processes of the kernel from now on."""
        if self.plan is None or self.choice.how in (How.ENGINE, How.SEATBELT):
            return  # the engine does it; macOS has no /proc
        group = pid if self.plan.level is Isolation.MEDIUM else None
        self._cap = MemoryCap(pid, self._memory, self.plan.processes, group=group, killed=killed)
        self._cap.start()

    def look(self) -> None:
        """A cell has been running for a while: look often at what it uses."""
        if self._cap is not None:
            self._cap.wake()

    @property
    def reason(self) -> str:
        """Why the kernel was killed for what it used; "" where it was not."""
        return self._cap.explain() if self._cap is not None else ""

    def signal(self, number: int) -> bool:
        """A signal to a kernel that an engine runs, which no signal to the process that was started reaches; else False."""
        if not self._container:
            return False
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            words = [container.engine(), "kill", "--signal", str(int(number)), self._container]
            subprocess.run(words, capture_output=True, check=False, timeout=_ENGINE_SECONDS)
        return True

    def close(self) -> None:
        """The kernel is gone: give back what it had. Safe to call twice."""
        cap, self._cap = self._cap, None
        if cap is not None:
            cap.stop()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        user, self._user = self._user, None
        users.give_back(user)
        if self.plan is not None:
            clear(self.folder.path)
