"""The ways a kernel is started that the cases are run in."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kernel_agent.types import Isolation, KernelOptions


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A level of isolation and a way to get it.

    `without_bubblewrap`: the host process has a PATH on which there is no `bwrap`.
    """

    name: str
    level: Isolation
    fork: bool
    without_bubblewrap: bool = False

    def options(self, memory_mb: int = 4096) -> KernelOptions:
        """What its sessions are started with."""
        return KernelOptions(isolation=self.level, fork=self.fork, memory_mb=memory_mb)

    def path(self) -> str:
        """PATH of the host process."""
        if self.without_bubblewrap:
            return str(Path(sys.executable).parent)
        return os.environ.get("PATH", os.defpath)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="strong-plain", level=Isolation.STRONG, fork=False),
        Profile(name="strong-own", level=Isolation.STRONG, fork=False, without_bubblewrap=True),
        Profile(name="strong-fork", level=Isolation.STRONG, fork=True),
        Profile(name="medium-plain", level=Isolation.MEDIUM, fork=False),
        Profile(name="medium-fork", level=Isolation.MEDIUM, fork=True),
        Profile(name="container", level=Isolation.CONTAINER, fork=False),
        Profile(name="none", level=Isolation.NONE, fork=False),
    )
}
