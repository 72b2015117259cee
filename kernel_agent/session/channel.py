"""One live kernel process and the messages to and from it.

Guarantees: every message is read as it comes, a cell gets only messages whose parent is its own request, it is done on
its reply AND its idle, and a kernel that dies ends every wait at once (within half a second where the system has no
pidfds). A kernel that breaks a rule of the wire or a limit is killed at once, and every wait ends with `KernelDied`,
which names rule, value and limit; no other kernel notices. No file that the kernel can write to is read or written here. Six descriptors or fewer.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from kernel_agent.errors import KernelError
from kernel_agent.session.lifeline import LastWords, Watch
from kernel_agent.session.messages import JsonLimits, Message, Wire
from kernel_agent.session.zmtp import Buffer, Closed, Connection, HandshakeError, Limits, WireError, connect
from kernel_agent.types import KernelOptions

_RETRY_SECONDS = 0.004
_PARTING_SECONDS = 0.05
"""How long after a kernel's end its last messages are still taken."""


class KernelDied(Exception):
    """The kernel process ended, or was killed because it broke a rule of the wire, while something was waited for.

    `value` and `limit` are set where the rule is a limit.
    """

    def __init__(self, what: str, *, value: int | None = None, limit: int | None = None) -> None:
        self.value, self.limit = value, limit
        super().__init__(what)

    @property
    def facts(self) -> dict[str, Any]:
        """What an event tells of it."""
        numbers = {"value": self.value, "limit": self.limit} if self.limit is not None else {}
        return {"reason": str(self), **numbers}


@dataclass(frozen=True, kw_only=True)
class ChannelLimits:
    """What a kernel may send. Messages and bytes count from the last request on, those that belong to none included."""

    messages: int = 250_000
    bytes: int = 1 << 30
    wire: Limits = field(default_factory=Limits)
    json: JsonLimits = field(default_factory=JsonLimits)


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
        return {"fork": self.options.fork} if self.options.provisioner == "codevision" else {}


class _Manager(AsyncKernelManager):
    """Starts and stops the process. Makes no socket of its own unless it is asked to send something."""

    async def _async_post_start_kernel(self, **options: Any) -> None:
        assert self.provisioner is not None
        await self.provisioner.post_launch(**options)


class _Pending:
    """A request under way."""

    def __init__(self, kind: str, on_output: Callable[[Message], None]) -> None:
        self.reply_kind = kind.removesuffix("_request") + "_reply"
        self.on_output = on_output
        self.reply: Message | None = None
        self.idle = False
        loop = asyncio.get_running_loop()
        self.replied: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[Message] = loop.create_future()
        self.done.add_done_callback(_retrieve)

    def settle(self) -> None:
        """Done with both, in whatever order they came."""
        if self.reply is not None and self.idle and not self.done.done():
            self.done.set_result(self.reply)


