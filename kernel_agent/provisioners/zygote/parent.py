"""The host's end of one warm parent, and of the kernels forked from it.

Guarantees: usable from any thread and event loop; a future for a kernel ends in a kernel or an error, whatever happens
to the parent; when the parent is gone, every kernel of it is dead, its process group too, and says so. Sending never
blocks an event loop: at most `IN_FLIGHT` orders are on the wire, fewer where they are large.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

IN_FLIGHT = 8
_SERVER = "kernel_agent.provisioners.zygote.server"
_PACKET_BYTES = 1 << 16
_MAX_ORDER_BYTES = 100_000


class ForkError(Exception):
    """The parent could not be started, died, or could not fork."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a new kernel needs: its connection file, working directory, whole environment, and its sandbox's plan as JSON."""

    file: str
    cwd: str
    env: Mapping[str, str]
    plan: str = ""


class ForkedProcess:
    """A kernel's process, with the part of `subprocess.Popen` that jupyter_client's provisioners use."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.ended: Future[int] = Future()

    def poll(self) -> int | None:
        """The exit status (negative: the signal), None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status. Raises subprocess.TimeoutExpired."""
        try:
            return self.ended.result(timeout)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired("kernel", timeout or 0.0) from error

    def send_signal(self, number: int) -> None:
        """A signal to the process alone; nothing once it is over."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """A signal to its process group; nothing once it is over (then the group is gone too)."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def end(self, status: int) -> None:
        """It is over, with this status (the first one said counts)."""
        if self.returncode is None:
            self.returncode = status
            self.ended.set_result(status)


def _copies(descriptors: Sequence[int]) -> list[int]:
    """Duplicates of all, or of none. Raises OSError where there are no descriptors left."""
    made: list[int] = []
    try:
        made.extend(os.dup(descriptor) for descriptor in descriptors)
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    return made


@dataclass(kw_only=True, eq=False)
class _Asked:
    """An order that has no process yet."""

    number: int
    packet: bytes
    descriptors: list[int]
    result: Future[ForkedProcess]
    process: ForkedProcess | None = None


class WarmParent:
    """A warm parent process. `ready` ends when it can fork, or in ForkError."""

    def __init__(self, interpreter: Sequence[str], env: Mapping[str, str]) -> None:
        """Start it. Raises OSError where there is no such interpreter."""
        self.ready: Future[WarmParent] = Future()
        self.why = ""
        self.heard = 0
        """How many messages came from it: it is at work as long as this grows."""
        self.late = False
        """Somebody gave up waiting, and nothing was heard since."""
        self._lock = threading.Lock()
        self._waiting: deque[_Asked] = deque()
        self._sent: dict[int, _Asked] = {}
        self._kernels: dict[int, tuple[int, ForkedProcess]] = {}  # by process id
        self._count = 0
        self._dead = False
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [*interpreter, "-m", _SERVER, str(theirs.fileno()), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=os.sep,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
            threading.Thread(target=self._listen, name="codevision-fork", daemon=True).start()
        except BaseException:  # where it runs already, it sees that the link is closed
            theirs.close()
            self._link.close()
            self._words.close()
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it may be asked for kernels (it may be warming up still)."""
        return not self._dead

    @property
    def busy(self) -> bool:
        """Whether kernels of it run or are asked for."""
        return bool(self._kernels or self._sent or self._waiting)

    def spawn(self, order: Order, stdio: Sequence[int]) -> Future[ForkedProcess]:
        """Ask for a kernel with these descriptors as 0, 1 and 2 (copied here). The future may raise ForkError."""
        with self._lock:
            self._count += 1
            number = self._count
        message = {"id": number, "file": order.file, "cwd": order.cwd, "env": dict(order.env), "plan": order.plan}
        packet = json.dumps(message).encode()
        if len(packet) > _MAX_ORDER_BYTES:
            raise ForkError(f"the environment of {len(packet)} bytes is over {_MAX_ORDER_BYTES}")
        asked = _Asked(number=number, packet=packet, descriptors=_copies(stdio), result=Future())
        with self._lock:
            self._waiting.append(asked)
        self._pump()
        return asked.result

    def close(self) -> None:
        """End it, and with it every kernel it forked. Returns at once; safe to call twice."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked copy of the host: let go of what belongs to the original."""
        self._dead = True
        self._link.close()

    def _pump(self) -> None:
        """Send what may be sent."""
        failed: list[tuple[_Asked, str]] = []
        with self._lock:
            while self._waiting and (self._dead or len(self._sent) < IN_FLIGHT):
                asked = self._waiting[0]
                try:
                    if self._dead:
                        raise OSError(self.why or "the fork server is gone")
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", asked.descriptors))
                    self._link.sendmsg([asked.packet], [rights], socket.MSG_DONTWAIT)
                    self._sent[asked.number] = asked
                except BlockingIOError:  # the socket is full of what is sent: its answers bring us back here
                    break
                except OSError as error:
                    failed.append((asked, str(error)))
                self._waiting.popleft()
                for descriptor in asked.descriptors:
                    os.close(descriptor)
        for asked, why in failed:
            asked.result.set_exception(ForkError(why))

    def _listen(self) -> None:
        """Take the parent's messages until it is gone, or says what it cannot mean."""
        try:
            while data := self._link.recv(_PACKET_BYTES):
                self.heard += 1
                self.late = False
                self._take(json.loads(data))
                self._pump()
        except OSError:
            pass
        finally:
            self._over()

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.ready.set_result(self)
            return
        if "exit" in message:
            with self._lock:
                number, process = self._kernels.pop(message["pid"], (0, None))
                unborn = self._sent.pop(number, None)
            if process is not None:
                process.end(message["exit"])
            if unborn is not None:
                unborn.result.set_exception(ForkError(f"it died at birth: {message['exit']}"))
        elif "pid" in message:
            with self._lock:
                process = self._sent[message["id"]].process = ForkedProcess(message["pid"])
                self._kernels[process.pid] = message["id"], process
        else:
            with self._lock:
                asked = self._sent.pop(message["id"], None)
            if asked is not None and "bound" in message and asked.process is not None:
                asked.result.set_result(asked.process)
            elif asked is not None:
                asked.result.set_exception(ForkError(message.get("error", "it has no process")))

    def _over(self) -> None:
        """It is gone: so are its kernels."""
        with self._lock:  # nobody is sending
            self._dead = True
            self._link.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        if self._process.poll() is None:  # it hangs
            self._process.kill()
        status = self._process.wait()
        self._words.seek(0)
        words = self._words.read()[-800:].decode(errors="replace").strip()
        self._words.close()
        self.why = f"the fork server ended with status {status}. {words}".strip()
        with self._lock:
            unborn, kernels = list(self._sent.values()), [process for _, process in self._kernels.values()]
            self._sent.clear()
            self._kernels.clear()
        for kernel in kernels:
            kernel.signal_group(signal.SIGKILL)
            kernel.kill()
            kernel.end(-signal.SIGKILL)
        for asked in unborn:
            asked.result.set_exception(ForkError(self.why))
        if not self.ready.done():
            self.ready.set_exception(ForkError(self.why))
        self._pump()
