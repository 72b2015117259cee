"""What forked children of the kernel's code print (`multiprocessing`, `os.fork`). Runs IN the kernel.

Upstream sends it through a TCP port of this machine, which a kernel without a network does not have; here it is a pair of
sockets that children inherit. Guarantees: a child's message is published whole or not at all; one over the system's limit of
a packet (about 200 kB) is lost, as are those a child sends faster than the kernel reads when it may not wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from ipykernel.iostream import IOPubThread
from tornado.ioloop import IOLoop

_MOST_BYTES = 1 << 20


class ChildOutput(IOPubThread):
    """ipykernel's thread that publishes, with another way in for forked children."""

    def _setup_pipe_in(self) -> None:
        thread: Any = self
        self._pipe_uuid = os.urandom(16)
        self._inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inside.setblocking(False)
        self._outside = _Outside(outside)
        thread.io_loop.add_handler(self._inside.fileno(), self._hear, IOLoop.READ)

    def _setup_pipe_out(self) -> tuple[_Outside, _Outside]:
        return self._outside, self._outside

    def _hear(self, descriptor: int, events: int) -> None:
        thread: Any = self
        with contextlib.suppress(BlockingIOError):
            while data := self._inside.recv(_MOST_BYTES):
                if frames := _split(data):
                    thread._handle_pipe_msg(frames)


class _Outside:
    """The children's end, with the part of a ZMQ socket and context that upstream uses."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send_multipart(self, frames: Sequence[bytes], *_: Any, **__: Any) -> None:
        """One message; silently not where it is too large."""
        parts = [bytes(frame) for frame in frames]
        head = struct.pack(f"!{len(parts) + 1}I", len(parts), *map(len, parts))
        with contextlib.suppress(OSError):
            self._end.send(head + b"".join(parts))

    def close(self) -> None:
        """It stays for the next message."""

    def term(self) -> None:
        """It stays for the next message."""


def _split(data: bytes) -> list[bytes]:
    """The frames of a message; none where it is no such message."""
    frames: list[bytes] = []
    with contextlib.suppress(struct.error):
        (count,) = struct.unpack_from("!I", data)
        at = 4 + 4 * count
        for length in struct.unpack_from(f"!{count}I", data, 4):
            frames.append(data[at : at + length])
            at += length
    return frames