class KernelChannel:
    """Starts a kernel, runs requests on it, stops it. Not restartable: make a new one."""

    def __init__(self, options: KernelOptions, *, limits: ChannelLimits = ChannelLimits()) -> None:
        specs = _Specs()
        specs.options = options
        file = Path(tempfile.gettempdir()) / f"cv-{secrets.token_hex(16)}.json"
        self._manager: AsyncKernelManager | None = _Manager(
            kernel_name="codevision", kernel_spec_manager=specs, connection_file=str(file)
        )
        self._reset(limits)

    def _reset(self, limits: ChannelLimits) -> None:
        self.limits = limits
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: dict[str, _Pending] = {}
        self._broken: KernelDied | None = None
        self._welcome = False
        self._messages = self._bytes = 0
        self._connections: list[Connection] = []
        self._watch: Watch | None = None
        self._words: LastWords | None = None
        self.connection: Mapping[str, Any] = {}
        self._attached: tuple[int | None, str, Callable[[], Awaitable[None]] | None] = (None, "unknown", None)

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
        """A channel to a kernel that somebody else started, as of its connection file's contents.

        Args:
            pid: its process, to watch and to signal; the listener at the other end of the shell socket by default.
            isolation: its level.
            on_stop: called when the channel is stopped, after SIGKILL.
            seconds: how long it may take to answer. Raises KernelError when it takes longer.
        """
        channel = cls.__new__(cls)
        channel._manager = None
        channel._reset(limits)
        channel._attached = (pid, isolation, on_stop)
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
                f"The kernel did not answer within {seconds:.0f} s ({error or 'no answer'}). "
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
        self._loop = asyncio.get_running_loop()
        key = info["key"]
        self._wire = Wire(key if isinstance(key, bytes) else str(key).encode(), limits=self.limits.json)
        if info.get("signature_scheme", "hmac-sha256") != "hmac-sha256" or not self._wire.key:
            raise KernelError("A kernel without a key, or with another signature than hmac-sha256, is not talked to.")
        # iopub first: its subscription has to be in place before the first request
        self._iopub = await self._open(info, "iopub")
        self._shell, self._control = await asyncio.gather(self._open(info, "shell"), self._open(info, "control"))
        pid, listener = self._attached[0], self._shell.peer_pid
        if pid is not None and listener not in (None, pid):
            raise KernelDied(f"process {listener} listens where the kernel, process {pid}, should")
        self._watch = Watch(pid or listener, self._ended, self._is_alive)
        await self._handshake()

    async def _open(self, info: Mapping[str, Any], name: str) -> Connection:
        """Connect as soon as the kernel listens."""
        port, ip = info[f"{name}_port"], info["ip"]
        address = f"ipc://{ip}-{port}" if info.get("transport") == "ipc" else f"tcp://{ip}:{port}"
        tries = 0
        while True:
            try:
                connection = await connect(
                    address,
                    "SUB" if name == "iopub" else "DEALER",
                    on_message=lambda frames: self._take(frames, iopub=name == "iopub"),
                    on_lost=self._lost,
                    limits=self.limits.wire,
                )
            except HandshakeError:
                raise
            except (OSError, Closed):
                tries += 1
                if tries % 50 == 0 and not await self._is_alive():
                    raise KernelDied("the kernel process ended before it listened") from None
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._connections.append(connection)
            return connection

    async def _handshake(self) -> None:
        """Ask until both channels answer: iopub subscribes late, and only ipykernel 7 tells when it has."""
        while True:
            pending = self._send(self._shell, "kernel_info_request", {}, lambda message: None)
            either: list[asyncio.Future[Any]] = [pending.done, pending.replied]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([pending.done], timeout=0.1)
            if pending.done.done():
                pending.done.result()
                return

    @property
    def last_words(self) -> str:
        """The end of what the process wrote to its standard output and error."""
        return str(self._words or "")[-800:]

    @property
    def pid(self) -> int | None:
        """Process id of the kernel itself, where it has one here: not that of a wrapper around it."""
        if self._watch is not None and self._watch.pid is not None:
            return self._watch.pid
        return self._attached[0] if self._manager is None else getattr(self._manager.provisioner, "pid", None)

    @property
    def broken(self) -> KernelDied | None:
        """Why the channel is of no more use; None where it is."""
        return self._broken

    @property
    def alive(self) -> bool:
        """Whether requests can be sent from here: the kernel has not ended, nor is this another loop or process."""
        return bool(self._connections) and self._unusable() is None

    def _unusable(self) -> KernelDied | None:
        if self._broken is not None:
            return self._broken
        if os.getpid() != self._process:
            return KernelDied("the kernel belongs to the process that this one was forked from")
        if self._loop is not asyncio.get_running_loop():
            return KernelDied("the kernel belongs to another event loop")
        return None

    @property
    def isolation(self) -> str:
        """The provisioner's isolation level."""
        if self._manager is None:
            return self._attached[1]
        return str(getattr(self._manager.provisioner, "level", "unknown"))

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
        pending = self._send(self._shell, "execute_request", content, on_output, buffers=buffers, header=header)
        return await asyncio.shield(pending.done)

    async def control(self, kind: str, content: Mapping[str, Any]) -> Message:
        """Send a request that is answered even while a cell runs, and wait for its reply. Raises KernelDied."""
        pending = self._send(self._control, kind, content, lambda message: None)
        pending.idle = True
        return await asyncio.shield(pending.done)

    def _send(
        self,
        connection: Connection,
        kind: str,
        content: Mapping[str, Any],
        on_output: Callable[[Message], None],
        *,
        buffers: Sequence[Buffer] = (),
        header: Mapping[str, Any] = {},
    ) -> _Pending:
        if (why := self._unusable()) is not None:
            raise why
        msg_id, frames = self._wire.request(kind, content, buffers=buffers, header=header)
        pending = self._pending[msg_id] = _Pending(kind, on_output)
        self._messages = self._bytes = 0
        connection.send(frames)
        return pending

    def _take(self, frames: list[Buffer], *, iopub: bool) -> None:
        """One message. A WireError ends its connection, and so the kernel."""
        self._messages += 1
        self._bytes += sum(map(len, frames))
        if self._messages > self.limits.messages:
            raise WireError("messages since the last request", value=self._messages, limit=self.limits.messages)
        if self._bytes > self.limits.bytes:
            raise WireError("bytes since the last request", value=self._bytes, limit=self.limits.bytes)
        envelope = self._wire.open(frames, topic=iopub)
        if iopub and envelope.kind == "iopub_welcome":
            self._welcome = True
            for other in self._pending.values():
                if other.reply_kind == "kernel_info_reply":
                    other.idle = True
                    other.settle()
        pending = self._pending.get(envelope.parent)
        if pending is None:
            return
        message = envelope.message()
        if not iopub:
            if envelope.kind == pending.reply_kind and pending.reply is None:
                pending.reply = message
                pending.idle = pending.idle or (self._welcome and envelope.kind == "kernel_info_reply")
                pending.replied.set_result(None)
        elif envelope.kind == "status":
            pending.idle = pending.idle or message["content"]["execution_state"] == "idle"
        else:
            try:
                pending.on_output(message)
            except Exception as error:  # not the kernel's fault: it goes to whoever waits
                pending.done.set_exception(error)
        pending.settle()
        if pending.done.done():
            del self._pending[envelope.parent]

    # ------------------------------------------------------------------ the end

    def _ended(self) -> None:
        """The process is gone; the connections may still hold what it said."""
        asyncio.get_running_loop().call_later(_PARTING_SECONDS, self._fail, KernelDied("the kernel process ended"))

    def _lost(self, error: WireError) -> None:
        if isinstance(error, Closed):
            died = KernelDied(f"the kernel's connection was lost: {error}")
            asyncio.get_running_loop().call_later(2 * _PARTING_SECONDS, self._fail, died)
            return
        self._fail(KernelDied(f"the kernel broke a rule of the wire: {error}", value=error.value, limit=error.limit))
        if self._watch is not None:
            self._watch.send_signal(signal.SIGKILL)

    def _fail(self, error: KernelDied) -> None:
        if self._broken is None:
            self._broken = error
            self._close_connections()
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
        self._pending.clear()

    async def _is_alive(self) -> bool:
        if self._manager is not None:
            return bool(await self._manager.is_alive())
        try:
            os.kill(self._attached[0] or os.getpid(), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    async def interrupt(self) -> None:
        """SIGINT to the kernel and its process group."""
        if self._watch is not None and self._watch.pid is not None:
            self._signal(signal.SIGINT)
        elif self._manager is not None:
            with contextlib.suppress(Exception):  # it may be dying; the caller goes on to `stop`
                await self._manager.interrupt_kernel()

    def _signal(self, number: signal.Signals) -> None:
        """To the process group where the kernel leads one, else to the kernel."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.pid is not None and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
                return
        if self._watch is not None:
            self._watch.send_signal(number)

    async def stop(self) -> None:
        """Kill the process group and close what is open. Safe to call twice. In a fork of its process it does nothing."""
        if os.getpid() != self._process:
            return
        loop = self._loop
        if loop is None or loop.is_closed() or loop is asyncio.get_running_loop():
            self._release()
        else:
            loop.call_soon_threadsafe(self._release)
        if self._manager is None:
            _, isolation, on_stop = self._attached
            self._attached = (None, isolation, None)
            if on_stop is not None:
                await on_stop()
            return
        if self._manager.has_kernel:
            await self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_ipc_files()

    def _release(self) -> None:
        self._fail(KernelDied("the session was closed"))
        self._close_connections()
        if self._manager is None:
            self._signal(signal.SIGKILL)
        if self._watch is not None:
            self._watch.close()
        if self._words is not None:
            self._words.close()

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()


def _retrieve(future: asyncio.Future[Message]) -> None:
    """Mark a failure as seen: nobody may be waiting any more."""
    if not future.cancelled():
        future.exception()
