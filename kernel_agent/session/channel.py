"""One live kernel process and the messages to and from it.

Guarantees: every message is read as it comes (one reader a channel), a cell gets only messages whose parent is its own
request, it is done on its reply AND its idle, and a kernel that dies ends every wait within half a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from kernel_agent.errors import KernelError
from kernel_agent.types import KernelOptions

POLL_SECONDS = 0.25
_KEPT_ENVIRONMENT = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TEMP",
    "TMP",
    "VIRTUAL_ENV",
    "SYSTEMROOT",
)
_KEPT_PREFIXES = ("LC_", "PYTHON", "LD_LIBRARY", "DYLD_", "FONTCONFIG", "XDG_CACHE", "OMP_", "OPENBLAS_", "MKL_")

Message = Mapping[str, Any]


class KernelDied(Exception):
    """The kernel process ended, or its channel broke, while something was waited for."""


def kernel_environment(folder: Path) -> dict[str, str]:
    """The kernel's environment: what Python needs and nothing else, so no key or token of the user's gets in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_ENVIRONMENT or name.startswith(_KEPT_PREFIXES)
    }
    kept.setdefault("PYTHONHASHSEED", "0")
    kept.setdefault("OPENBLAS_NUM_THREADS", "1")
    return {**kept, "IPYTHONDIR": str(folder / "ipython"), "PYTHONDONTWRITEBYTECODE": "1"}


class _Specs(KernelSpecManager):
    """A spec manager that knows our one kernel."""

    options = KernelOptions()

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-P", "-m", "kernel_agent.session.kernel_app", "-f", "{connection_file}"]
        return KernelSpec(
            argv=argv,
            display_name="CodeVision",
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": self.options.provisioner, "config": self._config()}},
        )

    def _config(self) -> dict[str, Any]:
        return {"fork": self.options.fork} if self.options.provisioner == "codevision" else {}


class _Pending:
    """A request under way."""

    def __init__(self, on_output: Callable[[Message], None], *, iopub: bool) -> None:
        self.on_output = on_output
        self.reply: Message | None = None
        self.idle = not iopub
        self.done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def settle(self) -> None:
        if self.reply is not None and self.idle and not self.done.done():
            self.done.set_result(self.reply)


@functools.cache
def _context() -> zmq.asyncio.Context:
    """The process's ZMQ context, with no limit on queued messages. Each socket belongs to the loop it is made in."""
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.RCVHWM, 0)
    return context


