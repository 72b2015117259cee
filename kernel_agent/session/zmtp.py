"""A small ZMTP 3 client (RFC 23, RFC 37) over asyncio: DEALER and SUB, NULL mechanism, Unix sockets and TCP.

Guarantees: whatever the peer sends, a connection holds at most `Limits.message_bytes` plus one read; one read is at most
64 KiB, or the rest of the frame under way; a peer that breaks the protocol or a limit, or does not finish the handshake
in time, costs its own connection only, and `on_lost` is told which rule, value and limit it was. A large frame is read
straight into its own buffer. Does not guarantee: that the peer reads what is sent (it waits here, uncopied, until the
connection ends), authentication or encryption, or a reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

Buffer = bytes | bytearray | memoryview
Kind = Literal["DEALER", "SUB"]

_MORE, _LONG, _COMMAND = 1, 2, 4
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_PEERS = {"DEALER": (b"ROUTER", b"DEALER", b"REP"), "SUB": (b"PUB", b"XPUB")}
_READ = 1 << 16
_LARGE = 1 << 15
"""A frame of this size and more gets a buffer of its own and is sent without a copy."""
_WRITE = 1 << 20
_COMMAND_BYTES = 1 << 12
_PINGS_A_SECOND = 1000


class WireError(Exception):
    """The peer broke a rule. `value` and `limit` are set where the rule is a limit."""

    def __init__(self, what: str, *, value: int | None = None, limit: int | None = None) -> None:
        self.what, self.value, self.limit = what, value, limit
        super().__init__(what if limit is None else f"{what}: {value} is over the limit of {limit}")


class HandshakeError(WireError):
    """The peer is not the ZMTP socket that was expected, or did not say so in time."""


class Closed(WireError):
    """The peer closed the connection, or it was closed here."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one peer may make this process hold. Bytes are those of the frames' bodies."""

    frame_bytes: int = 1 << 28
    message_frames: int = 64
    message_bytes: int = 1 << 28
    handshake_seconds: float = 30.0


