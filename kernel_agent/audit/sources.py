"""Where a cell's results may come from besides its code and its images: time, chance, order, the machine. Tables.

Guarantees: pure, bounded, and on the side of caution: what occurs in the code counts as used. A source is consulted only where
a cell did not give the recorded result, so caution can turn "differs" into "not replayable" and never into "identical".
Entries are dotted names as `flow.py` finds them: `gc.*` is all of a module, `numpy.random.seed()` a call without a seed, and the
last word of a whole name counts too where the code does not say of what it is (`rng.now`).
Not found: what a library does behind its own back, and names made at run time (`getattr`, `exec`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kernel_agent.types import Json


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of nondeterminism that a cell's code mentions.

    Attributes:
        name: one of `KINDS`.
        words: the names in the code that show it.
        pinned: whether the audit gives it the same value again; `how` says by what, or why not.
    """

    name: str
    words: tuple[str, ...]
    pinned: bool
    how: str


ORDER, RANDOM = "hash order", "random"


def names(*lines: str) -> frozenset[str]:
    """The names in lines of them."""
    return frozenset(" ".join(lines).split())


SEEDABLE = names(
    "random.seed random.Random numpy.random.seed numpy.random.RandomState numpy.random.default_rng numpy.random.SeedSequence",
    "numpy.random.PCG64 numpy.random.PCG64DXSM numpy.random.MT19937 numpy.random.Philox numpy.random.SFC64",
)
"""With a seed they give the same for ever; without one they draw it from the system."""

KINDS: Mapping[str, tuple[str, str]] = {
    "time": (
        "clocks go on",
        "time.* timeit.* tqdm.* logging.* datetime.datetime.now datetime.datetime.today datetime.datetime.utcnow"
        " datetime.date.today numpy.datetime64 time.time time.time_ns time.perf_counter time.perf_counter_ns time.monotonic"
        " time.monotonic_ns time.process_time time.process_time_ns time.thread_time time.strftime time.localtime time.gmtime"
        " time.ctime time.asctime time.clock_gettime timeit.timeit magic.prun tqdm.tqdm tqdm.trange cv2.getTickCount"
        " cv2.TickMeter os.times pandas.Timestamp email.utils.formatdate",
    ),
    RANDOM: ("", "random.* numpy.random.*"),
    "entropy": (
        "the system's entropy cannot be had again",
        "os.urandom os.getrandom random.SystemRandom secrets.* uuid.* tempfile.* secrets.token_hex secrets.token_bytes"
        " secrets.token_urlsafe secrets.randbelow uuid.uuid1 uuid.uuid4 tempfile.mkdtemp tempfile.mkstemp"
        " tempfile.NamedTemporaryFile tempfile.TemporaryDirectory ssl.* /dev/random /dev/urandom "
        + " ".join(f"{name}()" for name in SEEDABLE),
    ),
    ORDER: ("what hashes by its address comes in another order", "set frozenset weakref.WeakSet"),
    "addresses": (
        "an object lies at another address",
        "id hash vars globals locals unittest.mock.* ctypes.* object.__hash__ numpy.ndarray.ctypes numpy.ndarray.__array_interface__ magic.whos",
    ),
    "collector": ("garbage is collected when there is enough of it", "__del__ gc.* weakref.*"),
    "threads": (
        "the order of threads and processes is the scheduler's",
        "threading.* multiprocessing.* concurrent.* subprocess.* asyncio.* signal.* _thread.* queue.* sched.* joblib.*"
        " subprocess.Popen subprocess.check_output os.fork os.system os.popen os.spawnv magic.system magic.getoutput"
        " magic.sx magic.bash magic.sh magic.script threading.Thread asyncio.gather asyncio.create_task cv2.setNumThreads",
    ),
    "machine": (
        "it tells of the machine, its files or versions",
        "resource.* platform.* psutil.* socket.* tracemalloc.* sys.* sysconfig.* site.* glob.* pwd.* grp.* getpass.* locale.*"
        " inspect.* importlib.* pkgutil.* dis.* shutil.disk_usage shutil.which os.environ os.getenv os.getpid os.getppid os.uname"
        " os.cpu_count os.sched_getaffinity os.getloadavg os.getcwd os.listdir os.scandir os.walk os.stat os.statvfs os.getuid"
        " os.path.getmtime os.path.getctime os.path.getatime os.path.getsize os.path.abspath os.path.realpath"
        " os.path.expanduser pathlib.Path.cwd pathlib.Path.home pathlib.Path.resolve pathlib.Path.absolute"
        " pathlib.Path.iterdir pathlib.Path.glob pathlib.Path.rglob pathlib.Path.stat glob.glob gc.get_count gc.get_stats"
        " resource.getrusage sys.getrefcount sys.getsizeof psutil.memory_info socket.gethostname"
        " cv2.getBuildInformation cv2.getNumThreads numpy.show_config module.__version__ module.__file__ /proc /sys /etc",
    ),
    "network": (
        "no network in a kernel",
        "urllib.request.* requests.* http.* urllib.request.urlopen urllib.request.urlretrieve socket.create_connection"
        " socket.getaddrinfo",
    ),
}
"""Name -> why it cannot be had again, and the names in code that show it."""

_NONE = names(
    "time.sleep time.strptime time.mktime time.struct_time sys.stdout sys.stderr sys.stdin sys.exit sys.maxsize sys.float_info",
    "sys.setrecursionlimit importlib.reload logging.getLogger importlib.import_module inspect.getsource",
)
"""Of those modules, what draws on nothing."""

ENDS = names("os._exit os.abort os.kill os.killpg signal.raise_signal")
"""What ends the kernel itself."""
FINALISERS = names("__del__ weakref.finalize")
"""What runs when garbage is collected, in whatever cell that is."""

_BY_NAME: dict[str, list[str]] = {}
_BY_LAST: dict[str, list[str]] = {}
for _kind, (_, _names) in KINDS.items():
    for _name in _names.split():
        _BY_NAME.setdefault(_name, []).append(_kind)
        if "." in _name and not _name.endswith("*"):
            _BY_LAST.setdefault(_name.rpartition(".")[2], []).append(_kind)


def is_named(name: str) -> bool:
    """Whether a dotted name is one of the tables' own, not only of a module that is."""
    return name in _BY_NAME


def kinds_of(use: str) -> Iterator[str]:
    """The kinds of source that a dotted name shows."""
    parts = use.split(".")
    heads = [".".join(parts[:count]) for count in range(1, min(len(parts), 8))]
    if not _NONE.isdisjoint([*heads, use]):
        return
    yield from _BY_NAME.get(use, ())
    if use.startswith("?."):
        yield from _BY_LAST.get(use[2:], ())
    for head in heads:
        yield from _BY_NAME.get(f"{head}.*", ())


def sources(uses: Iterable[str], header: Mapping[str, Json]) -> tuple[Source, ...]:
    """The sources behind these names. `header` is the trajectory's: it says what was pinned."""
    hits: dict[str, set[str]] = {}
    for use in uses:
        for kind in kinds_of(use):
            hits.setdefault(kind, set()).add(use.removeprefix("?.").removesuffix(".?"))
    found = []
    for kind, (why, _) in KINDS.items():
        if kind in hits:
            pinned, how = False, why
            if kind == RANDOM:
                pinned = isinstance(header.get("kernel_seed"), int)
                how = "random and numpy.random start from the recorded seed"
                how = how if pinned else "random and numpy.random started from a seed that was not recorded"
            found.append(Source(name=kind, words=tuple(sorted(hits[kind])[:8]), pinned=pinned, how=how))
    return tuple(found)
