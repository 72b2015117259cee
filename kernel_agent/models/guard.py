"""Keeps a server process from outliving its owner. Run as a script: `python guard.py PIPE_FD COMMAND...`.

The owner holds the other end of the pipe. When it closes, by whatever death of the owner, the command's process group
gets SIGTERM, ten seconds later SIGKILL, and so do processes that left the group. Only the standard library is used, so
that any Python can run this file. On Linux the command also dies when this guard is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _kill_children() -> None:
    """Kill what left the group: as the subreaper, this process is its parent now."""
    for _ in range(20):
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def main(pipe: int, command: list[str]) -> int:
    """Run `command` until it ends or the pipe closes; its exit code, or 128 + signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def before() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    process = subprocess.Popen(command, process_group=0, preexec_fn=before)
    while process.poll() is None:
        if select.select([pipe], [], [], 0.2)[0] and not os.read(pipe, 1):
            _kill_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            break
    _kill_group(process.pid, signal.SIGKILL)
    code = process.wait()
    _kill_children()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
