from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kernel_agent import KernelOptions, Session, Status
from kernel_agent.provisioners.environment import harmless
from kernel_agent.provisioners.zygote import close_parents, parents, report
from kernel_agent.types import StreamOutput, TextOutput

FORKED = KernelOptions(isolation="none")
PLAIN = KernelOptions(isolation="none", fork=False)
pytestmark = pytest.mark.skipif(bool(parents.unsupported()), reason="no fork server on this system")


@pytest.fixture(autouse=True)
def warm() -> None:
    if " warm" not in report().detail:
        with Session(kernel=FORKED):
            until(lambda: " warm" in report().detail)


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    close_parents()  # those of tests before, with other environments
    yield
    close_parents()


def forked() -> Session:
    return Session([Image.new("RGB", (60, 40), "red")], kernel=FORKED)


def provisioner(session: Session) -> Any:
    assert session._channel is not None
    return session._channel._manager.provisioner


def said(session: Session, code: str) -> Any:
    """The value of an expression in the kernel."""
    cell = session.run(f"print(repr({code}))")
    assert cell.status is Status.OK, cell.outputs
    return ast.literal_eval(text(cell))


def text(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if isinstance(output, (StreamOutput, TextOutput)))


def until(true: Callable[[], bool]) -> None:
    began = time.perf_counter()
    while not true():
        assert time.perf_counter() - began < 60
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state == "Z" and os.getpgid(pid) != os.getpgid(0)  # reparented: not ours to reap
    except (FileNotFoundError, ProcessLookupError):
        return True


LOOK = """
import asyncio, gc, os, resource, signal, sys, threading
from IPython import get_ipython
def look():
    shell = get_ipython()
    app = shell.kernel.parent
    import matplotlib.pyplot, cv2
    seen = {
        "argv": [a.split("/")[-1].split("kernel-")[0] for a in sys.argv],
        "path": sys.path,
        "executable": sys.executable,
        "flags": str(sys.flags),
        "environment": {k: v for k, v in os.environ.items() if k not in ("IPYTHONDIR", "JPY_PARENT_PID")},
        "own": [os.environ["IPYTHONDIR"] == os.path.dirname(os.getcwd()) + "/ipython", int(os.environ["JPY_PARENT_PID"]) == os.getppid(),
                app.parent_handle == os.getppid(), os.getsid(0) == os.getpgid(0) == os.getpid()],
        "profile": [shell.ipython_dir == os.environ["IPYTHONDIR"], shell.profile_dir.location.startswith(shell.ipython_dir),
                    shell.kernel.profile_dir is shell.profile_dir is app.profile_dir, sorted(os.listdir(shell.profile_dir.location))],
        "folder": [shell.starting_dir == os.getcwd(), [str(d) == os.getcwd() for d in shell.user_ns["_dh"]], os.path.basename(os.getcwd())],
        "names": sorted(n for n in shell.user_ns if not n.startswith("_i")),
        "hidden": sorted(n for n in shell.user_ns if n not in shell.user_ns_hidden and not n.startswith("_i")),
        "main": sys.modules["__main__"] is shell.user_module,
        "threads": sorted(type(t).__name__ + t.name.split("-")[0] for t in threading.enumerate()),
        "signals": {s.name: str(signal.getsignal(s)).split(" at ")[0] for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "gc": [gc.isenabled(), gc.get_threshold()],
        "streams": [type(sys.stdout).__name__, sys.stdout._should_watch, sys.__stdout__.fileno(), sys.__stdout__.encoding, sys.__stdout__.errors,
                    [os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in (1, 2)], os.read(0, 1)],
        "settings": [shell.colors, shell.history_manager.enabled, app.capture_fd_output, app.session.packer, shell.kernel._execute_sleep,
                     app.iopub_thread.socket.context.getsockopt(__import__("zmq").SNDHWM)],
        "pyplot": [os.environ["MPLBACKEND"], matplotlib.rcParams["backend"], dict(matplotlib.rcParams) == dict(matplotlib.rcParamsDefault)],
        "events": {name: len(calls) for name, calls in shell.events.callbacks.items()},
        "opencv": cv2.getNumThreads(),
        "hooks": [sys.displayhook.__class__.__name__, sys.excepthook.__name__, sys.__displayhook__.__class__.__name__],
        "magics": sorted(shell.magics_manager.magics["line"]) ,
        "configurables": sorted(type(c).__name__.replace("WarmApp", "KernelApp") for c in shell.configurables),
        "kernel": [shell.kernel.implementation, shell.kernel.session is app.session, shell.displayhook.session is app.session,
                   shell.display_pub.session is app.session, shell.kernel._topic("x") != shell.kernel._topic("y"), app.session.key != b"",
                   hasattr(shell.kernel, "debugger")],
        "limits": [resource.getrlimit(r) for r in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
        "tqdm": "IPKernelApp" in shell.config,
    }
    return seen
"""


