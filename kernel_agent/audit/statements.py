"""What a cell's code uses, reads and leaves changed, statement by statement.

Guarantees: pure, bounded, and on the side of caution. Names of modules, and of what was imported from them, are told by their
real names, whatever the code calls them. What is no Python counts with all its words.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kernel_agent.audit.sources import SEEDABLE, is_named, names

_MOST = 200_000
"""Characters of code that are parsed; longer code is searched for words."""
_WORD = re.compile(r"[^\W\d]\w*(?:\(\s*\))?")
_MAGIC = re.compile(r"^[ \t]*[%!](?!%)[^\n]*$", re.MULTILINE)
_SHELL = re.compile(r"^[ \t]*!|=[ \t]*!|^[ \t]*%%?(?:bash|sh|script|system|sx)\b", re.MULTILINE)
_READS = names("open imread read_text read_bytes load loadtxt fromfile")
_WRITES = names("save savefig imwrite write_text write_bytes savez savetxt tofile dump")
_FILE = "a file"
_PURE = names(
    "rotate crop resize transpose convert show getpixel filter copy save point split getbbox histogram reduce format join"
)
_STATES = names("random numpy.random matplotlib.pyplot matplotlib logging os sys")
_DRAWN = names("random numpy.random")
_TAKES_ONLY = names("print display len type repr str isinstance help")
_PLAIN = frozenset([*keyword.kwlist, *dir(builtins), "display"])


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement.

    Attributes:
        uses: dotted names with modules by their real names; `?.now` where it is not known of what.
        reads, writes: variables, modules whose state counts (`numpy.random`), and "a file".
        fresh: variables that have a new value after it whatever they had.
        runs_later: whether it only defines what runs later, under the names in `fresh`.
    """

    uses: frozenset[str]
    reads: frozenset[str]
    writes: frozenset[str]
    fresh: frozenset[str] = frozenset()
    runs_later: bool = False


