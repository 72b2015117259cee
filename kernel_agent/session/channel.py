"""One live kernel process and the messages to and from it.

Guarantees: a cell gets only messages whose parent is its own request, it is done on its reply AND its idle, and a kernel
that dies ends every wait at once (within half a second where the system has no pidfds). A kernel that breaks a rule of
the wire or a limit is killed, which no other kernel notices. No file that the kernel can write to is read or written
here. Five descriptors.

A channel belongs to the event loop and the process it was started in: in others it is not `alive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from kernel_agent.errors import KernelError
from kernel_agent.session.dialogue import ChannelLimits, Dialogue, KernelDied
from kernel_agent.session.lifeline import LastWords, Watch
from kernel_agent.session.messages import Message
from kernel_agent.session.zmtp import Buffer, WireError
from kernel_agent.types import KernelOptions

_LOOK_SECONDS = 0.05
"""A cell that runs longer is looked at for the memory it uses."""


class _Specs(KernelSpecManager):
    """A spec manager that knows our one kernel."""

    options = KernelOptions()

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-P", "-m", "kernel_agent.session.kernel_app", "-f", "{connection_file}"]
        return KernelSpec(
            argv=argv,
            display_name="CodeVision",
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": self.options.provisioner, "config": self._config()}},
        )

    def _config(self) -> dict[str, Any]:
        """The provisioner's traits: ours has those of the options but its own name."""
        options = asdict(self.options)
        return options if options.pop("provisioner") == "codevision" else {}


class _Manager(AsyncKernelManager):
    """Starts and stops the process. Makes no socket of its own unless it is asked to send something."""

    async def _async_post_start_kernel(self, **options: Any) -> None:
        assert self.provisioner is not None
        await self.provisioner.post_launch(**options)


