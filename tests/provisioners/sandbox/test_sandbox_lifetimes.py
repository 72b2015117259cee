"""Who dies with whom: forked and plain kernels, their parents, and what they started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
SERVER = """
import json, os, signal, sys, tempfile, time
from pathlib import Path
from kernel_agent.provisioners.sandbox import namespaces, users
from kernel_agent.provisioners.sandbox.enter import enter, seal
from kernel_agent.types import Isolation
from kernel_agent.provisioners.sandbox.prepare import prepare
level, way = sys.argv[1:]
namespaces.adopt_orphans()
name = tempfile.mkdtemp(prefix="cv-")
folder, scratch = Path(name) / "run", Path(name) / "scratch"
folder.mkdir(mode=0o700); scratch.mkdir(mode=0o700)
os.chmod(name, 0o711)
plan = prepare(Isolation(level), connection_file=folder / "c", scratch=scratch, namespaces=True, user=users.lease())
told, tell = os.pipe()
between = os.fork()
if between == 0:
    if level == "medium":
        os.setsid()
    try:
        enter(plan, keep=[tell], born=lambda pid: os.write(tell, str(pid).encode()))
        os.close(tell)
        seal(plan)
        # a daemon that nobody waits for
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(0.05)
            os._exit(0)
        os.wait()
        print(json.dumps({"inside": os.getpid(), "group": os.getpgid(0)}), flush=True)
        while way != "exit":
            time.sleep(0.05)
        os._exit(7)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
pid = int(os.read(told, 100))
if pid != between:
    assert os.waitpid(between, 0)[1] == 0
for _ in range(6000):  # it makes its group once it has been adopted
    if os.getpgid(pid) == pid:
        break
    time.sleep(0.01)
print(json.dumps({"pid": pid, "group": os.getpgid(pid)}), flush=True)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if level == "medium":
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
print(json.dumps({"status": status}), flush=True)
"""


def told(server: subprocess.Popen[str], count: int) -> dict[str, int]:
    assert server.stdout is not None
    found: dict[str, int] = {}
    for _ in range(count):
        line = server.stdout.readline()
        assert line, server.stderr.read() if server.stderr else ""
        said = json.loads(line)
        found |= {"host group": said["group"], "pid": said["pid"]} if "pid" in said else said
    return found


def of_group(group: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z" and int(fields[2]) == group:
                found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    from kernel_agent.provisioners.sandbox.processes import tree

    return [one for one in tree(pid) if Path(f"/proc/{one}").exists()]


def gone(pids: list[int]) -> bool:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        left = [pid for pid in pids if Path(f"/proc/{pid}/cwd").exists() or Path(f"/proc/{pid}/exe").is_symlink()]
        left = [pid for pid in left if _state(pid) not in ("Z", "X", "")]
        if not left:
            return True
        time.sleep(0.02)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize("level", ["strong", "medium"])
class TestForked:
    @contextlib.contextmanager
    def start(self, python, level, way):
        with python.start("-c", SERVER, level, way, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
            try:
                yield server
            except BaseException:  # else it would be waited for
                server.kill()
                raise

    def test_the_server_learns_the_process_and_its_status(self, python, level):
        with self.start(python, level, "exit") as server:
            said = told(server, 2)
            assert said["inside"] == (1 if level == "strong" else said["pid"])
            assert said["host group"] == said["pid"]
            assert told(server, 1) == {"status": 7}
            assert server.wait(60) == 0
        assert of_group(said["pid"]) == []

    def test_nothing_outlives_the_server(self, python, level):
        with self.start(python, level, "stay") as server:
            said = told(server, 2)
            family = sorted({*descendants(said["pid"]), *of_group(said["pid"])})
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            if level == "strong":  # the daemon too
                assert len(family) > 1
                assert gone(family)
            else:
                assert gone([said["pid"]])
                os.killpg(said["pid"], signal.SIGKILL)  # the host's part
                assert gone(family)

    def test_a_kill_of_the_kernel_takes_what_it_started(self, python, level):
        with self.start(python, level, "stay") as server:
            said = told(server, 2)
            family = sorted({*descendants(said["pid"]), *of_group(said["pid"])})
            assert len(family) > 1
            os.kill(said["pid"], signal.SIGKILL)
            assert told(server, 1) == {"status": -signal.SIGKILL}
            assert gone(family)


HOST = """
import os, subprocess, sys, threading, time
from pathlib import Path
exec(Path(sys.argv[1]).read_text().split("def main")[0])
level, how, code = sys.argv[2:]
name = tempfile.mkdtemp(prefix="cv-")
os.chmod(name, 0o711)
run, scratch = Path(name) / "run", Path(name) / "scratch"
run.mkdir(mode=0o700); scratch.mkdir(mode=0o700)
plan = prepare(Isolation(level), connection_file=run / "c", scratch=scratch, namespaces=how == "namespaces", user=users.lease())
command = [sys.executable, "-c", CHILD, plan.to_json(), "{}", code]
if how == "bubblewrap":
    command = [*bwrap.prefix(plan), *command]
started = []
thread = threading.Thread(target=lambda: started.append(spawn(command, env=environment(plan, os.environ), start_new_session=True)))
thread.start(); thread.join()
print(started[0].pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_the_host_though_the_thread_that_asked_is_gone(cage):
    code = "print('up', flush=True)\nimport time\nwhile True: time.sleep(0.05)"
    host = cage.python.start("-c", HOST, cage.host, cage.level, cage.how, code, stdout=subprocess.PIPE)
    with host:
        assert host.stdout is not None
        lines = {host.stdout.readline().strip() for _ in range(2)}
        pid = int((lines - {"up"}).pop())
        family = descendants(pid)
        time.sleep(0.5)
        lived = all(_state(one) not in ("Z", "") for one in family)
        os.kill(host.pid, signal.SIGKILL)
        assert lived
        assert gone(family)
