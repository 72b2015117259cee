"""The ways a kernel is started that the cases are run in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernel_agent.types import Isolation, KernelOptions


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A level of isolation and a way to get it; the fields are those of `KernelOptions`."""

    name: str
    level: Isolation
    fork: bool
    namespaces: Literal["auto", "own", "bubblewrap"] = "auto"

    def options(self, memory_mb: int = 4096) -> KernelOptions:
        """What its sessions are started with."""
        return KernelOptions(isolation=self.level, fork=self.fork, namespaces=self.namespaces, memory_mb=memory_mb)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="strong-bubblewrap", level=Isolation.STRONG, fork=False, namespaces="bubblewrap"),
        Profile(name="strong-plain", level=Isolation.STRONG, fork=False, namespaces="own"),
        Profile(name="strong-fork", level=Isolation.STRONG, fork=True),
        Profile(name="medium-plain", level=Isolation.MEDIUM, fork=False),
        Profile(name="medium-fork", level=Isolation.MEDIUM, fork=True),
        Profile(name="container", level=Isolation.CONTAINER, fork=False),
        Profile(name="none", level=Isolation.NONE, fork=False),
    )
}
