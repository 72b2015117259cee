"""Other processes, privileges, and what is left when something is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager

from kernel_agent import Session
from perf.attacks.case import EVERYWHERE, NAMESPACED, SANDBOXED, SEALED, Result, case
from perf.attacks.cases.files import READ
from perf.attacks.host import descendants, namespace, status_line
from perf.attacks.scene import BUDGET, NotIsolated, Scene, marked, marker, said

LIBC = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    function.restype = ctypes.c_long
    result = function(*(ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments))
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
machine = os.uname().machine
def syscall(x86, arm, *arguments):
    return call(libc.syscall, x86 if machine == "x86_64" else arm, *arguments)
def attempt(what):
    try: print(what())
    except Exception as error: print(type(error).__name__, error)
"""

PTRACE = (
    LIBC
    + """
def trace():
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    call_ = libc.ptrace; call_.restype = ctypes.c_long
    for request in (16, 0x4206):  # ATTACH, SEIZE
        if call_(request, pid, None, None) < 0: print(os.strerror(ctypes.get_errno())); continue
        if request == 0x4206: call_(0x4207, pid, None, None)
        os.waitpid(pid, 0x40000000)
        out = b""
        while len(out) < length:
            ctypes.set_errno(0)
            out += (call_(1, pid, address + len(out), None) & (2**64 - 1)).to_bytes(8, "little")
        call_(17, pid, None, None)
        return out[:length]
attempt(trace)
"""
)

READ_MEMORY = (
    LIBC
    + """
class Part(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def vm_read():
    buffer = ctypes.create_string_buffer(length)
    mine, theirs = Part(ctypes.addressof(buffer), length), Part(address, length)
    call(libc.process_vm_readv, pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    return buffer.raw
def memory_file():
    with open(f"/proc/{pid}/mem", "rb", 0) as file:
        file.seek(address); return file.read(length)
attempt(vm_read); attempt(memory_file)
"""
)

TAKE_DESCRIPTOR = (
    LIBC
    + """
def take():
    held = syscall(438, 438, os.pidfd_open(pid), descriptor, 0)
    return os.pread(held, 99, 0)
def through_proc(): return open(f"/proc/{pid}/fd/{descriptor}").read()
attempt(take); attempt(through_proc)
"""
)

ENVIRONMENTS = """
import os
seen = set()
for entry in os.listdir("/proc"):
    if entry.isdigit():
        try:
            text = open(f"/proc/{entry}/environ", "rb").read()
        except OSError: continue
        seen.update(line.rpartition(b"=")[2] for line in text.split(b"\\0") if b"CANARY" in line)
print(seen)  # each secret once: of several hosts at work, whole environments would be cut in their middle
"""

SCAN_ANCESTORS = r"""
import os, re
pid, found = os.getppid(), set()
for _ in range(4):
    try:
        for line in open(f"/proc/{pid}/maps"):
            span, flags, *rest = line.split()
            if flags[:2] != "rw" or not rest[-1] in ("[heap]", "[stack]"): continue
            start, end = (int(word, 16) for word in span.split("-"))
            with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                memory.seek(start)
                found.update(re.findall(rb"cv-canary-[0-9a-f]{32}", memory.read(min(end - start, 64 << 20))))
        status = open(f"/proc/{pid}/status").read()
        pid = int(re.search(r"PPid:\s+(\d+)", status)[1])
    except (OSError, TypeError, OverflowError) as error: print(error); break
    if not pid: break
print(found)
"""

DRIVE_OTHER = """
import os
from jupyter_client import BlockingKernelClient
try:
    print([os.path.exists(f"{info['ip']}-{n}") for n in range(1, 6)])
    client = BlockingKernelClient()
    client.load_connection_info(info)
    client.start_channels(stdin=False, hb=False)
    client.execute("kept = 'taken'; open(" + repr(effect) + ", 'w').write('taken')")
    client.get_shell_msg(timeout=wait)
except Exception as error: print(type(error).__name__, error)
"""

