"""Which levels really work here: found by isolating a process at each and having it try what it may not do.

A program that is installed, or a kernel feature that is built in, proves nothing: a container's filter or AppArmor may refuse it. A
probe costs about as much as starting Python (0.1 s), and is made once in a process for each way.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kernel_agent.errors import KernelError
from kernel_agent.provisioners.sandbox import bwrap, container, seatbelt, users
from kernel_agent.provisioners.sandbox.prepare import clear, environment, prepare
from kernel_agent.provisioners.sandbox.readable import home_known
from kernel_agent.provisioners.sandbox.spawn import spawn
from kernel_agent.types import Isolation

_SECONDS = 20.0


class How(StrEnum):
    """What isolates."""

    OWN = "namespaces"
    BUBBLEWRAP = "bubblewrap"
    FILTERS = "landlock+seccomp"
    SEATBELT = "seatbelt"
    ENGINE = "container engine"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One way, tried. `detail`: what went wrong; `remedy`: what would help; both "" where it works."""

    level: Isolation
    how: How
    works: bool
    detail: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        said = "works" if self.works else f"{self.detail}. Remedy: {self.remedy}"
        return f"{self.level} by {self.how}: {said}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The level that kernels get, the way to it, and the probes that failed before one did not."""

    level: Isolation
    how: How
    refused: tuple[Probe, ...] = field(default=())

    @property
    def own_namespaces(self) -> bool:
        """Whether the kernel makes its namespaces itself: the only way to STRONG for a forked one."""
        return self.how is How.OWN

    @property
    def steps_down(self) -> str:
        """What was wanted and could not be had, for the user to be told once; "" where the best level works."""
        missed = [probe for probe in self.refused if probe.level is not self.level]
        return f"isolation is {self.level}: " + "; ".join(map(str, missed)) if missed else ""


_WAYS = {
    Isolation.STRONG: (How.OWN, How.BUBBLEWRAP),
    Isolation.MEDIUM: (How.FILTERS, How.SEATBELT),
    Isolation.CONTAINER: (How.ENGINE,),
}
_REMEDIES = {
    How.OWN: "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0; Ubuntu: "
    "kernel.apparmor_restrict_unprivileged_userns=0), or in a container run it with --security-opt seccomp=unconfined",
    How.BUBBLEWRAP: "install bubblewrap (apt install bubblewrap, dnf install bubblewrap)",
    How.FILTERS: "run Linux 6.12 or later with landlock among its LSMs (boot parameter lsm=landlock,...)",
    How.SEATBELT: "it is macOS's own",
    How.ENGINE: "start Docker or Podman, build the image (see kernel_agent.provisioners.sandbox.container) and name it in "
    "CODEVISION_CONTAINER_IMAGE",
}


def choose(wanted: str = "auto", namespaces: str = "auto") -> Choice:
    """The level for kernels: the strongest that works, or the wanted one.

    Args:
        wanted, namespaces: as `types.KernelOptions` has them.

    Raises KernelError, with each probe's result and its remedy, where the wanted level does not work here, or none does.
    """
    if wanted == Isolation.NONE:
        return Choice(level=Isolation.NONE, how=How.NOTHING)
    refused: list[Probe] = []
    for level, how in _ways(wanted, namespaces):
        tried = probe(level, how)
        if tried.works:
            choice = Choice(level=level, how=how, refused=tuple(refused))
            _tell(choice.steps_down)
            return choice
        refused.append(tried)
    results = "\n".join(f"  {tried}" for tried in refused)
    raise KernelError(
        f"no isolation ({wanted}) works here:\n{results}\n"
        "To run a model's code without isolation all the same, with all your rights: --unsafe-no-sandbox"
    )


def probes() -> list[Probe]:
    """Every way there is on this system, tried; the strongest first."""
    ways = _ways("auto", "auto")
    elsewhere = How.SEATBELT if sys.platform != "darwin" else None
    return [probe(level, how) for level, how in ways if how is not elsewhere]


