"""The kernel's own launcher: `python -m kernel_agent.session.kernel_app -f CONNECTION_FILE`.

An ordinary ipykernel with the settings that jupyter-facts demand of one driven by a program: no message is dropped when
the reader is slow (`SNDHWM=0`; the reader always drains), file descriptors are not captured (text of child processes
would turn up in a later cell), no history database, no colours in tracebacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import json_default, json_packer, orjson_packer
from traitlets.config import Config


def pack(message: Any) -> bytes:
    """A message as JSON. A lone surrogate, which no encoder takes, becomes a question mark instead of no message at all."""
    # orjson is strict (surrogates, integers over 64 bits): then what jupyter_client falls back to
    with contextlib.suppress(TypeError, ValueError):
        return orjson_packer(message)
    try:
        return json_packer(message)
    except UnicodeEncodeError:
        return json.dumps(message, default=json_default, ensure_ascii=False).encode("utf-8", "replace")


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
    """ipykernel whose iopub socket has no high-water mark, and whose children end with it when its parent is gone."""

    def init_poller(self) -> None:
        """Watch the parent; upstream's way where it is not known, or gone already."""
        if sys.platform != "win32" and self.parent_handle not in (0, 1) and self.parent_handle == os.getppid():
            self.poller = ParentPoller(self.parent_handle)
        else:
            super().init_poller()  # type: ignore[no-untyped-call]

    def init_iopub(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Bind iopub after lifting the limit on queued messages."""
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)  # type: ignore[no-untyped-call]


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