class Connection(asyncio.BufferedProtocol):
    """One connected socket; made by `connect`. Belongs to the event loop it was made in.

    `on_message` gets each message's frames; a WireError it raises closes the connection. `on_lost` is called once, with
    the reason.
    """

    def __init__(
        self,
        kind: Kind,
        on_message: Callable[[list[Buffer]], None],
        on_lost: Callable[[WireError], None],
        limits: Limits,
    ) -> None:
        self.kind, self.limits = kind, limits
        self.error: WireError | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message, self._on_lost = on_message, on_lost
        self._transport: asyncio.Transport | None = None
        self._greeted = self._paused = False
        self._minor = 1
        self._rest = b""  # the beginning of a small frame
        self._large: bytearray | None = None  # a large frame under way
        self._flags = self._filled = 0
        self._frames: list[Buffer] = []
        self._bytes = 0
        self._outgoing: deque[Buffer] = deque()
        self._pings: tuple[float, int] = (0.0, 0)

    # ------------------------------------------------------------------ life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet and introduce ourselves; the peer's turn need not be waited for."""
        self._transport = cast("asyncio.Transport", transport)
        properties = _property(b"Socket-Type", self.kind.encode())
        self._transport.write(_GREETING + _command(b"READY", properties))

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._end(Closed("the peer closed the connection" + (f" ({exc})" if exc else "")))

    def close(self) -> None:
        """Close at once; what was not sent yet is not."""
        self._end(Closed("closed here"))

    def _end(self, error: WireError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._frames, self._large, self._rest = [], None, b""
        self._outgoing.clear()
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # its event loop is closed: so are the sockets, once collected
                self._transport.abort()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # seen: `connect` may have been cancelled
        else:
            self._on_lost(error)

    @property
    def peer_pid(self) -> int | None:
        """Process id of whoever listens at the other end of a Unix socket; None where the system does not tell."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        if sock is None or sock.family != getattr(socket, "AF_UNIX", None) or not hasattr(socket, "SO_PEERCRED"):
            return None
        with contextlib.suppress(OSError):
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return pid or None  # 0: not in our PID namespace
        return None

    # ------------------------------------------------------------------ sending

    def send(self, frames: Sequence[Buffer]) -> None:
        """Queue a message. Large frames are not copied: do not change them. Raises the reason where the peer is gone."""
        if self.error is not None:
            raise self.error
        small = bytearray()
        for left, frame in zip(range(len(frames) - 1, -1, -1), frames, strict=True):
            view = memoryview(frame).cast("B")
            small += _head(_MORE if left else 0, len(view))
            if len(view) < _LARGE:
                small += view
            else:
                self._outgoing.append(small)
                self._outgoing.extend(view[start : start + _WRITE] for start in range(0, len(view), _WRITE))
                small = bytearray()
        self._outgoing.append(small)
        self._pump()

    def _pump(self) -> None:
        while self._outgoing and not self._paused and self._transport is not None:
            self._transport.write(self._outgoing.popleft())

    def pause_writing(self) -> None:
        """The peer reads more slowly than we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        self._pump()

    # ------------------------------------------------------------------ receiving

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next read goes: into the large frame under way, else behind the beginning of a small one."""
        if self._large is not None:
            return memoryview(self._large)[self._filled :]
        scratch, kept = _scratch(), len(self._rest)
        scratch[:kept] = self._rest
        return memoryview(scratch)[kept : kept + _READ]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read apart into frames."""
        try:
            if self._large is None:
                end = len(self._rest) + nbytes
                self._rest = b""
                self._parse(bytes(memoryview(_scratch())[:end]))
                return
            self._filled += nbytes
            if self._filled == len(self._large):
                frame, self._large = self._large, None
                self._frame(self._flags, frame)
        except WireError as error:
            self._end(error)

    def _parse(self, data: bytes) -> None:
        position, end = 0, len(data)
        if not self._greeted:
            if end < len(_GREETING):
                self._rest = data
                return
            self._greet(data[: len(_GREETING)])
            position = len(_GREETING)
        while end - position >= 2 and self.error is None:
            flags = data[position]
            if flags > 6 or flags & 5 == 5:
                raise WireError(f"a frame with the flags {flags:#x}, which ZMTP does not know")
            body = position + 2
            if flags & _LONG:
                body = position + 9
                if body > end:
                    break
                size = int.from_bytes(data[position + 1 : body])
            else:
                size = data[position + 1]
            if body + size <= end:
                position = body + size
                self._frame(flags, data[body:position])
                continue
            self._admit(flags, size)
            if size < _LARGE:
                break
            self._large, self._flags, self._filled = bytearray(size), flags, end - body
            self._large[: self._filled] = data[body:]
            return
        if self.error is None:
            self._rest = data[position:]

    def _admit(self, flags: int, size: int) -> None:
        """Refuse a frame before any memory is set aside for it."""
        if flags & _COMMAND:
            if size > _COMMAND_BYTES:
                raise WireError("bytes of a ZMTP command", value=size, limit=_COMMAND_BYTES)
        elif size > self.limits.frame_bytes:
            raise WireError("bytes of a frame", value=size, limit=self.limits.frame_bytes)
        elif self._bytes + size > self.limits.message_bytes:
            raise WireError("bytes of a message", value=self._bytes + size, limit=self.limits.message_bytes)
        elif len(self._frames) >= self.limits.message_frames:
            raise WireError("frames of a message", value=len(self._frames) + 1, limit=self.limits.message_frames)

    def _frame(self, flags: int, frame: Buffer) -> None:
        self._admit(flags, len(frame))
        if flags & _COMMAND:
            self._obey(bytes(frame))
            return
        if not self.ready.done():
            raise HandshakeError("a message came before the handshake")
        self._frames.append(frame)
        self._bytes += len(frame)
        if not flags & _MORE:
            frames, self._frames, self._bytes = self._frames, [], 0
            self._on_message(frames)

    # ------------------------------------------------------------------ handshake and commands

    def _greet(self, greeting: bytes) -> None:
        if greeting[0] != 0xFF or not greeting[9] & 1 or greeting[10] < 3:
            raise HandshakeError("the peer does not speak ZMTP 3")
        if (mechanism := greeting[12:32].rstrip(b"\0")) != b"NULL":
            raise HandshakeError(f"the peer asks for the security mechanism {mechanism!r}; NULL is spoken here")
        self._greeted, self._minor = True, greeting[11] if greeting[10] == 3 else 1

    def _obey(self, body: bytes) -> None:
        name = body[1 : 1 + body[0]] if body else b""
        data = body[1 + len(name) :]
        if name == b"ERROR":
            raise WireError(f"the peer refuses us: {data[1:201]!r}")
        if not self.ready.done():
            if name != b"READY":
                raise HandshakeError(f"the command {name[:20]!r} came where READY was due")
            kind = _properties(data).get(b"socket-type", b"")
            if kind not in _PEERS[self.kind]:
                raise HandshakeError(
                    f"the peer's socket is of type {kind[:20]!r}; a {self.kind} needs one of {_PEERS[self.kind]}"
                )
            self.ready.set_result(None)
        elif name == b"PING":
            self._pong(data)
        elif name != b"PONG":
            raise WireError(f"the command {name[:20]!r}, which has no place here")

    def _pong(self, data: bytes) -> None:
        now, (since, count) = asyncio.get_running_loop().time(), self._pings
        self._pings = (since, count + 1) if now - since < 1 else (now, 1)
        if self._pings[1] > _PINGS_A_SECOND:
            raise WireError("pings in a second", value=self._pings[1], limit=_PINGS_A_SECOND)
        if len(data) > 18:
            raise WireError("bytes of a ping's context", value=len(data) - 2, limit=16)
        if self._transport is not None and not self._paused and not self._outgoing:  # who does not read gets no answers
            self._transport.write(_command(b"PONG", data[2:]))

    def subscribe(self, topic: bytes = b"") -> None:
        """Ask for messages that begin with `topic`. The publisher takes it in when it next looks, which it may tell."""
        if self._minor >= 1 and self._transport is not None:
            self._transport.write(_command(b"SUBSCRIBE", topic))
        else:
            self.send([b"\x01" + topic])


async def connect(
    address: str,
    kind: Kind,
    *,
    on_message: Callable[[list[Buffer]], None],
    on_lost: Callable[[WireError], None],
    limits: Limits = Limits(),
) -> Connection:
    """Connect to `ipc://PATH` or `tcp://HOST:PORT` and finish the handshake; a SUB is subscribed to everything.

    Raises OSError where nobody listens and HandshakeError where the peer is not what it should be or is slow.
    """
    loop = asyncio.get_running_loop()
    connection = Connection(kind, on_message, on_lost, limits)
    try:
        async with asyncio.timeout(limits.handshake_seconds):
            if path := re.fullmatch("ipc://(.+)", address):
                await loop.create_unix_connection(lambda: connection, path[1])
            elif place := re.fullmatch(r"tcp://\[?(.+?)\]?:(\d+)", address):
                await loop.create_connection(lambda: connection, place[1], int(place[2]))
            else:
                raise ValueError(f"{address!r} is not an address: use ipc://PATH or tcp://HOST:PORT.")
            await connection.ready
    except TimeoutError as error:
        connection.close()
        limit = limits.handshake_seconds
        raise HandshakeError(f"no ZMTP handshake within {limit:.1f} s at {address}") from error
    except BaseException:
        connection.close()
        raise
    if kind == "SUB":
        connection.subscribe()
    return connection


class _Shared(threading.local):
    """A thread's scratch memory: a read and what is done with it are one step, so its connections share it."""

    def __init__(self) -> None:
        self.scratch = bytearray(_READ + _LARGE + 16)


_shared = _Shared()


def _scratch() -> bytearray:
    return _shared.scratch


def _head(flags: int, size: int) -> bytes:
    """A frame's flags and size."""
    return bytes((flags, size)) if size < 256 else struct.pack(">BQ", flags | _LONG, size)


def _command(name: bytes, data: bytes) -> bytes:
    body = bytes((len(name),)) + name + data
    return _head(_COMMAND, len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + struct.pack(">I", len(value)) + value


def _properties(data: bytes) -> dict[bytes, bytes]:
    """READY's properties, their names in lower case."""
    found: dict[bytes, bytes] = {}
    while data:
        name, rest = data[1 : 1 + data[0]], data[1 + data[0] :]
        size = int.from_bytes(rest[:4])
        if len(rest) < 4 + size:
            raise HandshakeError("READY is cut off")
        found[name.lower()], data = rest[4 : 4 + size], rest[4 + size :]
    return found
