"""What cells draw on, followed from statement to statement: where a value may come from that cannot be had again.

Guarantees: pure, bounded. A statement that draws on a source that is not pinned, or reads a name that such a one left changed, leaves
the names it writes "lost"; a plain assignment of anything else finds a name again. A cell is excused only by its own statements:
what it draws on and the lost names it reads. Modules are followed by their real names, functions into their bodies.
Does not guarantee: names made at run time, what two names of one object share, what a called function does to its arguments. There
an honest cell may be told to differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from kernel_agent.audit.sources import ENDS, FINALISERS, ORDER, Source, sources
from kernel_agent.audit.statements import Statement, statements, words_of
from kernel_agent.audit.verdicts import EXCERPT, Comparison
from kernel_agent.session.kernel_side import IMPORTS
from kernel_agent.types import Json

_MOST_BODIES = 50
"""Functions that are followed from one statement."""
_MOST_CODE = 5_000_000
"""Characters of code of a run that are read as Python; what comes after them counts with its words."""
_ADDRESS = re.compile(r"0x[0-9A-Fa-f]{6,12}")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a cell draws on.

    Attributes:
        why: why it may give something else; "" where it may not.
        order: why what it shows may come in another order.
        collected: why finalisers of earlier objects may speak in it.
        writes: all that it may leave changed.
        ends: whether it may end its kernel by itself.
    """

    sources: tuple[Source, ...]
    why: str
    order: str
    collected: str
    writes: frozenset[str]
    ends: bool

    def excuse(self, compared: Iterable[Comparison]) -> str:
        """Why what does not hold of these may be honest; "" where that is no reason for it."""
        failed = [item for item in compared if item.verdict.holds is False]
        order = self.order if all(map(_turned, failed)) else ""
        return self.why or order or (self.collected if all(map(_let_in, failed)) else "")


@dataclass
class Flow:
    """The cells so far. `header` is the trajectory's: it says what was pinned."""

    header: Mapping[str, Json]
    modules: dict[str, str] = field(default_factory=lambda: dict(IMPORTS))
    lost: dict[str, str] = field(default_factory=dict)
    unordered: dict[str, str] = field(default_factory=dict)
    collected: str = ""
    _read: int = 0
    _bodies: dict[str, Statement] = field(default_factory=dict)

    def cell(self, index: int, code: str) -> Drawn:
        """Take in one cell."""
        at, before = f"step {index + 1}", self.collected
        used: set[str] = set()
        written: set[str] = set()
        whys: dict[str, None] = {}  # of all statements: any may be the one that gives something else
        order = ""
        self._read += len(code)
        for bare in statements(code, self.modules) if self._read <= _MOST_CODE else [words_of(code)]:
            statement = self._with_bodies(bare)
            used |= statement.uses
            written |= statement.writes
            found = sources(statement.uses, self.header)
            free = [source for source in found if not source.pinned and source.name != ORDER]
            gone = sorted(statement.reads & self.lost.keys())
            told = "; ".join(f"{source.name} ({', '.join(source.words)}): {source.how}" for source in free)
            told = f"not pinned: {told}" if told else ""
            if not told and gone:
                told = f"{self.lost[gone[0]]}, and both use {', '.join(gone[:5])}"
            shuffled = next((source for source in found if source.name == ORDER), None)
            mixed = sorted(statement.reads & self.unordered.keys())
            turned = f"{ORDER} ({', '.join(shuffled.words)}): {shuffled.how}" if shuffled is not None else ""
            turned = turned or (self.unordered[mixed[0]] if mixed else "")
            if statement.uses & FINALISERS:
                self.collected = self.collected or f"{at} leaves work to the garbage collector"
            drew = (
                f"{at} drew on " + ", ".join(source.name for source in free)
                if free
                else told.partition(", and both")[0]
            )
            _mark(self.lost, statement, drew if told else "")
            _mark(self.unordered, statement, turned)
            if bare.runs_later:
                self._bodies.update(dict.fromkeys(bare.fresh, statement))
            else:
                whys |= {told: None} if told else {}
                order = order or turned
        return Drawn(
            sources=sources(used, self.header),
            why="; ".join(whys)[:600],
            order=order[:600],
            collected=before,
            writes=frozenset(written),
            ends=bool(used & ENDS),
        )

    def lose(self, gone: Iterable[str], why: str) -> None:
        """A cell that was stopped, or went another way, left these in a state that cannot be had again."""
        for name in gone:
            self.lost.setdefault(name, why[:300])

    def _with_bodies(self, statement: Statement) -> Statement:
        """The statement, and what the functions that it names do."""
        uses, reads, writes = set(statement.uses), set(statement.reads), set(statement.writes)
        followed: set[str] = set()
        todo = [name for name in statement.reads if name in self._bodies]
        while todo and len(followed) < _MOST_BODIES:
            name = todo.pop()
            if name not in followed:
                followed.add(name)
                body = self._bodies[name]
                uses |= body.uses
                reads |= body.reads
                writes |= body.writes - body.fresh
                todo += [inner for inner in body.reads if inner in self._bodies]
        return replace(statement, uses=frozenset(uses), reads=frozenset(reads), writes=frozenset(writes))


def _turned(item: Comparison) -> bool:
    """Whether two texts hold the same characters and addresses in another order, and both are whole."""
    one, other = (sorted(_ADDRESS.sub("0x", text)) for text in item.texts)
    return one == other and item.what in ("stdout", "stderr", "result", "text") and _whole(item)


def _let_in(item: Comparison) -> bool:
    """Whether one of two streams is the other with lines put in, and both are whole."""
    fewer, more = sorted((text.splitlines() for text in item.texts), key=len)
    rest = iter(more)
    return item.what in ("stdout", "stderr") and all(line in rest for line in fewer) and _whole(item)


def _whole(item: Comparison) -> bool:
    return max(map(len, item.texts)) <= EXCERPT


def _mark(marked: dict[str, str], statement: Statement, why: str) -> None:
    if why:
        for name in statement.writes:
            marked.setdefault(name, why[:300])
    else:
        for name in statement.fresh:
            marked.pop(name, None)