def statements(code: str, modules: dict[str, str]) -> Iterator[Statement]:
    """The statements of a cell in order; `modules`, names of modules and of what was imported from them, grows by its imports."""
    tree = _parse(code)
    if tree is None:
        plain = _MAGIC.sub("", code)
        if plain == code or (tree := _parse(plain)) is None:
            yield words_of(code)
            return
        yield words_of("\n".join(_MAGIC.findall(code)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            stars = modules.get("*", "")
            modules.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
            if "*" in modules:
                modules["*"] = f"{stars} {node.module}" if node.names[0].name == "*" else stars
    for node in tree.body:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            yield _Reader(modules).statement(node)
            for name in _targets(node):  # no module any more
                modules.pop(name, None)


def _parse(code: str) -> ast.Module | None:
    """None for a magic, a shell line, what does not parse or is too long."""
    if len(code) > _MOST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the model's code
            tree = compile(code, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    assert isinstance(tree, ast.Module)
    return tree


def words_of(code: str) -> Statement:
    """Of what is no Python all words count."""
    found = frozenset(_WORD.findall(code[: 10 * _MOST]))
    uses = {*found, *(f"?.{word}" for word in found), *(f"{word}.?" for word in found)}
    uses |= {name for name in (f"{item}()" for item in SEEDABLE) if name.rpartition(".")[2] in found}
    uses |= {"magic.system"} if _SHELL.search(code) else set()
    own = frozenset(word.partition("(")[0] for word in found) - _PLAIN
    return Statement(uses=frozenset(uses), reads=own, writes=own)


class _Reader:
    """Reads one statement."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = modules
        self.uses: set[str] = set()
        self.reads: set[str] = set()
        self.writes: set[str] = set()
        self.fresh: set[str] = set()

    def statement(self, top: ast.stmt) -> Statement:
        nodes = list(ast.walk(top))
        seeded = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _has_value(node)}
        loops = _named(node.target for node in nodes if isinstance(node, (ast.For, ast.AsyncFor)))
        own = loops | _named(node.target for node in nodes if isinstance(node, ast.comprehension))
        own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        for node in nodes:
            self._node(node, seeded)
        self.reads -= self.fresh  # a module that is seeded here
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        later = isinstance(top, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if isinstance(top, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            shared = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
            local = (stored | own) - shared
            self.fresh = {top.name}
            self.writes = (self.writes - local) | shared | self.fresh
            self.reads -= local | self.fresh
            if isinstance(top, ast.ClassDef) and any(getattr(node, "name", "") == "__del__" for node in nodes):
                self.uses.add("__del__")
        else:
            self.writes |= (stored - own) | loops
            self.fresh |= _targets(top)
            if isinstance(top, ast.Expr):  # IPython keeps its value
                self.writes |= {"_", "Out"}
                self.fresh.add("_")
            self.reads -= own
        return Statement(
            uses=frozenset(self.uses),
            reads=frozenset(self.reads),
            writes=frozenset(self.writes),
            fresh=frozenset(self.fresh),
            runs_later=later,
        )

    def _node(self, node: ast.AST, seeded: set[int]) -> None:
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            name = self._dotted(node)
            self.uses.add(name)
            if name in SEEDABLE and id(node) not in seeded:
                self.uses.add(f"{name}()")
            if isinstance(node, ast.Name) and node.id not in self.modules:
                self.reads.add(node.id)
                stars = (f"{module}.{node.id}" for module in self.modules.get("*", "").split())
                self.uses |= {name for name in stars if is_named(name)}
            elif not name.startswith("?."):
                self.reads |= _state(name)
                self.writes |= _state(name) & _DRAWN  # the next draw gives something else
            last = name.rpartition(".")[2]
            self.reads |= {_FILE} if last in _READS else set()
            self.writes |= {_FILE} if last in _WRITES else set()
        elif isinstance(node, ast.Call) and self._opens(node):
            self.writes.add(_FILE)
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            self.writes |= self._root(node)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            self.reads.add(node.target.id)
        elif isinstance(node, (ast.Set, ast.SetComp)):
            self.uses.add("set")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/"):
            self.uses |= {node.value, "/" + node.value.split("/")[1]}
        elif isinstance(node, ast.Expr):
            self._effects(node.value)

    def _effects(self, value: ast.expr) -> None:
        """What a call whose value is not kept may leave changed: what it is called on, what it is given, a module's state."""
        call = value.value if isinstance(value, ast.Await) else value
        if not isinstance(call, ast.Call):
            return
        name = self._dotted(call.func) if isinstance(call.func, (ast.Name, ast.Attribute)) else "?."
        if name in _TAKES_ONLY:
            return
        if isinstance(call.func, ast.Attribute) and call.func.attr not in _PURE:
            self.writes |= self._root(call.func)
        elif not name.startswith("?."):
            self.writes |= _state(name)
        self.writes |= {item.id for item in call.args if isinstance(item, ast.Name) and item.id not in self.modules}
        if name in ("random.seed", "numpy.random.seed") and _has_value(call):
            self.fresh |= _state(name)

    def _dotted(self, node: ast.expr) -> str:
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in self.modules:
            return ".".join([self.modules[node.id], *reversed(parts)])
        return f"?.{parts[0]}" if parts or not isinstance(node, ast.Name) else node.id

    def _root(self, node: ast.expr) -> set[str]:
        """The variable an attribute or item belongs to; of a module the module."""
        if isinstance(node, ast.Attribute) and not (name := self._dotted(node)).startswith("?."):
            return _state(name)
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
            node = node.func if isinstance(node, ast.Call) else node.value
        return {node.id} - _PLAIN if isinstance(node, ast.Name) else set()

    def _opens(self, call: ast.Call) -> bool:
        """Whether a file is opened with a mode: to write, for all that is known."""
        called = isinstance(call.func, (ast.Name, ast.Attribute)) and self._dotted(call.func).endswith("open")
        return called and (len(call.args) > 1 or any(item.arg == "mode" for item in call.keywords))


def _state(name: str) -> set[str]:
    """The module whose state a function of it may read or change."""
    return {name.rpartition(".")[0]} & _STATES


def _has_value(call: ast.Call) -> bool:
    """Whether a call is given anything but None."""
    given = [*call.args, *(item.value for item in call.keywords)]
    return any(not (isinstance(item, ast.Constant) and item.value is None) for item in given)


def _named(targets: Iterable[ast.expr]) -> set[str]:
    """The variables in what is assigned to."""
    return {item.id for target in targets for item in ast.walk(target) if isinstance(item, ast.Name)}


def _targets(top: ast.stmt) -> set[str]:
    """The variables that a statement gives new values."""
    targets: list[ast.expr] = []
    if isinstance(top, ast.Assign):
        targets = top.targets
    elif isinstance(top, (ast.For, ast.AsyncFor, ast.AnnAssign)):
        targets = [top.target]
    flat = [item for target in targets for item in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {item.id for item in flat if isinstance(item, ast.Name)}
