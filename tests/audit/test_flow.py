"""What cells draw on, and what they are excused for: pure functions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernel_agent.audit.flow import Flow
from kernel_agent.audit.sources import kinds_of


def _sources(code: str, **header: object) -> dict[str, bool]:
    drawn = Flow(header=header).cell(0, code)
    return {source.name: source.pinned for source in drawn.sources}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import time\ntime.time()", {"time": False}),
        ("import random\nrandom.random()", {"random": True}),
        ("np.random.default_rng(3).integers(5)", {"random": True}),
        ("np.random.default_rng().integers(5)", {"random": True, "entropy": False}),
        ("np.random.default_rng(None)", {"random": True, "entropy": False}),
        ("import random\nrandom.seed()", {"random": True, "entropy": False}),
        ("import random as r\nr.Random()", {"random": True, "entropy": False}),
        ("import random\nrandom.Random(4)", {"random": True}),
        ("from numpy.random import Generator, PCG64\nGenerator(PCG64())", {"random": True, "entropy": False}),
        ("import secrets\nsecrets.choice('ab')", {"entropy": False}),
        ("from secrets import randbelow as below\nbelow(5)", {"entropy": False}),
        ("import os\nos.urandom(3)", {"entropy": False}),
        ("import resource\nresource.getrusage(0)", {"machine": False}),
        ("import sys\nsys.getrefcount(3)", {"machine": False}),
        ("open('/proc/loadavg').read()", {"machine": False}),
        ("np.datetime64('now')", {"time": False}),
        ("!date", {"threads": False}),
        ("%%bash\ndate", {"threads": False}),
        ("%time f()", {"time": False}),
        ("from time import perf_counter as p\np()", {"time": False}),
        ("from time import *\nfrom math import *\nperf_counter()", {"time": False}),
        ("from time import *\nprint(5)", {}),
        ("'time, random'", {}),
        ("now = 5\ntoday = 6\nprint(now, today)", {}),
        ("import time, sys\ntime.sleep(1)\nprint(file=sys.stderr)", {}),
        ("import os\nos.path.join('a', 'b')", {}),
    ],
)
def test_sources_are_named_and_a_seeded_generator_is_none(code: str, found: dict[str, bool]) -> None:
    assert _sources(code, kernel_seed=3) == found


def test_without_a_recorded_seed_chance_is_not_pinned() -> None:
    assert _sources("import random\nrandom.random()") == {"random": False}


def _excused(*codes: str) -> list[bool]:
    flow = Flow(header={"kernel_seed": 3})
    return [bool(flow.cell(number, code).why) for number, code in enumerate(codes)]


def test_what_is_excused_is_what_a_source_reaches_and_nothing_else() -> None:
    assert _excused("import time\nt = time.time()", "u = [t]", "u", "print(3)", "t = 5", "t") == [1, 1, 1, 0, 0, 0]
    assert _excused("import time\nt = time.time()", "for t in (1, 2): print(t)", "np.mean([1])") == [1, 0, 0]
    assert _excused("def f():\n    import time\n    return time.time()", "g = 1", "f()") == [0, 0, 1]
    assert _excused("def f(): return x", "import os\nx = os.urandom(2)", "f()") == [0, 1, 1]
    assert _excused("import time\nd = {}", "d['a'] = time.time()", "d") == [0, 1, 1]
    assert _excused(
        "np.random.seed()", "np.random.rand()", "np.mean([1])", "np.random.seed(3)", "np.random.rand()"
    ) == [*(1, 1, 0, 0, 0)]
    assert _excused("from time import time as clock", "clock()", "clock = len", "clock('a')") == [0, 1, 0, 0]
    assert _excused("np.datetime64('now')", "np.mean([1])") == [1, 0]
    assert _excused("import random\nrandom.seed(5)", "random.Random().random()") == [0, 1]
    assert _excused("plt.plot([1])", "import time\nplt.title(time.time())", "plt.gcf()", "math.pi") == [0, 1, 1, 0]
    assert _excused("import time\nopen('a', 'w').write(str(time.time()))", "open('a').read()") == [1, 1]


def test_what_was_stopped_is_lost_with_what_it_writes() -> None:
    flow = Flow(header={})
    drawn = flow.cell(0, "i = 0\nwhile True:\n    i += np.mean(image_0)")
    flow.lose(drawn.writes, "step 1 was interrupted by the clock")
    assert flow.cell(1, "random_state = 3").why == ""
    assert flow.cell(1, "np.mean([1]), image_0.size").why == ""
    assert flow.cell(2, "print(i)").why == "step 1 was interrupted by the clock, and both use i"


def test_all_that_a_cell_draws_on_is_told_and_not_the_first_alone() -> None:
    """The second statement fails elsewhere: a reason that names the first one only would be untrue."""
    why = Flow(header={}).cell(0, "print('f' in globals())\nImage.open('/etc/hostname')\n1\nglobals()").why
    assert [part.split(" (")[0] for part in why.split("; ")] == ["not pinned: addresses", "not pinned: machine"]


def test_a_loop_that_was_stopped_leaves_its_variables_and_the_state_of_chance_anywhere() -> None:
    flow = Flow(header={"kernel_seed": 3})
    flow.lose(flow.cell(0, "import random\nwhile True:\n    for j in range(9): x = random.random()").writes, "stopped")
    assert [
        bool(flow.cell(1, code).why) for code in ("j", "x", "random.random()", "random.seed(3)", "random.random()")
    ] == [*(1, 1, 1, 0, 0)]
    assert _excused("import time\ntime.time()", "_ + 1", "3", "_") == [1, 1, 0, 0]


def test_a_name_of_two_words_is_no_source_by_its_last_word_where_its_module_is_known() -> None:
    assert list(kinds_of("?.perf_counter")) == ["time"]
    assert list(kinds_of("pandas.perf_counter")) == []


def test_code_that_was_written_to_take_long_does_not() -> None:
    code = """
from kernel_agent.audit.flow import Flow
flow, names = Flow(header={}), [f"f{n}" for n in range(2000)]
flow.cell(0, "".join(f"def {name}(): {', '.join(names[:200])}\\n" for name in names))
for n in range(60):
    flow.cell(n, "f0()\\n" * 100)
    flow.cell(n, f"# {'x' * 150_000}\\n{'(' * 90}{'=' * 20_000}")
flow.cell(99, "a(" * 90_000)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
