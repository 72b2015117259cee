"""How a test starts a stock kernel: on sockets that are files.

jupyter_client chooses TCP ports, lets them go and names them to the kernel, which takes them a second later; on a busy machine
another process may have one of them by then, and the kernel dies at its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def sockets(folder: Path) -> dict[str, str]:
    """Options of a KernelManager: sockets in a folder of this kernel alone, whose path leaves them room (107 bytes)."""
    return {"transport": "ipc", "ip": str(folder / "k")}


def options(folder: Path) -> list[str]:
    """The same for a command line."""
    return [f"--KernelManager.{name}={value}" for name, value in sockets(folder).items()]


@contextmanager
def socket_files() -> Iterator[dict[str, str]]:
    """The same with a folder of its own, and the connection file in it."""
    with TemporaryDirectory(prefix="k", ignore_cleanup_errors=True) as folder:
        yield {**sockets(Path(folder)), "connection_file": str(Path(folder, "k.json"))}