NEST = (
    LIBC
    + """
tried, tell = os.pipe()
wait, end = os.pipe()
child = os.fork()
if child == 0:
    try:
        os.close(end)
        for flags in (0x10000000, 0x10020000):  # NEWUSER, with NEWNS
            try: call(libc.unshare, flags)
            except OSError: pass
        os.write(tell, b"1")
        os.read(wait, 1)  # until it has been looked at
    finally: os._exit(0)
os.close(tell); os.close(wait)
os.read(tried, 1)
"""
)
UNNEST = "os.close(end); os.close(tried); os.waitpid(child, 0)"

KEYS = (
    LIBC
    + """
def keys():
    buffer = ctypes.create_string_buffer(200)
    for ring in (-3, -4, -5):
        try:
            key = syscall(250, 219, 10, ring, b"user", b"cv-canary", 0)
            syscall(250, 219, 11, key, buffer, 200)
            print(buffer.value)
        except OSError as error: print(error)
attempt(keys)
attempt(lambda: open("/proc/keys").read())
"""
)

RISKY = (
    LIBC
    + """
kept = []
params = ctypes.create_string_buffer(160)
for number in (
    (323, 282, 1), (425, 425, 4, params), (298, 241, ctypes.create_string_buffer((1).to_bytes(4, "little") + (120).to_bytes(4, "little"), 120), 0, -1, -1, 0),
    (321, 280, 0, ctypes.create_string_buffer((1).to_bytes(4, "little") + (4).to_bytes(4, "little") + (4).to_bytes(4, "little") + (1).to_bytes(4, "little"), 120), 120),
    (304, 265, 0, None, 0), (300, 262, 0, 0),
):
    attempt(lambda: kept.append(syscall(*number)) or number[0])
import time; time.sleep(0.1)
"""
)

DETACH = """
import os, time
child = os.fork()
if child == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        os.execv("/usr/bin/sleep", ["sleep", mark])
    os._exit(0)
os.waitpid(child, 0)
import subprocess
subprocess.Popen(["/usr/bin/sleep", mark], start_new_session=True)
time.sleep(0.3)
"""


def clean(mark: str) -> None:
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@case("kill", Result.BLOCKED, SANDBOXED)
def kill_one(scene: Scene) -> str:
    """A process of the same user outside is not killed by its number, nor through a pidfd."""
    code = """
import os, signal
for kill in (lambda: os.kill(pid, 9), lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 9), lambda: os.kill(-pid, 9)):
    try: kill()
    except OSError as error: print(error.strerror)
"""
    scene.run(code, pid=scene.victim.pid)
    if scene.victim.unhurt:
        return ""
    scene.victim.close()
    scene._victim = None
    return "the victim is dead"


@case("kill(-1)", Result.CONTAINED, SANDBOXED, harmful=True)
def kill_all(scene: Scene) -> str:
    """SIGKILL to everything reaches no process outside; the session recovers, another session and a victim are unhurt."""
    if problem := kill_one(scene):
        raise NotIsolated(f"one process can be killed already: {problem}")
    other, victim = scene.other, scene.victim
    scene.run("import os; os.kill(-1, 9)")
    if not victim.unhurt:
        return "the victim is dead"
    return (
        ""
        if said(other.run("kept")) == repr(scene.other_secret) and not other.cells[-1].events
        else "another session was hurt"
    )


@case("ptrace", Result.BLOCKED, SANDBOXED)
def ptrace(scene: Scene) -> str:
    """A process outside is not traced: its memory stays its own."""
    problem = scene.leak(PTRACE, scene.victim.secret, pid=scene.victim.pid, **scene.victim.told)
    return problem or ("" if scene.victim.unhurt else "the victim is hurt")


@case("process_vm_readv", Result.BLOCKED, SANDBOXED)
def read_memory(scene: Scene) -> str:
    """A process's memory is not read, by the system call or through /proc."""
    return scene.leak(READ_MEMORY, scene.victim.secret, pid=scene.victim.pid, **scene.victim.told)


@case("pidfd_getfd", Result.BLOCKED, SANDBOXED)
def take_descriptor(scene: Scene) -> str:
    """An open file of a process outside is not taken over."""
    return scene.leak(TAKE_DESCRIPTOR, scene.victim.behind, pid=scene.victim.pid, **scene.victim.told)


