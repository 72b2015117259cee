"""The machine and its processes as /proc tells them."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
SAMPLE_SECONDS = 0.05


@dataclass(kw_only=True)
class Peaks:
    """Largest rise over the beginning, in MiB where it is no count.

    Attributes:
        processes: of the machine.
        shared_mb: the machine's memory in tmpfs, memory files and shared maps.
        tree_mb: largest sum of the proportional memory of the processes watched, not a rise.
        disk_mb, files: taken on the disk that holds /tmp.
        own_mb: of this process.
    """

    processes: int = 0
    shared_mb: float = 0
    tree_mb: float = 0
    disk_mb: float = 0
    files: int = 0
    own_mb: float = 0


def status_line(pid: int | str, name: str) -> str:
    """A line of /proc/PID/status. Raises OSError where the process is gone."""
    with Path(f"/proc/{pid}/status").open() as lines:
        for line in lines:
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    return ""


def namespace(pid: int | str, kind: str) -> str:
    """A namespace's name; empty where it cannot be seen."""
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    return ""


def descendants(pid: int) -> list[int]:
    """Ids of all processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    open_ = [pid]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def proportional_mb(pid: int) -> float:
    """A process's memory, its part of what it shares with others; 0 where it is gone or may not be looked at."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0


def meminfo() -> dict[str, int]:
    """/proc/meminfo in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


@contextlib.contextmanager
def watching(root: int | None = None) -> Iterator[Peaks]:
    """Sample the machine until the end of the block, and the process `root` with all below it."""
    peaks, over = Peaks(), threading.Event()
    memory, files, count = meminfo(), os.statvfs("/tmp"), _processes()
    disk = shutil.disk_usage("/tmp").used
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    own = int(status_line("self", "VmRSS").split()[0])

    def sample() -> None:
        now, stat = meminfo(), os.statvfs("/tmp")
        peaks.processes = max(peaks.processes, _processes() - count)
        peaks.shared_mb = max(peaks.shared_mb, (now["Shmem"] - memory["Shmem"]) / 1024)
        if root is not None:
            peaks.tree_mb = max(peaks.tree_mb, sum(map(proportional_mb, (root, *descendants(root)))))
        peaks.disk_mb = max(peaks.disk_mb, (shutil.disk_usage("/tmp").used - disk) / MIB)
        peaks.files = max(peaks.files, files.f_ffree - stat.f_ffree)
        peaks.own_mb = max(peaks.own_mb, (int(status_line("self", "VmHWM").split()[0]) - own) / 1024)

    def loop() -> None:
        while not over.wait(SAMPLE_SECONDS):
            sample()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()
        sample()


def _processes() -> int:
    return sum(entry.name.isdigit() for entry in Path("/proc").iterdir())
