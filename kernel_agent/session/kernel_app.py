"""The kernel's own launcher: `python -m kernel_agent.session.kernel_app -f CONNECTION_FILE`.

An ordinary ipykernel with the settings that jupyter-facts demand of one driven by a program: no message is dropped when
the reader is slow (`SNDHWM=0`; the reader always drains), file descriptors are not captured (text of child processes
would turn up in a later cell), no history database, no colours in tracebacks.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import zmq
from ipykernel import kernelapp
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session, json_default, json_packer, orjson_packer
from traitlets import default
from traitlets.config import Config

from kernel_agent.session.child_output import ChildOutput
from kernel_agent.session.kernel_side import MIME_PICTURE


def pack(message: Any) -> bytes:
    """A message as JSON. A lone surrogate, which no encoder takes, becomes a question mark instead of no message at all."""
    # orjson is strict (surrogates, integers over 64 bits): then what jupyter_client falls back to
    with contextlib.suppress(TypeError, ValueError):
        return orjson_packer(message)
    try:
        return json_packer(message)
    except UnicodeEncodeError:
        return json.dumps(message, default=json_default, ensure_ascii=False).encode("utf-8", "replace")


class PictureSession(Session):
    """A session that sends a picture's pixels as a buffer of the message that shows it: not encoded, and not copied again.

    A picture becomes one of the kernel's images here, as it leaves, so that what was captured and never shown takes no name.
    """

    takes_pictures = True

    def send(self, stream: Any, msg_or_type: Any, content: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Upstream's, with the picture in the content taken apart; nothing is sent where it is refused."""
        whole = msg_or_type.get("content") if isinstance(msg_or_type, dict) else content
        data = whole.get("data") if isinstance(whole, dict) else None
        if isinstance(whole, dict) and isinstance(data, dict) and MIME_PICTURE in data:
            taken = data[MIME_PICTURE].send()
            if taken is None:
                return None
            shown, metadata, pixels = taken
            whole = {**whole, "data": shown, "metadata": {**whole.get("metadata", {}), **metadata}}
            if isinstance(msg_or_type, dict):
                msg_or_type = {**msg_or_type, "content": whole, "buffers": [pixels]}
            else:
                content, kwargs["buffers"] = whole, [pixels]
        return super().send(stream, msg_or_type, content, *args, **kwargs)


PARENT_SECONDS = 0.5
"""How often a kernel looks whether the process that started it is still there."""


class ParentPoller(threading.Thread):
    """Ends a kernel whose parent is gone, and the processes its code started with it (upstream's leaves those)."""

    def __init__(self, parent: int) -> None:
        super().__init__(name="parent", daemon=True)
        self.parent = parent

    def run(self) -> None:
        """Look until the parent is another process."""
        while os.getppid() == self.parent:
            time.sleep(PARENT_SECONDS)
        if os.getpgrp() == os.getpid():  # else the group is somebody else's
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


class KernelApp(IPKernelApp):
    """ipykernel with our settings that are no options.

    Its iopub socket has no high-water mark, its session takes pictures, its children end with it when its parent is gone, and
    its process may become a branch of itself.
    """

    @default("session")
    def _make_session(self) -> Session:
        return PictureSession(parent=self)

    def init_poller(self) -> None:
        """Watch the parent; upstream's way where it is not known, or gone already."""
        if sys.platform != "win32" and self.parent_handle not in (0, 1) and self.parent_handle == os.getppid():
            self.poller = ParentPoller(self.parent_handle)
        else:
            super().init_poller()  # type: ignore[no-untyped-call]

    def init_iopub(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Bind iopub after lifting the limit on queued messages."""
        context.setsockopt(zmq.SNDHWM, 0)
        if sys.platform == "linux":  # elsewhere there are no such pairs
            upstream: Any = kernelapp
            upstream.IOPubThread = ChildOutput
        super().init_iopub(context)  # type: ignore[no-untyped-call]

    def _end_control(self) -> None:
        """End the control thread first: upstream ends the iopub thread first, for which the other may wait for 10 s."""
        thread: Any = self.control_thread
        if thread is not None and thread.is_alive():
            thread.stop()
            thread.join(5)

    def start(self) -> None:
        """Run until told to stop; a fork of this process that is to be a kernel starts here again, with nothing above it."""
        atexit.register(self._end_control)
        super().start()  # type: ignore[no-untyped-call]
        branch: Any = sys.modules.get("kernel_agent.session.branch_process")  # loaded by the first fork
        while branch is not None and branch.reopen(self):
            super().start()  # type: ignore[no-untyped-call]
        if branch is not None:
            branch.end(self)


def main() -> None:
    """Run the kernel until it is told to stop."""
    config = Config()
    config.Session.packer = "kernel_agent.session.kernel_app.pack"
    config.IPKernelApp.capture_fd_output = False
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.IPythonKernel._execute_sleep = 0.0
    KernelApp.launch_instance(config=config)


if __name__ == "__main__":
    main()
