"""Requests to one kernel and the messages that belong to each.

Guarantees: a request gets only messages whose parent is itself, and is done on its reply AND its idle; second replies,
messages of other parents and requests for input are dropped. When the kernel breaks a rule of the wire or a limit, or
its connections end, every wait ends with `KernelDied`, which names rule, value and limit. No other kernel notices, and
none keeps the event loop for longer than one read (64 KiB, or a part of one large frame).

A dialogue belongs to the event loop and the process it was opened in: in others it is not usable.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernel_agent.errors import KernelError
from kernel_agent.session.messages import JsonLimits, Message, Wire
from kernel_agent.session.zmtp import Buffer, Closed, Connection, HandshakeError, Limits, WireError, connect

_RETRY_SECONDS = 0.004
_DYING_SECONDS = 1.0
"""How long after a connection was lost its kernel's end is waited for, which tells more."""
_PARTING_SECONDS = 0.05
"""How long after a kernel's end its last messages are still taken, where its sockets stay open in a child of its own."""


class KernelDied(Exception):
    """The kernel ended, or was given up because it broke a rule of the wire, while something was waited for.

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


class Dialogue:
    """What goes to and from one kernel.

    Args:
        info: contents of its connection file.
        limits: what it may send.
        on_offence: called where it broke a rule: it cannot be trusted any more.
        explain: asked why the process ended; "" where nobody knows.
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        limits: ChannelLimits,
        on_offence: Callable[[], None],
        explain: Callable[[], str] = lambda: "",
    ) -> None:
        key = info["key"]
        self._wire = Wire(key if isinstance(key, bytes) else str(key).encode(), limits=limits.json)
        if info.get("signature_scheme", "hmac-sha256") != "hmac-sha256" or not self._wire.key:
            raise KernelError("A kernel without a key, or with another signature than hmac-sha256, is not talked to.")
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self._info, self._on_offence, self._explain = info, on_offence, explain
        self._process = os.getpid()
        self._connections: dict[str, Connection] = {}
        self._pending: dict[str, _Pending] = {}
        self._broken: KernelDied | None = None
        self._welcome = False
        self._ended = ""
        self._messages = self._bytes = 0

    async def open(self, is_alive: Callable[[], Awaitable[bool]]) -> None:
        """Connect as soon as the kernel listens; `is_alive` is asked now and then while it does not.

        Raises KernelDied, or HandshakeError where something else listens.
        """
        await self._connect("iopub", is_alive)  # first: its subscription has to be there before the first request
        await asyncio.gather(self._connect("shell", is_alive), self._connect("control", is_alive))

    async def _connect(self, name: str, is_alive: Callable[[], Awaitable[bool]]) -> None:
        port, ip, iopub = self._info[f"{name}_port"], self._info["ip"], name == "iopub"
        address = f"ipc://{ip}-{port}" if self._info.get("transport") == "ipc" else f"tcp://{ip}:{port}"
        tries = 0
        while True:
            try:
                self._connections[name] = await connect(
                    address,
                    "SUB" if iopub else "DEALER",
                    on_message=lambda frames: self._take(frames, iopub=iopub),
                    on_lost=self._lost,
                    limits=self.limits.wire,
                )
            except HandshakeError:
                raise
            except (OSError, Closed):
                tries += 1
                if tries % 50 == 0 and not await is_alive():
                    raise KernelDied("the kernel process ended before it listened") from None
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def greet(self) -> None:
        """Ask until both channels answer: iopub subscribes late, and only ipykernel 7 tells when it has."""
        while True:
            pending = self._send("shell", "kernel_info_request", {}, lambda message: None)
            either: list[asyncio.Future[Any]] = [pending.done, pending.replied]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([pending.done], timeout=0.1)
            if pending.done.done():
                pending.done.result()
                return

    @property
    def peer_pid(self) -> int | None:
        """Process id of the kernel itself, where the system tells it."""
        shell = self._connections.get("shell")
        return shell.peer_pid if shell else None

    @property
    def broken(self) -> KernelDied | None:
        """Why no request can be sent from here; None where one can."""
        if self._broken is not None:
            return self._broken
        if os.getpid() != self._process:
            return KernelDied("the kernel belongs to the process that this one was forked from")
        if self.loop is not asyncio.get_running_loop():
            return KernelDied("the kernel belongs to another event loop")
        for connection in self._connections.values():
            if connection.error is not None:  # its end is told to those who wait in a moment
                return KernelDied(f"the kernel's connection was lost: {connection.error}")
        return None

    # ------------------------------------------------------------------ requests

    async def execute(
        self,
        content: Mapping[str, Any],
        on_output: Callable[[Message], None],
        *,
        buffers: Sequence[Buffer] = (),
        header: Mapping[str, Any] = {},
    ) -> Message:
        """Send an execute request and wait for its end. `on_output` gets each of its iopub messages. Raises KernelDied."""
        pending = self._send("shell", "execute_request", content, on_output, buffers=buffers, header=header)
        return await asyncio.shield(pending.done)

    async def control(self, kind: str, content: Mapping[str, Any]) -> Message:
        """Send a request that is answered even while a cell runs, and wait for its reply. Raises KernelDied."""
        pending = self._send("control", kind, content, lambda message: None)
        pending.idle = True
        return await asyncio.shield(pending.done)

    def _send(
        self,
        channel: str,
        kind: str,
        content: Mapping[str, Any],
        on_output: Callable[[Message], None],
        *,
        buffers: Sequence[Buffer] = (),
        header: Mapping[str, Any] = {},
    ) -> _Pending:
        if (why := self.broken) is not None:
            raise why
        msg_id, frames = self._wire.request(kind, content, buffers=buffers, header=header)
        pending = self._pending[msg_id] = _Pending(kind, on_output)
        self._messages = self._bytes = 0
        self._connections[channel].send(frames)
        return pending

    def _take(self, frames: list[Buffer], *, iopub: bool) -> None:
        """One message. A WireError ends its connection, and so the dialogue."""
        self._messages += 1
        self._bytes += sum(map(len, frames))
        if self._messages > self.limits.messages:
            raise WireError("messages since the last request", value=self._messages, limit=self.limits.messages)
        if self._bytes > self.limits.bytes:
            raise WireError("bytes since the last request", value=self._bytes, limit=self.limits.bytes)
        envelope = self._wire.open(frames, topic=iopub)
        if iopub and envelope.kind == "iopub_welcome":
            self._welcomed()
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
                if not pending.done.done():
                    pending.done.set_exception(error)
        pending.settle()
        if pending.done.done():
            self._pending.pop(envelope.parent, None)

    def _welcomed(self) -> None:
        """The subscription is in place: what asked for that need not wait for an idle that came before it."""
        self._welcome = True
        for pending in self._pending.values():
            if pending.reply_kind == "kernel_info_reply":
                pending.idle = True
                pending.settle()

    # ------------------------------------------------------------------ the end

    def ended(self) -> None:
        """The process is gone; the connections may still hold what it said."""
        why = self._explain()
        self._ended = f"the kernel process ended ({why})" if why else "the kernel process ended"
        self._part(self._ended)

    def _lost(self, error: WireError) -> None:
        if isinstance(error, Closed):
            self._part(f"the kernel's connection was lost: {error}")
            return
        self.fail(KernelDied(f"the kernel broke a rule of the wire: {error}", value=error.value, limit=error.limit))
        self._on_offence()

    def _part(self, why: str) -> None:
        """End when all was heard, or after a moment: a process takes a while to go after its connections."""
        if self._ended and all(connection.error is not None for connection in self._connections.values()):
            self.fail(KernelDied(self._ended))
        elif self._broken is None:
            pause = _PARTING_SECONDS if self._ended else _DYING_SECONDS
            self.loop.call_later(pause, self.fail, KernelDied(why))

    def fail(self, error: KernelDied) -> None:
        """End every wait and close the connections. The first reason stays."""
        if self._broken is None:
            self._broken = error
            for connection in self._connections.values():
                connection.close()
        pending, self._pending = self._pending, {}
        for request in pending.values():
            if not request.done.done():
                request.done.set_exception(error)


def _retrieve(future: asyncio.Future[Message]) -> None:
    """Mark a failure as seen: nobody may be waiting any more."""
    if not future.cancelled():
        future.exception()