class KernelChannel:
    """Starts a kernel in `folder`, runs requests on it, stops it. Not restartable: make a new one."""

    def __init__(self, folder: Path, options: KernelOptions) -> None:
        self.folder = folder
        self._pending: dict[str, _Pending] = {}
        self._broken: KernelDied | None = None
        self._tasks: list[asyncio.Task[None]] = []
        specs = _Specs()
        specs.options = options
        self._manager = AsyncKernelManager(
            kernel_name="codevision",
            kernel_spec_manager=specs,
            transport="ipc",
            ip=str(folder / f"k{uuid.uuid4().hex[:6]}"),
            connection_file=str(folder / "kernel.json"),
            context=_context(),
        )
        self._client: AsyncKernelClient | None = None

    async def start(self, *, seconds: float = 60.0) -> None:
        """Start the process and wait until a request's reply and its iopub messages come back.

        Raises KernelError when it does not answer within `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._start()
        except (TimeoutError, KernelDied) as error:
            await self.stop()
            raise KernelError(
                f"The kernel did not answer within {seconds:.0f} s. Its last words: {self._last_words()!r}. "
                "Run `codevision doctor` to see what this machine lacks."
            ) from error
        except BaseException:  # a cancel among them: no process, task or socket stays
            await self.stop()
            raise

    async def _start(self) -> None:
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        try:
            with (self.folder / "kernel.log").open("ab") as log:
                await self._manager.start_kernel(
                    cwd=str(work), env=kernel_environment(self.folder), stdout=log, stderr=log
                )
        except Exception as error:
            raise KernelError(f"The kernel process could not be started: {error}. Run `codevision doctor`.") from error
        client = self._manager.client(context=_context())
        client.start_channels(stdin=False, hb=False)
        self._client = client
        for channel in (client.iopub_channel, client.shell_channel, client.control_channel):
            self._tasks.append(asyncio.create_task(self._read(channel)))
        self._tasks.append(asyncio.create_task(self._watch()))
        await self._handshake()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "kernel.log").read_text(errors="replace")[-800:].strip()
        return ""

    async def _handshake(self) -> None:
        """Ask until both channels answer: iopub subscribes late, so a first request's messages may be lost."""
        while True:
            pending = self._send("kernel_info_request", {}, lambda message: None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1 if pending.reply else 1.0):
                    await asyncio.shield(pending.done)
                    return

    @property
    def pid(self) -> int | None:
        """Process id of the kernel, where it has one."""
        return getattr(self._manager.provisioner, "pid", None)

    @property
    def alive(self) -> bool:
        """Whether the process was there when last looked at."""
        return self._client is not None and self._broken is None

    @property
    def isolation(self) -> str:
        """The provisioner's isolation level."""
        return str(getattr(self._manager.provisioner, "level", "unknown"))

    async def execute(self, code: str, on_output: Callable[[Message], None], *, silent: bool = False) -> Message:
        """Run code and wait for its end. `on_output` gets each of its iopub messages. Raises KernelDied.

        Cancelling the wait does not stop the cell: `interrupt` does.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        return await asyncio.shield(self._send("execute_request", content, on_output).done)

    def _send(self, kind: str, content: dict[str, Any], on_output: Callable[[Message], None]) -> _Pending:
        if self._broken is not None:
            raise self._broken
        assert self._client is not None
        message = self._client.session.msg(kind, content)
        pending = _Pending(on_output, iopub=True)
        pending.done.add_done_callback(_retrieve)
        self._pending[message["header"]["msg_id"]] = pending
        self._client.shell_channel.send(message)
        return pending

    async def _read(self, channel: Any) -> None:
        """Drain one channel for as long as the kernel lives."""
        while True:
            try:
                message = await channel.get_msg(timeout=None)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # a message that is no Jupyter message: this kernel cannot be trusted any more
                self._fail(KernelDied(f"unreadable message: {error}"))
                return
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        parent = message.get("parent_header", {}).get("msg_id")
        pending = self._pending.get(parent) if isinstance(parent, str) else None
        if pending is None:
            return
        kind = message["msg_type"]
        if kind.endswith("_reply"):
            pending.reply = message
        elif kind == "status":
            pending.idle = pending.idle or message["content"].get("execution_state") == "idle"
        else:
            pending.on_output(message)
        pending.settle()
        if pending.done.done():
            del self._pending[parent]

    async def _watch(self) -> None:
        """End every wait when the process is gone."""
        while await self._manager.is_alive():  # noqa: ASYNC110 (a process has no event to await)
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(0.05)  # let the readers take what it still said
        self._fail(KernelDied("the kernel process ended"))

    def _fail(self, error: KernelDied) -> None:
        self._broken = self._broken or error
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
        self._pending.clear()

    async def interrupt(self) -> None:
        """SIGINT."""
        with contextlib.suppress(Exception):  # it may be dying; the caller goes on to `stop`
            await self._manager.interrupt_kernel()

    async def stop(self) -> None:
        """Kill the process group and close the sockets. Safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._fail(KernelDied("the session was closed"))
        if self._client is not None:
            self._client.stop_channels()
            self._client = None
        if self._manager.has_kernel:
            await self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_ipc_files()


def _retrieve(future: asyncio.Future[Message]) -> None:
    """Mark a failure as seen: nobody may be waiting any more."""
    if not future.cancelled():
        future.exception()
