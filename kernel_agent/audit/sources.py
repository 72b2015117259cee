"""Where a cell's results may come from besides its code and its images: time, chance, order, the machine.

Guarantees: pure, bounded, and on the side of caution: a name that occurs in the code counts as used. A source is consulted only where
a cell did not give the recorded result, so caution can turn "differs" into "not replayable" and never into "identical".
Not found: what a library does behind its own back, and names made at run time (`getattr`, `exec`).
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernel_agent.types import Json

_MOST = 200_000
"""Characters of code that are parsed; longer code is searched for words."""
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of nondeterminism that a cell's code mentions.

    Attributes:
        name: "time", "random", "entropy", "hash order", "addresses", "threads", "machine" or "network".
        words: the words of the code that show it.
        pinned: whether the audit gives it the same value again; `how` says by what, or why not.
    """

    name: str
    words: tuple[str, ...]
    pinned: bool
    how: str


_TIME = {
    *("time", "timeit", "datetime", "perf_counter", "monotonic", "process_time", "time_ns", "perf_counter_ns"),
    *("strftime", "localtime", "gmtime", "now", "today", "utcnow", "ctime", "tqdm", "prun"),
}
_RANDOM = {
    *(
        "random",
        "randint",
        "rand",
        "randn",
        "shuffle",
        "choice",
        "choices",
        "permutation",
        "uniform",
        "normal",
        "gauss",
    ),
    *("randrange", "sample", "RandomState", "randu"),
}
_ENTROPY = {"urandom", "getrandom", "secrets", "uuid", "uuid1", "uuid4", "SystemRandom", "default_rng", "SeedSequence"}
_ENTROPY |= {"token_hex", "token_bytes", "mkdtemp", "mkstemp", "tempfile", "NamedTemporaryFile", "TemporaryDirectory"}
_SEEDABLE = {"default_rng", "SeedSequence"}  # with a seed they give the same for ever
_ORDER = {"set", "frozenset"}
_ADDRESSES = {"hash", "id", "addressof"}
_THREADS = {
    *("Thread", "ThreadPoolExecutor", "ProcessPoolExecutor", "Pool", "Process", "Timer"),
    *("Popen", "fork", "system", "check_output", "getoutput", "gather", "create_task", "setNumThreads"),
}
_MACHINE = {
    *("environ", "getenv", "getpid", "getppid", "platform", "cpu_count", "hostname", "gethostname", "psutil"),
    *(
        "listdir",
        "glob",
        "rglob",
        "iterdir",
        "scandir",
        "walk",
        "stat",
        "getmtime",
        "getsize",
        "__version__",
        "version",
    ),
    *(
        "resource",
        "sys",
        "gc",
        "tracemalloc",
        "memory_info",
        "disk_usage",
        "getBuildInformation",
        "getcwd",
        "expanduser",
    ),
}
_NETWORK = {"urlopen", "urlretrieve", "getaddrinfo", "create_connection"}
_PURE = {
    *(
        "rotate",
        "crop",
        "resize",
        "transpose",
        "convert",
        "show",
        "getpixel",
        "filter",
        "copy",
        "save",
        "point",
        "split",
    ),
    *("getbbox", "histogram", "reduce", "format", "join"),
}
_MODULES = {
    *("np", "numpy", "plt", "matplotlib", "cv2", "math", "PIL", "os", "sys", "time", "random", "re", "json", "pd"),
    *(
        "Image",
        "ImageDraw",
        "ImageOps",
        "ImageFilter",
        "ImageEnhance",
        "ImageChops",
        "ImageStat",
        "ImageFont",
        "logging",
    ),
}
_PLAIN = {
    *keyword.kwlist,
    *(
        "print",
        "len",
        "range",
        "int",
        "str",
        "float",
        "list",
        "dict",
        "tuple",
        "set",
        "min",
        "max",
        "sum",
        "abs",
        "round",
    ),
    *(
        "sorted",
        "enumerate",
        "zip",
        "isinstance",
        "display",
        "type",
        "bool",
        "repr",
        "format",
        "reversed",
        "any",
        "all",
    ),
    *("map", "filter", "Exception", "BaseException", "KeyboardInterrupt", "ValueError", "f", "e", "_"),
}


def words_of(code: str) -> frozenset[str]:
    """The names that occur in code: variables, attributes, imports. For what is no plain Python, all its words."""
    tree = _parse(code)
    return frozenset(_WORD.findall(code) if tree is None else _names(tree))


def drawn_on(code: str) -> frozenset[str]:
    """The names that code calls or reads, without those of modules alone: `import time; time.sleep(1)` asks for no time."""
    tree = _parse(code)
    if tree is None:
        return frozenset(_WORD.findall(code))
    modules = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    seeded = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and (node.args or node.keywords)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in modules:
            found |= _unseeded(node, node.id, seeded)
        elif isinstance(node, ast.Attribute):
            found |= _unseeded(node, node.attr, seeded)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, (ast.Set, ast.SetComp)):
            found.add("set")
    return frozenset(found)


def _unseeded(node: ast.AST, name: str, seeded: set[int]) -> set[str]:
    return set() if name in _SEEDABLE and id(node) in seeded else {name}


def _parse(code: str) -> ast.AST | None:
    """None for a magic, a shell line, what does not parse or is too long."""
    if len(code) > _MOST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the model's code
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _names(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield from alias.name.split(".")
                if alias.asname:
                    yield alias.asname
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


def written(code: str) -> frozenset[str]:
    """The names that code may leave with another value: assigned, defined, or told to change themselves; no module."""
    tree = _parse(code)
    if tree is None:
        return shared(words_of(code))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            found |= _root(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Attribute) and function.attr not in _PURE:
                found |= _root(function)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            found.add("open")  # a file that a later cell opens
    return frozenset(found - _MODULES - _PLAIN)


def _root(node: ast.AST) -> set[str]:
    """The variable an attribute or item belongs to."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def shared(words: frozenset[str]) -> frozenset[str]:
    """Those that two cells may hand something over by: neither keywords nor the plainest built-ins."""
    return words - _PLAIN


def sources(words: frozenset[str], header: Mapping[str, Json]) -> tuple[Source, ...]:
    """The sources that code which draws on these words uses. `header` is the trajectory's: it says what was pinned."""
    seeded = isinstance(header.get("kernel_seed"), int)
    random = (
        "random and numpy.random start from the recorded seed"
        if seeded
        else "the run was recorded without a seed of the kernel"
    )
    kinds = (
        ("time", _TIME, False, "clocks go on"),
        ("random", _RANDOM, seeded, random),
        ("entropy", _ENTROPY, False, "the system's entropy cannot be had again"),
        ("hash order", _ORDER, True, "PYTHONHASHSEED is 0 in every kernel unless the user sets it"),
        ("addresses", _ADDRESSES, False, "an object lies at another address"),
        ("threads", _THREADS, False, "the order of threads and processes is the scheduler's"),
        ("machine", _MACHINE, False, "it tells of the machine, its files or versions"),
        ("network", _NETWORK, False, "no network in a kernel"),
    )
    found = []
    for name, known, pinned, how in kinds:
        if hit := words & known:
            found.append(Source(name=name, words=tuple(sorted(hit)[:8]), pinned=pinned, how=how))
    return tuple(found)