@case("/proc/1/environ", Result.BLOCKED, SANDBOXED)
def environments(scene: Scene) -> str:
    """No process's environment that can be seen, process 1's included, holds the host's."""
    return scene.leak(ENVIRONMENTS, scene.world.environment_secret)


@case("/proc/PPID/mem", Result.BLOCKED, SANDBOXED, control=False)
def ancestors(scene: Scene) -> str:
    """The memory of the processes above the kernel gives no secret of the host."""
    return scene.leak(SCAN_ANCESTORS, scene.world.environment_secret, scene.world.keyring_secret)


def _manager(scene: Scene) -> AsyncKernelManager:
    """Of the other session's kernel."""
    channel = scene.other._channel
    assert channel is not None
    assert channel._manager is not None
    return channel._manager


@case("other kernel's key", Result.BLOCKED, SANDBOXED)
def other_key(scene: Scene) -> str:
    """Another kernel's connection file, with the key to drive it, is not read."""
    manager = _manager(scene)
    return scene.leak(READ, bytes(manager.session.key).decode(), path=str(manager.connection_file))


@case("other kernel's socket", Result.BLOCKED, SANDBOXED)
def other_socket(scene: Scene) -> str:
    """Even with another kernel's key and addresses, nothing runs in it."""
    manager = _manager(scene)
    info = {**manager.get_connection_info(), "key": bytes(manager.session.key).decode()}
    info = {name: value for name, value in info.items() if isinstance(value, (str, int))}
    effect = scene.world.folder / "effect"
    effect.unlink(missing_ok=True)
    scene.run(DRIVE_OTHER, info=info, effect=str(effect), wait=1.5 if scene.claimed else 60)
    taken = said(scene.other.run("kept")) != repr(scene.other_secret) or effect.exists()
    scene.other.run(f"kept = {scene.other_secret!r}")
    return "code ran in another kernel" if taken else ""


@case("nested userns", Result.BLOCKED, SEALED)
def nested(scene: Scene) -> str:
    """No user namespace of its own, and so no new powers (seen from the host)."""

    def namespaces() -> set[str]:
        return {namespace("self", "user"), *(namespace(pid, "user") for pid in scene.pids(scene.session))}

    before = namespaces()
    scene.run(NEST)
    found = namespaces()
    scene.run(UNNEST)
    return "a process is in a new user namespace" if found - before - {""} else ""


@case("setuid binary", Result.BLOCKED, SANDBOXED, control=os.geteuid() == 0)
def setuid(scene: Scene) -> str:
    """A setuid program gives no rights: no_new_privs is set, and such a program reads nothing more."""
    pid = scene.inner_pid(scene.session)
    if status_line(pid, "NoNewPrivs") != "1":
        return "no_new_privs is not set"
    if os.geteuid() != 0:
        return ""
    program, private = scene.world.folder / "cat", scene.world.file(scene.world.folder / "private")
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(stat.S_ISUID | 0o755)
    private.chmod(0o600)
    code = "import subprocess\nprint(subprocess.run([program, path], capture_output=True))"
    return scene.leak(code, private.read_text(), program=str(program), path=str(private))


@case("keyctl", Result.BLOCKED, SANDBOXED)
def keyring(scene: Scene) -> str:
    """Keys in the keyrings of the user and of the session are not read."""
    return scene.leak(KEYS, scene.world.keyring_secret)


@case("risky system calls", Result.BLOCKED, SANDBOXED)
def risky(scene: Scene) -> str:
    """No userfaultfd, io_uring, perf_event or bpf: parts of Linux with a record (seen in the process's descriptors)."""
    scene.run(RISKY)
    folder = Path(f"/proc/{scene.inner_pid(scene.session)}/fd")
    names = []
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            names.append(str(entry.readlink()))
    risky = ("userfaultfd", "io_uring", "perf_event", "bpf-map", "fanotify")
    got = sorted({word for word in risky for name in names if word in name})
    return f"it has {', '.join(got)}" if got else ""


