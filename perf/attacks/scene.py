"""One profile's sessions in one host process, and what is seen of them from outside."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kernel_agent import Session, Status
from kernel_agent.types import (
    Budget,
    CellResult,
    ErrorOutput,
    Isolation,
    StreamOutput,
    TextOutput,
)
from perf.attacks.host import Peaks, descendants, namespace, status_line, watching
from perf.attacks.profiles import Profile
from perf.attacks.world import Victim, World, new_secret

MIB = 1 << 20
BUDGET = Budget(cell_seconds=60, images=200, output_chars=20_000)
LATE_SECONDS = 90.0
"""How much later than its deadline a cell may be over, its kernel restarted: on a machine that has other work to do."""
LOW_MEMORY_MB = 512
"""Memory of the kernels that resources are attacked in."""


class NotIsolated(Exception):
    """The kernel shows no sign of the isolation that it is said to have."""


class Scene:
    """What an attack is given. The shared session is for attacks that leave it whole; others take `fresh`."""

    def __init__(self, profile: Profile, world: World) -> None:
        self.profile, self.world = profile, world
        self._shared: Session | None = None
        self._other: Session | None = None
        self._victim: Victim | None = None
        self.other_secret = new_secret()
        self.claimed = True  # by this profile, of the case that runs

    # ------------------------------------------------------------------ sessions

    @property
    def session(self) -> Session:
        """The shared session, started."""
        if self._shared is None:
            self._shared = Session(kernel=self.profile.options(), budget=BUDGET).__enter__()
        return self._shared

    @property
    def other(self) -> Session:
        """Another session of the same host, which holds `other_secret` in the variable `kept`."""
        if self._other is None:
            self._other = Session(kernel=self.profile.options(), budget=BUDGET).__enter__()
            self._other.run(f"kept = {self.other_secret!r}")
        return self._other

    @property
    def victim(self) -> Victim:
        """A process outside, of the user that the host sees the kernel's code run as."""
        if self._victim is None:
            self._victim = Victim(self.kernel_uid())
        return self._victim

    @contextlib.contextmanager
    def fresh(self, images: tuple[Any, ...] = (), *, low_memory: bool = False, **options: Any) -> Iterator[Session]:
        """A session of its own, started; closed at the end."""
        kernel = self.profile.options(LOW_MEMORY_MB if low_memory else 4096)
        with Session(images, kernel=kernel, budget=BUDGET, **options) as session:
            yield session

    def run(self, code: str, *, seconds: float = 60.0, session: Session | None = None, **values: Any) -> CellResult:
        """Run an attack with `values` bound before it."""
        bound = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        return (session or self.session).run(bound + code, seconds=seconds)

    def leak(self, code: str, *guarded: str, **values: Any) -> str:
        """Run an attack on the shared session; what is wrong where a guarded secret comes out."""
        text = said(self.run(code, **values))
        return "the secret was read" if any(secret in text for secret in guarded) else ""

    def tidy(self) -> str:
        """After a case: what is wrong with the shared session or the other one. A damaged session is replaced."""
        problems = []
        for name in ("_shared", "_other"):
            session: Session | None = getattr(self, name)
            if session is None:
                continue
            damaged = any(cell.status is Status.KILLED for cell in session.cells)
            code, right = ("6 * 7", "42") if name == "_shared" else ("kept", repr(self.other_secret))
            if said(session.run(code)) != right:
                problems.append("the session" if name == "_shared" else "another session")
                damaged = True
            if damaged or name == "_shared":
                session.cells.clear()  # a replay would attack again
            if damaged:
                session.__exit__(None, None, None)
                setattr(self, name, None)
        return f"{' and '.join(problems)} did not go on rightly" if problems else ""

    def close(self) -> None:
        """Close everything."""
        for session in (self._shared, self._other):
            if session is not None:
                session.__exit__(None, None, None)
        if self._victim is not None:
            self._victim.close()

    def comes_to_hold(self, what: Callable[[], bool]) -> bool:
        """Whether it does: within a minute where it is claimed; soon where it is not, and is expected not to."""
        end = time.monotonic() + (60 if self.claimed else 2)
        while not what():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    # ------------------------------------------------------------------ from outside

    def pids(self, session: Session) -> list[int]:
        """The session's process and all its descendants, as the host numbers them."""
        pid = session._channel.pid if session._channel else None
        return [] if pid is None else [pid, *descendants(pid)]

    def inner_pid(self, session: Session) -> int:
        """The process that runs the cells, as the host numbers it."""
        inner = said(session.run("import os; print(os.getpid())")).strip()
        for pid in reversed(self.pids(session)):
            with contextlib.suppress(OSError, IndexError):
                if status_line(pid, "NSpid").split()[-1] == inner and "kernel_app" in _words(pid):
                    return pid
        for pid in reversed(self.pids(session)):  # a fork has the command line of its parent
            with contextlib.suppress(OSError, IndexError):
                if status_line(pid, "NSpid").split()[-1] == inner:
                    return pid
        raise NotIsolated("the process that runs the cells cannot be found")

    def kernel_uid(self) -> int:
        """The user that the host sees the code run as; this one's where a container engine runs it."""
        if self.profile.level is Isolation.CONTAINER:
            return os.getuid()
        return int(status_line(self.inner_pid(self.session), "Uid").split()[0])

    def check_isolated(self) -> None:
        """Raise NotIsolated where the kernel shows no sign, from outside, of what its level is made of."""
        level = self.profile.level
        if self.session.isolation != level:
            raise NotIsolated(f"asked for {level}, got a kernel that says {self.session.isolation}")
        if level in (Isolation.NONE, Isolation.CONTAINER):
            return
        pid = self.inner_pid(self.session)
        if status_line(pid, "Seccomp") != "2" or status_line(pid, "NoNewPrivs") != "1":
            raise NotIsolated("no seccomp filter on the process that runs the cells")
        if level is Isolation.STRONG and any(
            namespace(pid, kind) == namespace("self", kind) for kind in ("pid", "net", "mnt", "ipc")
        ):
            raise NotIsolated("the kernel shares a namespace with the host")

    @contextlib.contextmanager
    def watching(self, session: Session | None = None) -> Iterator[Peaks]:
        """What the machine, and a session's processes, use meanwhile."""
        with watching(self.pids(session)[0] if session else None) as peaks:
            yield peaks


def said(cell: CellResult) -> str:
    """All text of a cell."""
    parts = []
    for output in cell.outputs:
        if isinstance(output, (StreamOutput, TextOutput)):
            parts.append(output.text)
        elif isinstance(output, ErrorOutput):
            parts += [output.ename, output.evalue, *output.traceback]
    return "\n".join(parts)


def recovers(session: Session) -> str:
    """What is wrong with a session that has to go on after an attack."""
    session.cells.clear()
    text = said(session.run("6 * 7"))
    return "" if text == "42" else f"the next cell gave {text[:200]!r}"


def marker() -> str:
    """Seconds for `sleep` that no other process sleeps: by them a process is found on the host."""
    return f"39{secrets.randbelow(10**7):07}"


def marked(mark: str) -> list[int]:
    """Host process ids with the marker on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and mark in _words(int(entry.name)).split("\0"):
            found.append(int(entry.name))
    return found


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def digits(text: str) -> list[int]:
    """The whole numbers in a text."""
    return [int(word) for word in re.findall(r"\d+", text)]
