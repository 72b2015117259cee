"""The cap on a tree of processes: over it, all of it is killed, with the reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel_agent.provisioners.sandbox.cgroup import MemoryGroup, hierarchy
from kernel_agent.provisioners.sandbox.memory import MemoryCap, _watch
from kernel_agent.provisioners.sandbox.processes import proportional, resident, tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
MIB = 1 << 20
TAKES = "x = bytearray(b'1') * ({} << 20); print('taken', flush=True); import time; time.sleep(600)"


MANY = "import os, time\nfor _ in range(30):\n    if os.fork() == 0: time.sleep(90); os._exit(0)\ntime.sleep(600)"
"""A child that the kill did not see (it was just being born) ends by itself: it must not go on with its parent's loop."""


def python(code: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.02)


@pytest.fixture
def capped():
    """Start a process under a cap; both are ended whatever happens."""
    ends = []

    def start(code: str, memory: int, processes: int = 64, **options):
        process = python("input()\n" + code)
        cap = MemoryCap(process.pid, memory * MIB, processes, **options)
        cap.start()
        ends.append((process, cap))
        print("", file=process.stdin, flush=True)
        return process, cap

    yield start
    for process, cap in ends:
        process.kill()
        process.wait()
        cap.stop()


def test_one_process_over_the_cap_is_killed_and_told_why(capped):
    heard: list[str] = []
    process, cap = capped(TAKES.format(400), 150, killed=heard.append)
    assert process.wait(60) == -signal.SIGKILL
    cap.stop()
    assert cap.reason.startswith("memory: used ")
    assert " of 150 MB (" in cap.reason


def test_many_processes_each_under_the_cap_are_killed_together(capped):
    code = """
import os, sys, time
go, tell = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.close(tell)
        os.read(go, 1)
        x = bytearray(b'1') * (60 << 20)
        time.sleep(600)
        os._exit(0)
input()
os.close(tell)
time.sleep(600)
"""
    process, cap = capped(code, 150)
    wait_for(lambda: len(tree(process.pid)) == 9)
    members = tree(process.pid)
    print("", file=process.stdin, flush=True)
    wait_for(lambda: process.poll() is not None or cap.explain() != "")
    # a control group may have killed the largest, and the rest goes on under the cap; the watchdog kills all
    assert process.poll() in (None, -signal.SIGKILL)
    wait_for(lambda: resident(members) < 300 * MIB)
    cap.stop()
    assert cap.reason.startswith("memory: used ")


def test_under_the_cap_nothing_happens(capped):
    process, cap = capped(TAKES.format(60), 300)
    assert process.stdout.readline() == "taken\n"
    time.sleep(1.5)
    assert process.poll() is None
    cap.stop()
    assert cap.reason == ""


def test_the_number_of_processes(capped):
    code = MANY
    process, cap = capped(code, 2000, processes=10)
    assert process.wait(60) == -signal.SIGKILL
    assert cap.reason.startswith("processes: ")
    assert cap.reason.endswith(" of 10")


SHORT_OF_DESCRIPTORS = """
import os, resource, subprocess, sys, time
from kernel_agent.provisioners.sandbox.memory import MemoryCap
process = subprocess.Popen([sys.executable, "-c", "input()\\n" + sys.argv[1]], stdin=subprocess.PIPE, text=True, start_new_session=True)
cap = MemoryCap(process.pid, 2 << 30, 10, group=process.pid)
cap.start()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
for _ in range(20):
    cap.wake()
    time.sleep(0.05)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print("", file=process.stdin, flush=True)
try:
    print(process.wait(60), cap.reason)
finally:
    if process.poll() is None:
        os.killpg(process.pid, 9)
"""


def test_a_host_that_was_short_of_descriptors_watches_on():
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_DESCRIPTORS, MANY], capture_output=True, text=True, timeout=300
    )
    status, _, reason = done.stdout.partition(" ")
    assert status == "-9", done.stderr
    assert reason.startswith("processes: ")


def test_pages_that_forks_share_count_once():
    code = """
import os, time
x = bytearray(b'1') * (100 << 20)
for _ in range(4):
    if os.fork() == 0: time.sleep(600); os._exit(0)
print('up', flush=True)
time.sleep(600)
"""
    process = python(code)
    try:
        assert process.stdout.readline() == "up\n"
        family = tree(process.pid)
        assert len(family) == 5
        assert resident(family) > 450 * MIB
        assert 90 * MIB < proportional(family) < 200 * MIB
    finally:
        for pid in tree(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def test_a_stopped_cap_leaves_no_thread_and_no_group(capped):
    process, cap = capped("import time; time.sleep(60)", 300)
    group = cap._cgroup
    process.kill()
    process.wait()
    cap.stop()
    cap.stop()
    # another kernel of this process, one that a test before has not closed, has a cap too
    wait_for(lambda: not any(one.name == "codevision-memory" for one in threading.enumerate()) or bool(_watch._caps))
    assert cap not in _watch._caps
    assert group is None or not group.folder.exists()


def test_a_control_group_limits_where_one_can_be_made():
    group = MemoryGroup.make(100 * MIB)
    if group is None:
        assert hierarchy() is None
        return
    process = python("input()\n" + TAKES.format(300))
    try:
        group.add(process.pid)
        print("", file=process.stdin, flush=True)
        assert process.wait(60) == -signal.SIGKILL
        assert group.kills() >= 1
    finally:
        process.kill()
        group.remove()
    assert not group.folder.exists()


def test_a_process_that_ends_leaves_no_group():
    code = "from kernel_agent.provisioners.sandbox.cgroup import MemoryGroup; g = MemoryGroup.make(1 << 30); print(g and g.folder)"
    folder = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert (folder != "None") == (hierarchy() is not None)
    assert not Path(folder).exists()