class KernelChannel:
    """Starts a kernel, runs requests on it, stops it. Not restartable: make a new one."""

    def __init__(self, options: KernelOptions, *, limits: ChannelLimits = ChannelLimits()) -> None:
        specs = _Specs()
        specs.options = options
        file = Path(tempfile.gettempdir()) / f"cv-{secrets.token_hex(16)}.json"
        manager = _Manager(kernel_name="codevision", kernel_spec_manager=specs, connection_file=str(file))
        self._set(manager, limits)

    def _set(self, manager: AsyncKernelManager | None, limits: ChannelLimits) -> None:
        self.limits = limits
        self.connection: Mapping[str, Any] = {}
        self._manager = manager
        self._process = os.getpid()
        self._dialogue: Dialogue | None = None
        self._watch: Watch | None = None
        self._words: LastWords | None = None
        self._attached_pid: int | None = None
        self._attached_isolation = "unknown"
        self._on_stop: Callable[[], Awaitable[None]] | None = None

    @classmethod
    async def attach(
        cls,
        connection: Mapping[str, Any],
        *,
        pid: int | None = None,
        isolation: str = "unknown",
        on_stop: Callable[[], Awaitable[None]] | None = None,
        limits: ChannelLimits = ChannelLimits(),
        seconds: float = 60.0,
    ) -> Self:
        """A channel to a kernel that somebody else started, by the contents of its connection file.

        Args:
            connection: `ip`, `transport`, `shell_port`, `iopub_port`, `control_port` and `key`.
            pid: its process, to watch and to signal; the listener at the other end of the shell socket has to be it.
            isolation: its level.
            on_stop: called when the channel is stopped, after SIGKILL.
            limits: what it may send.
            seconds: how long it may take to answer. Raises KernelError when it takes longer.
        """
        channel = cls.__new__(cls)
        channel._set(None, limits)
        channel._attached_pid, channel._attached_isolation, channel._on_stop = pid, isolation, on_stop
        await channel._within(channel._connect(connection), seconds)
        return channel

    async def start(self, *, seconds: float = 60.0) -> None:
        """Start the process and wait until a request's reply and its iopub messages come back.

        Raises KernelError when it does not answer within `seconds`.
        """
        await self._within(self._start(), seconds)

    async def _within(self, work: Awaitable[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except (TimeoutError, KernelDied, WireError, OSError) as error:
            await self.stop()
            raise KernelError(
                f"The kernel did not start ({str(error) or f'no answer in {seconds:.1f} s'}). "
                f"Its last words: {self.last_words!r}. Run `codevision doctor` to see what this machine lacks."
            ) from error
        except BaseException:  # a cancel among them: no process, task or socket stays
            await self.stop()
            raise

    async def _start(self) -> None:
        assert self._manager is not None
        self._words = LastWords()
        try:
            await self._manager.start_kernel(stdout=self._words.writer, stderr=self._words.writer)
        except Exception as error:
            raise KernelError(f"The kernel process could not be started: {error}. Run `codevision doctor`.") from error
        finally:
            self._words.close_writer()
        await self._connect(self._manager.get_connection_info())

    async def _connect(self, info: Mapping[str, Any]) -> None:
        self.connection = info
        self._dialogue = Dialogue(info, self.limits, self._kill, self._explain)
        await self._dialogue.open(self._is_alive)
        pid, listener = self._attached_pid, self._dialogue.peer_pid
        if pid is not None and listener not in (None, pid):
            raise KernelDied(f"process {listener} listens where the kernel, process {pid}, should")
        self._watch = Watch(pid or listener, self._dialogue.ended, self._is_alive)
        await self._dialogue.greet()

    # ------------------------------------------------------------------ what is known of it

    @property
    def pid(self) -> int | None:
        """Process id of the kernel itself, where it has one here: not that of a wrapper around it."""
        if self._watch is not None and self._watch.pid is not None:
            return self._watch.pid
        return self._attached_pid if self._manager is None else getattr(self._manager.provisioner, "pid", None)

    @property
    def broken(self) -> KernelDied | None:
        """Why requests cannot be sent from here; None where they can, or where none was ever sent."""
        return self._dialogue.broken if self._dialogue is not None else None

    @property
    def alive(self) -> bool:
        """Whether requests can be sent: the kernel has not ended, nor is this another event loop or process."""
        return self._dialogue is not None and self._dialogue.broken is None

    @property
    def isolation(self) -> str:
        """The provisioner's isolation level."""
        if self._manager is None:
            return self._attached_isolation
        return str(getattr(self._manager.provisioner, "level", "unknown"))

    @property
    def last_words(self) -> str:
        """The end of what the process wrote to its standard output and error."""
        return str(self._words or "")[-800:]

    async def _is_alive(self) -> bool:
        if self._manager is not None:
            return bool(await self._manager.is_alive())
        if self._attached_pid is not None:
            try:
                os.kill(self._attached_pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                return True
        return True

    # ------------------------------------------------------------------ requests

    async def execute(
        self,
        code: str,
        on_output: Callable[[Message], None],
        *,
        silent: bool = False,
        buffers: Sequence[Buffer] = (),
        subshell: str | None = None,
    ) -> Message:
        """Run code and wait for its end. `on_output` gets each of its iopub messages. Raises KernelDied.

        The code finds `buffers` in `get_ipython().kernel.get_parent("shell")["buffers"]`; do not change them before it
        is done. Cancelling the wait does not stop the cell: `interrupt` does.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        header = {} if subshell is None else {"subshell_id": subshell}
        dialogue, provisioner = self._open(), self._provisioner
        look = dialogue.loop.call_later(_LOOK_SECONDS, getattr(provisioner, "look", lambda: None))
        try:
            return await dialogue.execute(content, on_output, buffers=buffers, header=header)
        finally:
            look.cancel()

    async def control(self, kind: str, content: Mapping[str, Any]) -> Message:
        """Send a request that is answered even while a cell runs, and wait for its reply. Raises KernelDied."""
        return await self._open().control(kind, content)

    def _open(self) -> Dialogue:
        if self._dialogue is None:
            raise KernelDied("the kernel was not started")
        return self._dialogue

    # ------------------------------------------------------------------ the end

    async def interrupt(self) -> None:
        """SIGINT to the kernel and its process group."""
        known = self._watch is not None and self._watch.pid is not None
        if not (known and self._signal(signal.SIGINT)) and self._manager is not None:
            with contextlib.suppress(Exception):  # it may be dying; the caller goes on to `stop`
                await self._manager.interrupt_kernel()

    def _signal(self, number: signal.Signals) -> bool:
        """To the process group where the kernel leads one, else to the kernel; False where neither may be done."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.pid is not None and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
                return True
        return self._watch is not None and self._watch.send_signal(number)

    @property
    def _provisioner(self) -> Any:
        return self._manager.provisioner if self._manager is not None else None

    def _explain(self) -> str:
        """Why the provisioner killed it; "" where it did not."""
        return str(getattr(self._provisioner, "why_killed", ""))

    def _kill(self) -> None:
        """It broke a rule: it goes now, and what is left of it with `stop`."""
        if self._watch is not None:
            self._watch.send_signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Kill the process group and close what is open. Safe to call twice. In a fork of its process it does nothing."""
        if os.getpid() != self._process:
            return
        on_stop, self._on_stop = self._on_stop, None
        if self._manager is None:
            self._signal(signal.SIGKILL)
        loop = self._dialogue.loop if self._dialogue is not None else None
        if loop is None or loop.is_closed() or loop is asyncio.get_running_loop():
            self._release()
        else:
            loop.call_soon_threadsafe(self._release)
        if on_stop is not None:
            await on_stop()
        if self._manager is not None:
            if self._manager.has_kernel:
                await self._manager.shutdown_kernel(now=True)
            self._manager.cleanup_ipc_files()

    def _release(self) -> None:
        if self._dialogue is not None:
            self._dialogue.fail(KernelDied("the session was closed"))
        if self._watch is not None:
            self._watch.close()
        if self._words is not None:
            self._words.close()
