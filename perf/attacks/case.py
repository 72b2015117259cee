"""What a case is: an attack, what must hold, and the levels of isolation that claim it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kernel_agent.types import Isolation

if TYPE_CHECKING:
    from perf.attacks.scene import Scene


class Result(StrEnum):
    """How a case ended."""

    BLOCKED = "blocked"  # it had no effect
    CONTAINED = "contained"  # it cost its own kernel at most, within bounds, and the session goes on
    REFUSED = "refused"  # not taken, with a message that says why
    NOT = "NOT"  # a claim is broken
    NOT_CLAIMED = "NOT CLAIMED"


EVERYWHERE = frozenset(Isolation)
SANDBOXED = EVERYWHERE - {Isolation.NONE}
SEALED = frozenset({Isolation.STRONG, Isolation.MEDIUM})
"""Levels whose kernels filter their own system calls; a container's filter is its engine's."""
NAMESPACED = frozenset({Isolation.STRONG, Isolation.CONTAINER})
NOWHERE: frozenset[Isolation] = frozenset()

Attack = Callable[["Scene"], str]
"""Runs and judges the attack; returns why the claim is broken, or "" where it holds."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack.

    Attributes:
        name: as in the table.
        group: the module it is in.
        holds: the result where the claim holds.
        claimed: levels that claim it.
        must: what must hold there, in words.
        attack: see `Attack`.
        harmful: it could hurt the machine: never run where it is not claimed, nor on a kernel that only says it is isolated.
        control: on an unprotected kernel it gets through, which shows that the judge can tell.
        seconds: the whole case; past it the host process counts as hung. No case needs a tenth of it.
        slow: it takes long, and is tried where there is time.
    """

    name: str
    group: str
    holds: Result
    claimed: frozenset[Isolation]
    must: str
    attack: Attack
    harmful: bool = False
    control: bool = False
    seconds: float = 240.0
    slow: bool = False


_cases: dict[str, Case] = {}


def case(
    name: str,
    holds: Result,
    claimed: frozenset[Isolation],
    *,
    harmful: bool = False,
    control: bool | None = None,
    seconds: float = 240.0,
    slow: bool = False,
) -> Callable[[Attack], Attack]:
    """Make the decorated function a case; its docstring is what must hold."""

    def add(attack: Attack) -> Attack:
        assert name not in _cases, name
        assert attack.__doc__, name
        _cases[name] = Case(
            name=name,
            group=attack.__module__.rpartition(".")[2],
            holds=holds,
            claimed=claimed,
            must=attack.__doc__,
            attack=attack,
            harmful=harmful,
            control=Isolation.NONE not in claimed and not harmful if control is None else control,
            seconds=seconds,
            slow=slow,
        )
        return attack

    return add


def all_cases() -> Mapping[str, Case]:
    """Every case by name, in the order of the modules and within them."""
    from perf.attacks import cases

    for group in cases.GROUPS:
        importlib.import_module(f"{cases.__name__}.{group}")
    assert {module.name for module in pkgutil.iter_modules(cases.__path__)} == set(cases.GROUPS)
    return _cases
