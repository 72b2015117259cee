"""What a pool of kernels has done and how long it took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

KEPT = 1000
"""How many of the latest durations percentiles are taken over."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Durations in seconds: `count` and `total` of all, the others of the latest `KEPT`; 0 where there are none."""

    count: int = 0
    total: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PoolMetrics:
    """One moment of a pool. `started == kernels + killed` at every moment.

    Attributes:
        leased: slots given out; `kernels` of them or warm are alive, or being killed.
        warm: idle kernels ready to be leased.
        waiting: callers in the queue for a slot.
        started, failed_starts: kernels that came up, and that did not.
        restarts: kernels a lease got after its first one.
        replaced: warm kernels that were found dead or did not answer.
        killed: kernels ended, those that had died by themselves too.
        leases: slots given back.
        refused: callers who got no slot: the queue was full, or their time in it was up.
        start: from the start of a process to its first answer.
        queue: from asking for a slot to having one (those refused or cancelled not counted).
        run: from having a slot to giving it back.
    """

    leased: int
    kernels: int
    warm: int
    waiting: int
    started: int
    failed_starts: int
    restarts: int
    replaced: int
    killed: int
    leases: int
    refused: int
    start: Times
    queue: Times
    run: Times


@dataclass(eq=False)
class Durations:
    """Collects what `Times` tells."""

    count: int = 0
    total: float = 0.0
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.total += seconds
        self.latest.append(seconds)

    def times(self) -> Times:
        """The numbers so far (percentiles by nearest rank)."""
        ordered = sorted(self.latest)
        if not ordered:
            return Times()

        def rank(part: float) -> float:
            return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

        return Times(
            count=self.count, total=self.total, p50=rank(0.5), p90=rank(0.9), p99=rank(0.99), longest=ordered[-1]
        )