@case("leaked fds", Result.BLOCKED, EVERYWHERE, control=False)
def descriptors(scene: Scene) -> str:
    """Files that the host left open for its children are not in the kernel."""
    code = """
import os
for name in os.listdir("/proc/self/fd"):
    for way in (lambda: os.pread(int(name), 99, 0), lambda: os.read(os.open("/proc/self/fd/" + name, os.O_NONBLOCK), 99)):
        try: print(name, way()) if int(name) > 2 else None
        except (OSError, ValueError): pass
"""
    return scene.leak(code, scene.world.descriptor_secret)


@case("double-fork survivor", Result.BLOCKED, NAMESPACED)
def survivor(scene: Scene) -> str:
    """Daemons that left their process group and session go when the session is closed."""
    mark = marker()
    with scene.fresh() as session:
        scene.run(DETACH, session=session, mark=mark)
        if not marked(mark):
            return "the attack did not start its daemons: nothing was tested"
    gone = scene.comes_to_hold(lambda: not marked(mark))
    clean(mark)
    return "" if gone else "a daemon is left"


DRIVER = """
import sys, time
from kernel_agent import KernelOptions, Session
isolation, fork, code = sys.argv[1], sys.argv[2] == "1", sys.argv[3]
options = KernelOptions(isolation=isolation, fork=fork)
with Session(kernel=options) as first:
    time.sleep(2 * fork)  # its fork server warms up
    with Session(kernel=options) as session:
        session.run(code)
        print(session._channel.pid, flush=True)
        time.sleep(600)
"""


def _driver_killed(scene: Scene, code: str) -> tuple[str, list[int]]:
    mark = marker()
    level, fork = str(scene.profile.level), str(int(scene.profile.fork))
    words = f"mark = {mark!r}\n{code}"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, level, fork, words], stdout=subprocess.PIPE, start_new_session=True
    )
    assert driver.stdout is not None
    said_ = driver.stdout.readline()
    below = descendants(driver.pid)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    if not said_:
        return mark, [-1]
    return mark, below


def still_there(pids: list[int]) -> list[int]:
    left = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if not status_line(pid, "State").startswith(("Z", "X")):
                left.append(pid)
    return left


@case("driver SIGKILL", Result.CONTAINED, EVERYWHERE, control=False)
def driver_killed(scene: Scene) -> str:
    """Kernels and fork server go when the host process is killed."""
    _, below = _driver_killed(scene, "1")
    if below == [-1]:
        return "the host process to be killed did not start"
    gone = scene.comes_to_hold(lambda: not still_there(below))
    left = still_there(below)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return "" if gone else f"{len(left)} processes are left"


@case("driver SIGKILL, daemons", Result.CONTAINED, NAMESPACED)
def driver_killed_daemons(scene: Scene) -> str:
    """So do daemons that the code detached."""
    mark, below = _driver_killed(scene, DETACH)
    if below == [-1]:
        return "the host process to be killed did not start"
    gone = scene.comes_to_hold(lambda: not marked(mark))
    clean(mark)
    return "" if gone else "a daemon is left"


@case("spawning thread ends", Result.CONTAINED, EVERYWHERE, control=False)
def thread_ends(scene: Scene) -> str:
    """A kernel outlives the thread that started it."""
    loop = asyncio.new_event_loop()
    session = Session(kernel=scene.profile.options(), budget=BUDGET)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            loop.run_until_complete(session.astart())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    if failures:
        return f"it did not start: {failures[0]}"
    time.sleep(0.6)
    try:
        cell = loop.run_until_complete(session.arun("6 * 7"))
        return "" if said(cell) == "42" and not cell.events else "it died with the thread"
    finally:
        loop.run_until_complete(session.aclose())
        loop.close()


@case("host's processes listed", Result.BLOCKED, NAMESPACED, control=True)
def process_list(scene: Scene) -> str:
    """The host's processes, whose command lines may hold secrets, are not listed."""
    word = f"secret-{secrets.token_hex(8)}"
    process = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)", word])
    code = """
import os
for name in os.listdir("/proc"):
    if name.isdigit():
        try: print(*(line for line in [open(f"/proc/{name}/cmdline").read()] if "secret-" in line))
        except OSError: pass
"""
    try:
        return scene.leak(code, word)
    finally:
        process.kill()
        process.wait()