def test_a_fork_sees_what_an_ordinary_kernel_sees() -> None:
    seen = []
    for options in (PLAIN, FORKED):
        with Session(kernel=options) as session:
            assert session.run(LOOK).status is Status.OK
            seen.append(said(session, "look()"))
    ordinary, fork = seen
    for topic in ordinary:
        assert fork[topic] == ordinary[topic], topic
    assert all(ordinary["own"])
    assert all(ordinary["profile"])


def descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


def test_no_descriptor_is_inherited() -> None:
    with forked() as session:
        kernel = descriptors(provisioner(session).pid)
        parent = descriptors(int(said(session, "__import__('os').getppid()")))
        assert {Path(target).name for target in kernel if target.startswith("/")} == {"null"}
        assert set(kernel) & set(parent) <= {"/dev/null", "anon_inode:[eventfd]", "anon_inode:[eventpoll]"}
        assert not [target for target in parent if target.startswith("anon_inode")]


def test_siblings_differ_in_random_state_and_identity() -> None:
    code = (
        "(random.random(), float(np.random.rand()), float(np.random.default_rng().random()), uuid.uuid4().hex, os.urandom(4).hex(),"
        " tempfile.mktemp(), get_ipython().kernel.ident, get_ipython().kernel.session.session)"
    )
    drawn = []
    for _ in range(2):
        with forked() as session:
            session.run("import random, uuid, os, tempfile, numpy as np")
            drawn.append(said(session, code))
    assert all(a != b for a, b in zip(*drawn, strict=True)), drawn


def memory_holds(pid: int, needle: bytes) -> bool:
    found = False
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if line.split()[1].startswith("rw") and "[vvar" not in line:
                try:
                    memory.seek(start)
                    found = found or needle in memory.read(end - start)
                except (OSError, OverflowError):
                    continue
    return found


def test_no_key_is_in_the_parent_or_in_a_sibling() -> None:
    with forked() as first, forked() as second:
        keys = [
            json.loads(Path(provisioner(s).parent.connection_file).read_text())["key"].encode() for s in (first, second)
        ]
        pids = [provisioner(s).pid for s in (first, second)]
        parent = int(said(first, "__import__('os').getppid()"))
        try:
            assert [memory_holds(pid, key) for pid, key in zip(pids, keys, strict=True)] == [True, True]
        except PermissionError:
            pytest.skip("this system lets nobody read another process's memory")
        assert not memory_holds(pids[1], keys[0])
        assert not memory_holds(pids[0], keys[1])
        assert not memory_holds(parent, keys[0])


def test_the_parent_is_one_bare_thread_and_its_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEVISION_API_KEY", "sk-secret")
    with forked() as session:
        assert not provisioner(session).why_not_forked
        parent = int(said(session, "__import__('os').getppid()"))
        assert len(list(Path(f"/proc/{parent}/task").iterdir())) == 1
        # 0, 1, 2, the link, a pair to be woken with, once an order's own are closed
        until(lambda: len(list(Path(f"/proc/{parent}/fd").iterdir())) == 6)
        for pid in (parent, provisioner(session).pid):
            names = {
                part.split(b"=")[0].decode() for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if part
            }
            assert names <= {*harmless(os.environ), "IPYTHONDIR"}
            assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(("code", "status"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6)])
def test_exit_status_reaches_the_provisioner(code: str, status: int) -> None:
    with forked() as session:
        process = provisioner(session).process
        session.run("import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))")
        assert session.run(f"import os; {code}").status is Status.KILLED
        assert process.wait(60) == process.poll() == status
        assert text(session.run("1 + 1")) == "2"  # it came back
        assert not provisioner(session).why_not_forked


def test_an_orderly_shutdown_ends_with_0() -> None:
    with forked() as session:
        process, channel = provisioner(session).process, session._channel
        session.run("import atexit; atexit.register(lambda: open('left.txt', 'w').write('bye'))")
        assert channel is not None
        channel._manager.client().start_channels()
        folder = provisioner(session).run_folder.scratch
        asyncio.run_coroutine_threadsafe(channel._manager.request_shutdown(), _loop()).result(60)
        assert process.wait(60) == 0
        assert (folder / "work" / "left.txt").read_text() == "bye"


