"""What one kernel process applies to itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from kernel_agent.types import Isolation

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Paths are absolute. Contains no secret: it may be passed on a command line.

    Attributes:
        level: STRONG or MEDIUM.
        namespaces: whether the process makes its own (False: bubblewrap made them, or the level has none).
        folder: the run folder: the connection file and the ipc sockets, nothing else.
        connection_file: the file in it that the kernel reads and may not change.
        scratch: holds work/, ipython/, tmp/ and matplotlib/. STRONG: a path inside the sandbox, on a sized tmpfs; MEDIUM: a
            folder of the host's.
        readable: files and folders to read and execute from, without links on the way and none within another.
        links: links, and what they say, by which those are also found.
        fonts: folder with matplotlib's list of fonts, which saves a kernel the search for them; "" for none.
        user: uid and gid to become (started as root), None to stay.
        keep_reading: as root only: keep the capability to read what the new uid may not (an interpreter under /root);
            MEDIUM alone needs it, where Landlock then decides.
        memory_bytes: address space beyond what the process has when it is sealed.
        processes: processes and threads at once, where they can be counted for this kernel alone.
        file_bytes: size of one file.
        tmp_bytes: size of everything written, STRONG only (one tmpfs for scratch, /tmp and /dev/shm).
        tmp_files: number of files there.
        open_files: descriptors of one process.
    """

    level: Isolation
    folder: str
    connection_file: str
    scratch: str
    readable: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    namespaces: bool = False
    fonts: str = ""
    user: int | None = None
    keep_reading: bool = False
    memory_bytes: int = 2048 * MIB
    processes: int = 256
    file_bytes: int = 256 * MIB
    tmp_bytes: int = 512 * MIB
    tmp_files: int = 16384
    open_files: int = 1024

    @property
    def work(self) -> str:
        """The kernel's working directory and home."""
        return f"{self.scratch}/work"

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders in scratch."""
        return tuple(f"{self.scratch}/{name}" for name in ("work", "ipython", "tmp", "matplotlib"))

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError at an unknown field."""
        values: dict[str, Any] = json.loads(text)
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"a sandbox plan has no field {', '.join(sorted(unknown))}")
        links = tuple((link, target) for link, target in values["links"])
        return cls(
            **values | {"level": Isolation(values["level"]), "readable": tuple(values["readable"]), "links": links}
        )
