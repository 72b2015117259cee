"""The private folder a kernel meets its host in: its sockets, its own copy of the connection file, its working folder, its IPython profile.

A front end chooses TCP and a connection file among those of the user's other kernels; a kernel in a sandbox has neither a
network nor that folder. So the manager is moved to sockets in a folder of this kernel alone, before its connection file
is written, and the front end, which asks the manager or reads its file, goes there as well.

Guarantees: the folder is its owner's alone (0700) and short enough for the address of a socket; nothing of an earlier
kernel is in it when a new one starts, links it may have planted among them; it goes with the manager, or with this
process. Where ZMQ has no `ipc` (Windows) there are no such sockets, and the manager keeps its own addresses.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ADDRESS_CHARS = 107
"""Of a Unix socket's path, without the final zero: sys/un.h of Linux; macOS has 103."""
_LONGEST_NAME = len("/cv-12345678/run/b12345678-12345")


class RunFolder:
    """One kernel's folder. `close` removes it; so does its end as an object, or that of the process that made it.

    Attributes:
        path: the whole.
        meeting: the part for sockets and the connection file, and nothing else.
        scratch: the part that an ordinary process may write to; a kernel with namespaces of its own has another.
    """

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        if len(os.fsencode(place)) + _LONGEST_NAME > _ADDRESS_CHARS - 4:
            place = "/tmp"
        self.path = Path(tempfile.mkdtemp(prefix="cv-", dir=place))
        self.meeting, self.scratch = self.path / "run", self.path / "own"
        self.close = weakref.finalize(self, _remove, self.path, os.getpid())

    @property
    def connection_file(self) -> Path:
        """The kernel's own copy."""
        return self.meeting / "kernel.json"

    @property
    def work(self) -> Path:
        """The working folder of a kernel that is given none."""
        return self.scratch / "work"

    @property
    def ipython(self) -> Path:
        """For IPYTHONDIR."""
        return self.scratch / "ipython"

    def move_in(self, manager: Any) -> None:
        """Empty the folder, and give the manager addresses in it. It may have a connection file, but no kernel."""
        shutil.rmtree(self.path)
        for part in (self.path, self.meeting, self.scratch, self.work):
            part.mkdir(0o700)  # refuses what another put there in between
        if sys.platform == "win32":
            return
        address = str(self.meeting / "k")
        if (manager.transport, manager.ip) != ("ipc", address):
            manager.cleanup_connection_file()  # one with other addresses
            manager.transport, manager.ip, manager.cache_ports = "ipc", address, False

    def hand_over(self, manager: Any, command: Sequence[str]) -> list[str]:
        """Give the kernel a copy of the manager's connection file; returns its command line with that in its place."""
        self.connection_file.touch(0o600, exist_ok=False)
        self.connection_file.write_bytes(Path(manager.connection_file).read_bytes())
        theirs = os.path.realpath(manager.connection_file)  # as the manager writes it
        return [str(self.connection_file) if argument == theirs else argument for argument in command]


def kernel_behind(manager: Any, launched: int) -> int | None:
    """Process id, as seen from here, of the kernel: whoever listens at the manager's shell address.

    It is the launched process, or a descendant of it where that is a launcher that stays (a sandbox's). Anyone else is
    not believed: what runs in the folder may have put a link to somebody's socket there. None where nobody listens yet,
    or this system does not tell.
    """
    if manager.transport != "ipc" or not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)
        asking.connect(f"{manager.ip}-{manager.shell_port}")
        found, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return found if launched in _line_of(found) else None
    return None


def _line_of(pid: int) -> list[int]:
    """The process and its ancestors. Raises OSError where one of them ended in the meantime."""
    line = []
    while pid > 0:
        line.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return line


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of the host leaves it alone
        shutil.rmtree(path, ignore_errors=True)
