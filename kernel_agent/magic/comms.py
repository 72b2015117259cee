"""Widget messages while a cell blocks.

A kernel handles one shell message at a time, so a click sent during a cell arrives when the cell has ended. JupyterLab 4.6 with
ipykernel 7 sends clicks to a subshell; elsewhere a cell that waits must look for them itself. `Comms.poll` takes what has come on
the shell channel, handles comm messages at once and holds all others, which are handed back in their order when the wait is
over. It knows ipykernel 6 and 7 from inside; where neither is found, nothing is taken and clicks wait for the cell's end.
"""

from __future__ import annotations

import contextlib
from typing import Any, Self

POLL_SECONDS = 0.02
"""How long a waiting cell sleeps between two looks."""

_COMM = ("comm_open", "comm_msg", "comm_close")


class Comms:
    """Handles comm messages from the main thread of a kernel whose cell waits; a context manager, `poll` in it."""

    def __init__(self, shell: Any) -> None:
        self._kernel: Any = getattr(shell, "kernel", None)
        self._stream = _main_stream(self._kernel)
        self._held: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is None:
            return
        held, self._held = self._held, []
        for message in held:
            self._stream._run_callback(self._stream._recv_callback, message)
        self._kernel.io_loop.add_callback(self._stream.flush)  # what came since is not announced again

    def poll(self) -> int:
        """Handle what has come; returns how many comm messages that were."""
        if self._stream is None:
            return 0
        import zmq

        handled = 0
        with contextlib.suppress(zmq.Again):
            while True:
                message = self._stream.socket.recv_multipart(zmq.NOBLOCK, copy=False)
                if self._is_comm(message):
                    self._handle(message)
                    handled += 1
                else:
                    self._held.append(message)
        return handled

    def _is_comm(self, message: Any) -> bool:
        session = self._kernel.session
        try:
            _, frames = session.feed_identities(message, copy=False)
            peeked = session.deserialize(frames, content=False, copy=False)
        except Exception:  # not for us to judge: the kernel says what is wrong with it
            return False
        return peeked["header"]["msg_type"] in _COMM

    def _handle(self, message: Any) -> None:
        kernel = self._kernel
        idents, frames = kernel.session.feed_identities(message, copy=False)
        parsed = kernel.session.deserialize(frames, content=True, copy=False)
        before = kernel.get_parent("shell")
        kernel._publish_status("busy", "shell", parent=parsed)
        try:
            getattr(kernel.comm_manager, parsed["header"]["msg_type"])(self._stream, idents, parsed)
        finally:
            kernel._publish_status("idle", "shell", parent=parsed)  # widgets send no more before this
            kernel._publish_status("busy", "shell", parent=before)


def _main_stream(kernel: Any) -> Any:
    """The stream that shell messages for the main thread come from; None where there is none that is known."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is None:
        return getattr(kernel, "shell_stream", None)
    pair = getattr(getattr(thread, "manager", None), "_shell_channel_to_main", None)
    return getattr(pair, "to_stream", None)
