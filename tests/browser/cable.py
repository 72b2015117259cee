"""A cable between browser and server that can be pulled out and put back: a TCP forwarder."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Cable:
    """Forwards its `port` to another one of this machine, while it is not cut."""

    def __init__(self, target: int) -> None:
        self._target, self._cut, self._lock = target, False, threading.Lock()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and let none come up."""
        with self._lock:
            self._cut = True
            self._break()

    def mend(self) -> None:
        """Let connections come up again."""
        self._cut = False

    def close(self) -> None:
        """The end."""
        self.cut()
        self._listener.close()

    def _break(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:  # none comes up while all are being broken
                    if self._cut:
                        near.close()
                        continue
                    far = socket.create_connection(("127.0.0.1", self._target))
                    self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(target: int) -> Iterator[Cable]:
    """A cable to a port."""
    made = Cable(target)
    try:
        yield made
    finally:
        made.close()
