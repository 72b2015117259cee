"""The `codevision` provisioner: kernels forked from a warm parent where that can be had, else ordinary processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Bool, Enum, Int

from kernel_agent.errors import KernelError
from kernel_agent.provisioners.enclosure import Enclosure
from kernel_agent.provisioners.environment import harmless
from kernel_agent.provisioners.run_folder import RunFolder, kernel_behind
from kernel_agent.provisioners.sandbox.probes import Choice, How, choose, likely
from kernel_agent.provisioners.zygote.parent import ForkedProcess, ForkError, Order, WarmParent
from kernel_agent.provisioners.zygote.parents import Warmth, ask
from kernel_agent.types import Isolation

T = TypeVar("T")

WARM_SECONDS = 30.0
"""How long a kernel waits for its parent to be warm before it starts the ordinary way."""
QUIET_SECONDS = 10.0
"""How long its parent may be silent while it waits for its fork; a hundred others may be before it."""
GONE_SECONDS = 2.0
"""How long `kill` waits for the end of a process."""
_LAUNCHER = "kernel_agent.session.kernel_app"
_KNOWN = {"env", "cwd", "stdin", "stdout", "stderr", "extra_arguments", "kernel_id", "independent"}


class CodeVisionProvisioner(LocalProvisioner):
    """Starts this package's own kernels, isolated, and takes the children the code started along when one is killed.

    Every kernel has a folder of its own (run_folder.py), the harmless part of the environment (environment.py) and the walls
    that its level asks for (enclosure.py). At the level `none`, children that made a session of their own are not reached.

    Attributes:
        run_folder: sockets, connection file and scratch space of the kernel; None before the first launch.
        why_not_forked: why the running kernel is an ordinary process; empty where it is a fork.
        why_killed: why it was killed for what it used; empty where it was not.
    """

    isolation: str = Enum(["auto", *Isolation], "auto", help="Isolation, as types.KernelOptions has it.").tag(
        config=True
    )  # type: ignore[assignment]
    namespaces: str = Enum(["auto", "own", "bubblewrap"], "auto", help="Who makes those of `strong`.").tag(config=True)  # type: ignore[assignment]
    fork: bool = Bool(True, help="Fork kernels of this package's own launcher from a warm parent.").tag(config=True)  # type: ignore[assignment]
    memory_mb: int = Int(4096, help="Memory of the kernel and its processes, in MiB.").tag(config=True)  # type: ignore[assignment]
    why_not_forked = ""
    run_folder: RunFolder | None = None
    _enclosure: Enclosure | None = None
    _killed = ""

    @property
    def choice(self) -> Choice:
        """Isolation of the running kernel, how it is had, and what did not work."""
        return self._enclosure.choice if self._enclosure else Choice(level=Isolation.NONE, how=How.NOTHING)

    @property
    def level(self) -> str:
        """Isolation of the running kernel, as `types.Isolation` has it."""
        return str(self.choice.level)

    @property
    def why_killed(self) -> str:
        """Why the kernel was killed for what it used; "" where it was not."""
        return self._killed or (self._enclosure.reason if self._enclosure else "")

    def look(self) -> None:
        """A cell has been running for a while."""
        if self._enclosure is not None:
            self._enclosure.look()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Fix the connection, the environment and the command line."""
        self.run_folder = self.run_folder or RunFolder()
        self.run_folder.move_in(self.parent)
        kwargs = await super().pre_launch(**kwargs)
        kwargs["cwd"] = kwargs.get("cwd") or str(self.run_folder.work)
        kwargs["cmd"] = self.run_folder.hand_over(self.parent, kwargs["cmd"])
        return kwargs

    def _finalize_env(self, env: dict[str, str]) -> None:
        """Keep what is harmless and what the kernelspec itself sets."""
        super()._finalize_env(env)
        assert self.run_folder is not None
        kept = {"IPYTHONDIR": str(self.run_folder.ipython)} | harmless(env)
        env |= kept  # its own
        for name in env.keys() - kept.keys() - self.kernel_spec.env.keys():
            del env[name]

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork, or start a process, at the level that is wanted. Raises KernelError where that cannot be had.

        Which level works is tried out once in a process; the first kernel is started meanwhile at the one that most
        likely does, and again if that was wrong.
        """
        if self.isolation != Isolation.NONE and (why := _foreign(cmd)):
            raise KernelError(f"Isolation is for this package's own kernels, and {why}: {' '.join(cmd)}.")
        trying = asyncio.ensure_future(asyncio.to_thread(choose, self.isolation, self.namespaces))
        try:
            guess = likely(self.isolation, self.namespaces)
            if guess.how is How.ENGINE:  # nothing is started by an engine that may not be there
                guess = await trying
            await self._launch(guess, cmd, kwargs)
            choice = await trying
        except BaseException:
            await self._undo()
            trying.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise
        if (choice.level, choice.how) != (guess.level, guess.how):
            await self._undo()
            await self._launch(choice, cmd, kwargs)
        elif self._enclosure is not None:
            self._enclosure.choice = choice
        return self.connection_info

    async def _launch(self, choice: Choice, cmd: list[str], options: dict[str, Any]) -> None:
        assert self.run_folder is not None
        self._killed = ""
        self._enclosure = Enclosure(choice, self.run_folder, self.memory_mb)
        try:
            self.process: Any = await self._fork(cmd, options)
            self.why_not_forked = ""
        except (ForkError, OSError) as error:
            self.why_not_forked = str(error)
            if self._enclosure.plan is None:
                await super().launch_kernel(cmd, **options)
                return
            with _stdio(options) as stdio:
                env = self._enclosure.environment(options["env"])
                self.process = self._enclosure.spawn(cmd, env, stdio)
        self.pid = self.pgid = self.process.pid
        self._enclosure.watch(self.pid, self._note)

    def _note(self, reason: str) -> None:
        self._killed = reason

    async def _undo(self) -> None:
        """No kernel after all."""
        if self.process is not None:
            await self.kill()
            await asyncio.to_thread(self.process.wait)
            self.process = None
        if self._enclosure is not None:
            self._enclosure.close()
            self._enclosure = None

    async def _fork(self, cmd: list[str], options: dict[str, Any]) -> ForkedProcess:
        assert self._enclosure is not None
        env, plan = options["env"], self._enclosure.plan
        if not self.fork:
            raise ForkError("forking is switched off")
        if why := _refusal(cmd, options, env):
            raise ForkError(why)
        if self._enclosure.choice.how not in (How.OWN, How.FILTERS, How.NOTHING):
            raise ForkError(f"{self._enclosure.choice.how} starts programs, and does not isolate a fork")
        parent = ask(Warmth.of(tuple(cmd[:-4]), env))
        if isinstance(parent, str):
            raise ForkError(parent)
        warm = await _within(WARM_SECONDS, parent, lambda late: None)
        order = Order(
            file=cmd[-1],
            cwd=str(options["cwd"]),
            env=self._enclosure.environment(env),
            plan=plan.to_json() if plan is not None else "",
        )
        with _stdio(options) as descriptors:
            asked = warm.spawn(order, descriptors)
        return await _within(QUIET_SECONDS, asked, ForkedProcess.kill, warm)

    async def send_signal(self, signum: int) -> None:
        """A signal to the kernel's process group."""
        if isinstance(self.process, ForkedProcess):
            self.process.signal_group(signum)
        elif self._enclosure is not None and self._enclosure.signal(signum):
            return
        elif not self._signal_kernel(signum):
            await super().send_signal(signum)

    def _signal_kernel(self, signum: int) -> bool:
        """A signal to a kernel that is not the process launched here but a descendant of it: to its group, if it has one."""
        kernel = kernel_behind(self.parent, self.pid) if self.process and self.pid else None
        if kernel is None or kernel == self.pid:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(kernel) == kernel:
                os.killpg(kernel, signum)
            else:  # the launcher's group: it would take the signal for its own
                os.kill(kernel, signum)
        return True

    async def kill(self, restart: bool = False) -> None:
        """SIGKILL to the kernel's process group; a forked kernel is gone when this returns (jupyter_client would poll)."""
        if isinstance(self.process, ForkedProcess):
            self.process.signal_group(signal.SIGKILL)
            self.process.kill()
            with contextlib.suppress(ForkError):
                await _within(GONE_SECONDS, self.process.ended, lambda late: None)
        else:
            if self._enclosure is not None:
                self._enclosure.signal(signal.SIGKILL)
            self._signal_kernel(signal.SIGKILL)
            self._kill_group()
            await super().kill(restart=restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Whatever of the group outlived an ordinary kernel goes too; a forked one's is gone already."""
        if self.why_not_forked:
            self._kill_group()
        await super().cleanup(restart=restart)
        if self._enclosure is not None:
            self._killed = self.why_killed
            self._enclosure.close()
            self._enclosure = None
        if self.run_folder is not None and not restart:
            self.run_folder.close()
            self.run_folder = None

    def _kill_group(self) -> None:
        if self.pid and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def _foreign(cmd: list[str]) -> str:
    """Why this is not the command of a kernel of ours; empty where it is."""
    return "" if len(cmd) >= 5 and cmd[-4:-1] == ["-m", _LAUNCHER, "-f"] else "the kernel is not this package's own"


def _refusal(cmd: list[str], options: dict[str, Any], env: dict[str, str]) -> str:
    """Why this launch is not one that a fork can stand for; empty where it is."""
    if why := _foreign(cmd):
        return why
    if options.get("independent") or options.get("stdin") is not None or options.keys() - _KNOWN:
        return "the kernel is launched with options that a fork does not have"
    if subprocess.PIPE in (options.get("stdout"), options.get("stderr")):
        return "the kernel's output is wanted through a pipe"
    profile = Path(env.get("IPYTHONDIR") or "~/.ipython").expanduser() / "profile_default"
    if any(profile.glob("*_config.*")) or any(profile.glob("startup/*.*py")):
        return f"{profile} holds settings of the user's own"
    return ""


@contextlib.contextmanager
def _stdio(options: dict[str, Any]) -> Iterator[list[int]]:
    """Descriptors for the kernel's 0, 1 and 2; those opened here are closed again."""
    with Path(os.devnull).open("r+b") as nowhere:

        def descriptor(value: Any, default: int) -> int:
            if value is None:
                return default
            if value == subprocess.DEVNULL:
                return nowhere.fileno()
            return int(value if isinstance(value, int) else value.fileno())

        out = descriptor(options.get("stdout"), 1)
        err = out if options.get("stderr") == subprocess.STDOUT else descriptor(options.get("stderr"), 2)
        yield [nowhere.fileno(), out, err]


async def _within(
    seconds: float, future: Future[T], unwanted: Callable[[T], object], parent: WarmParent | None = None
) -> T:
    """Wait from any event loop, and on while the parent is heard of. A result that comes too late goes to `unwanted`."""

    def late(done: Future[T]) -> None:
        if done.exception() is None:
            unwanted(done.result())

    try:
        while True:
            heard = parent.heard if parent else 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await _result(future)
            if parent is None or parent.heard == heard:
                break
    except asyncio.CancelledError:
        future.add_done_callback(late)
        raise
    future.add_done_callback(late)
    if parent is not None:
        parent.late = True
    raise ForkError(f"the fork server did not answer within {seconds:.0f} s")


async def _result(future: Future[T]) -> T:
    """Its result, which may come when this waits no more, or its loop is closed."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tell(future: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(tell)
    await done.wait()
    return future.result()
