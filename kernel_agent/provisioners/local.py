"""A kernel as an ordinary child process that takes its whole process group with it when killed. No isolation."""

from __future__ import annotations

import contextlib
import os
import signal

from jupyter_client.provisioning import LocalProvisioner as JupyterLocalProvisioner


class LocalProvisioner(JupyterLocalProvisioner):
    """jupyter_client's local provisioner, but `kill` reaches the children the code started.

    Not reached: children that made a session of their own (isolation contains those).
    """

    isolation = "none"

    async def kill(self, restart: bool = False) -> None:
        """SIGKILL to the kernel's process group."""
        if self.process and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        await super().kill(restart=restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Whatever of the group outlived the kernel goes too."""
        if self.pid and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        await super().cleanup(restart=restart)