def likely(wanted: str = "auto", namespaces: str = "auto") -> Choice:
    """What `choose` will most likely find, without trying anything: a kernel can be started while that is found out."""
    if wanted == Isolation.NONE:
        return Choice(level=Isolation.NONE, how=How.NOTHING)
    ways = _ways(wanted, namespaces)
    level, how = next((way for way in ways if not _missing(way[1])), ways[0])
    return Choice(level=level, how=how)


def _ways(wanted: str, namespaces: str) -> list[tuple[Isolation, How]]:
    """The ways to try, in order."""
    try:
        levels = [*_WAYS] if wanted == "auto" else [Isolation(wanted)]
    except ValueError:
        raise KernelError(f"isolation is auto, {', '.join(Isolation)}; not {wanted!r}") from None
    left_out = {"own": How.BUBBLEWRAP, "bubblewrap": How.OWN}.get(namespaces)
    return [(level, how) for level in levels for how in _WAYS[level] if how is not left_out]


@functools.cache
def _tell(steps_down: str) -> None:
    """Say it once."""
    if steps_down:
        logging.getLogger("kernel_agent").warning(steps_down)


@functools.cache
def probe(level: Isolation, how: How) -> Probe:
    """Try it, once in this process."""
    try:
        detail = _missing(how) or (_engine() if how is How.ENGINE else _trial(level, how))
    except (OSError, KernelError, ValueError, subprocess.SubprocessError) as error:
        detail = str(error)
    return Probe(level=level, how=how, works=not detail, detail=detail, remedy=_REMEDIES[how] if detail else "")


def _missing(how: How) -> str:
    """Why it need not be tried."""
    if how is How.ENGINE:
        return ""
    if (how is How.SEATBELT) != (sys.platform == "darwin"):
        return f"not on {sys.platform}"
    if how not in (How.SEATBELT,) and sys.platform != "linux":
        return f"not on {sys.platform}"
    if how is How.BUBBLEWRAP and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    return ""


def _engine() -> str:
    return container.unusable()


def _trial(level: Isolation, how: How) -> str:
    """What a process at this level can do that it may not, or why it could not be started; "" where it holds."""
    user = users.lease() if how is not How.SEATBELT else None
    with tempfile.TemporaryDirectory(prefix="cv-", dir=_home()) as secrets:
        secret = Path(secrets) / "secret"
        secret.write_text("of the host")
        with tempfile.TemporaryDirectory(prefix="cv-") as name, socket.socket(socket.AF_UNIX) as server:
            secret.parent.chmod(0o755)
            address = f"{name}/host"
            server.bind(address)
            server.listen()
            folder, scratch = Path(name) / "run", Path(name) / "scratch"
            folder.mkdir(mode=0o700)
            scratch.mkdir(mode=0o700)
            Path(name).chmod(0o711)
            try:
                targets = {"secret": str(secret), "socket": address, "pid": os.getpid()}
                return _run(level, how, folder, scratch, user, json.dumps(targets))
            finally:
                users.give_back(user)
                clear(Path(name))


def _run(level: Isolation, how: How, folder: Path, scratch: Path, user: int | None, targets: str) -> str:
    plan = prepare(
        level, connection_file=folder / "none", scratch=scratch, namespaces=how is How.OWN, user=user, memory_mb=1024
    )
    words = [sys.executable, "-m", "kernel_agent.provisioners.sandbox.trial", plan.to_json()]
    if how is How.BUBBLEWRAP:
        words = [*bwrap.prefix(plan), *words]
    if how is How.SEATBELT:
        words = [*seatbelt.prefix(plan), *words]
    pipe = subprocess.PIPE
    env = environment(plan, os.environ)
    process = spawn(words, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        said, wrong = process.communicate(targets + "\n", _SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS:.0f} s"
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        return _last_line(wrong) or f"it ended with status {process.returncode}"
    found: Sequence[str] = json.loads(said)
    return ", ".join(found)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _home() -> Path | None:
    """Where secrets usually are; None: the folder for temporary files."""
    return Path.home() if home_known() and Path.home().is_dir() and os.access(Path.home(), os.W_OK) else None