def _loop() -> asyncio.AbstractEventLoop:
    from kernel_agent.blocking import background_loop

    return background_loop()


def test_kernel_and_what_it_started_are_gone_and_reaped() -> None:
    with forked() as session:
        session.run("import subprocess, os; a = subprocess.Popen(['sleep', '300'])")
        pids = [int(said(session, "a.pid")), provisioner(session).pid]
        parent = int(said(session, "os.getppid()"))
    until(lambda: gone(pids[0]) and not Path(f"/proc/{pids[1]}").exists())
    assert Path(f"/proc/{parent}").exists()


def test_children_of_a_kernel_that_died_by_itself_go_too() -> None:
    with forked() as session:
        session.run("import subprocess, os; a = subprocess.Popen(['sleep', '300'])")
        pid = int(said(session, "a.pid"))
        os.kill(provisioner(session).pid, signal.SIGKILL)
        until(lambda: gone(pid))


def test_sessions_outlive_the_parent() -> None:
    with forked() as one, forked() as two:
        one.run("x = 7")
        parent = int(said(one, "__import__('os').getppid()"))
        kernels = [provisioner(session).pid for session in (one, two)]
        os.kill(parent, signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in kernels))
        one.run("1", seconds=1)  # it may take a cell to notice
        assert text(one.run("x")) == "7"
        two.run("1", seconds=1)
        assert text(two.run("1 + 1")) == "2"
    until(lambda: " warm" in report().detail)
    with forked() as three:
        assert not provisioner(three).why_not_forked


HOST = """
import os, sys, time
from kernel_agent import KernelOptions, Session
FORKED = KernelOptions(isolation="none")
first = Session(kernel=FORKED).__enter__()
second = Session(kernel=FORKED).__enter__()
assert not second._channel._manager.provisioner.why_not_forked
cell = second.run("import os, subprocess; print(os.getppid(), os.getpid(), subprocess.Popen(['sleep', '300']).pid)")
print(cell.outputs[0].text, flush=True)
{then}
"""


@contextlib.contextmanager
def hosting(then: str) -> Iterator[subprocess.Popen[str]]:
    """That program; killed at the end, or a test that fails would wait for it."""
    with subprocess.Popen([sys.executable, "-c", HOST.format(then=then)], stdout=subprocess.PIPE, text=True) as host:
        try:
            yield host
        finally:
            host.kill()


@pytest.mark.parametrize("then", ["time.sleep(60)", "sys.exit(0)", "os._exit(1)"])
def test_nothing_outlives_the_host(then: str) -> None:
    with hosting(then) as host:
        assert host.stdout is not None
        pids = [int(pid) for pid in host.stdout.readline().split()]
        assert len(pids) == 3
        if "sleep" in then:
            host.kill()
        host.wait()
    until(lambda: all(gone(pid) for pid in pids))


def test_a_forked_copy_of_the_host_does_not_keep_kernels_alive() -> None:
    then = "if os.fork() == 0: print('copied', flush=True); time.sleep(600); os._exit(0)\ntime.sleep(600)"
    with hosting(then) as host:
        assert host.stdout is not None
        pids = [int(pid) for pid in host.stdout.readline().split()]
        until(lambda: host.stdout.readline() in ("copied\n", ""))
        copies = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
        host.kill()
        until(lambda: all(gone(pid) for pid in pids))
        for pid in map(int, copies):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_many_at_once_from_several_loops_and_threads() -> None:
    answers: list[str] = []

    def loop() -> None:
        async def several() -> None:
            async def one(number: int) -> str:
                async with forked() as session:
                    assert not provisioner(session).why_not_forked
                    return text(await session.arun(f"print({number})"))

            answers.extend(await asyncio.gather(*map(one, range(5))))

        asyncio.run(several())

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"{number}\n" for number in range(5) for _ in range(2))


async def test_no_kernel_with_namespaces_is_lost_at_birth() -> None:
    async def one() -> str:
        async with Session(kernel=KernelOptions(isolation="strong")) as session:
            assert provisioner(session).level == "strong"
            return str(provisioner(session).why_not_forked)

    for _ in range(10):
        assert set(await asyncio.gather(*(one() for _ in range(4)))) == {""}


