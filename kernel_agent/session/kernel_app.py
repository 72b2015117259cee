"""The kernel's own launcher: `python -m kernel_agent.session.kernel_app -f CONNECTION_FILE`.

An ordinary ipykernel with the settings that jupyter-facts demand of one driven by a program: no message is dropped when
the reader is slow (`SNDHWM=0`; the reader always drains), file descriptors are not captured (text of child processes
would turn up in a later cell), no history database, no colours in tracebacks.
"""

from __future__ import annotations

import zmq
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config


class KernelApp(IPKernelApp):
    """ipykernel whose iopub socket has no high-water mark."""

    def init_iopub(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Bind iopub after lifting the limit on queued messages."""
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)


def main() -> None:
    """Run the kernel until it is told to stop."""
    config = Config()
    config.IPKernelApp.capture_fd_output = False
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.IPythonKernel._execute_sleep = 0.0
    KernelApp.launch_instance(config=config)


if __name__ == "__main__":
    main()
