"""Where a stock kernel of a test listens: on sockets that are files.

jupyter_client chooses TCP ports, lets them go and names them to the kernel, which takes them a second later; on a busy machine
another process may have one of them by then, and the kernel dies at its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def socket_files() -> Iterator[dict[str, str]]:
    """Options of a KernelManager. The folder is not a test's own: the path of a socket has at most 107 bytes."""
    with TemporaryDirectory(prefix="k", ignore_cleanup_errors=True) as folder:
        yield {"transport": "ipc", "connection_file": str(Path(folder, "k.json")), "ip": str(Path(folder, "k"))}