def test_opencv_uses_threads_after_the_fork() -> None:
    code = textwrap.dedent("""
        import cv2, numpy as np, threading, os
        cv2.setNumThreads(4)
        image = np.random.randint(0, 255, (2000, 2000, 3), np.uint8)
        for _ in range(3):
            cv2.GaussianBlur(cv2.resize(image, (3000, 3000)), (31, 31), 0)
        (np.ones((500, 500)) @ np.ones((500, 500))).sum()
    """)
    for _ in range(3):
        with forked() as session:
            assert session.run(code, seconds=120).status is Status.OK


def test_cancelled_start_leaves_no_kernel() -> None:
    def kernels() -> set[str]:
        (slot,) = parents._slots.values()
        assert slot.parent is not None
        return set(Path(f"/proc/{slot.parent.pid}/task/{slot.parent.pid}/children").read_text().split())

    async def cancelled(after: float) -> None:
        task = asyncio.create_task(forked().astart())
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = kernels()
    for after in (0.0, 0.005, 0.015):
        asyncio.run(cancelled(after))
    until(lambda: kernels() == before)


def test_what_cannot_be_forked_starts_the_ordinary_way(tmp_path: Path) -> None:
    from jupyter_client import KernelManager
    from jupyter_client.kernelspec import KernelSpec

    manager = KernelManager(transport="ipc", connection_file=str(tmp_path / "k.json"), ip=str(tmp_path / "k"))
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        language="python",
        metadata={"kernel_provisioner": {"provisioner_name": "codevision", "config": {"isolation": "none"}}},
    )
    manager.start_kernel()
    try:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=120)
        client.stop_channels()
        found: Any = manager.provisioner
        assert "not this package's own" in found.why_not_forked
    finally:
        manager.shutdown_kernel(now=True)
    assert not manager.is_alive()


def test_an_interpreter_that_cannot_be_warmed_falls_back_and_says_so() -> None:
    warmth = parents.Warmth(("/bin/false",), ())
    assert isinstance(parents.ask(warmth), str)  # the first never waits
    for _ in range(parents.MAX_FAILURES):
        ready = parents.ask(warmth)
        while isinstance(ready, str) and "not warm yet" in ready:
            ready = parents.ask(warmth)
        if isinstance(ready, str):  # it has been tried meanwhile, since an ask starts one after a second, too
            break
        assert "status 1" in str(ready.exception(60))
    assert "status 1" in str(parents.ask(warmth))
    assert not report().forks
    assert "status 1" in report().detail
    del parents._slots[warmth]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
            "threads running",
        ),
        ("import sys; sys.kept = open(__file__)", "files open"),
        ("import sys; sys.modules['ipykernel.zmqshell'] = None", "status 1"),
    ],
)
def test_what_cannot_be_forked_soundly_is_not(
    code: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = "'zygote.server' in ' '.join(sys.orig_argv)"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif {server}:\n    {code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for reason in ("not warm yet", why):
        with forked() as session:
            assert text(session.run("1 + 1")) == "2"
            assert reason in provisioner(session).why_not_forked
    assert why in report().detail
    close_parents()


def test_a_place_without_room_falls_back() -> None:
    made = [parents.Warmth(("/bin/sleep", "9"), (("N", str(n)),)) for n in range(parents.MAX_PARENTS)]
    for warmth in made:
        parents.ask(warmth)
    assert len(parents._slots) <= parents.MAX_PARENTS
    for warmth in made:
        parents._slots.pop(warmth, None)


def own_megabytes(session: Session) -> float:
    rollup = Path(f"/proc/{provisioner(session).pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024


def test_a_kernel_owns_little_memory_and_an_error_does_not_change_that() -> None:
    with forked() as session:
        assert session.run("1 + 1").status is Status.OK
        fresh = own_megabytes(session)
        assert fresh < 15
        cell = session.run("def f(n):\n    return 1 / n\nf(0)")
        assert cell.status is Status.ERROR
        assert "return 1 / n" in "".join(cell.outputs[-1].traceback)
        assert own_megabytes(session) - fresh < 2.5  # all modules looked through, it would be 5


def test_a_cell_belongs_to_main() -> None:
    with forked() as session:
        session.run("import inspect, sys\ndef f(): return 7")
        assert said(session, "inspect.getsource(f)") == "def f(): return 7\n"
        assert said(session, "inspect.getmodule(inspect.currentframe()) is sys.modules['__main__']")
