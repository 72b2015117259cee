"""A real vLLM server as a context manager, and `codevision serve`.

Guarantees: on entering, the server answers; on leaving, and when this process dies in any way, the server and all its
processes are gone (see guard.py). The log stays where a start failed. Does not guarantee that a port found free is
still free a moment later: then the start fails and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kernel_agent.errors import InputError, ModelFailed, ModelTimeout
from kernel_agent.models import vllm_flags
from kernel_agent.models.checkpoint import resolve
from kernel_agent.models.hashes import identity

_GUARD = Path(__file__).with_name("guard.py")


class VLLMServer:
    """`with` or `async with`: a vLLM server for `checkpoint` ("embedded", a folder or a hub name).

    `OpenAIModel(server.model, base_url=server.url)` asks it; once asked, its `describe` tells the flags, the variables and what
    the weights are (see nearby.py). The hashes of large weights are made while the server starts.

    Args:
        port: None takes a free one.
        python: an interpreter that has vLLM; default CODEVISION_VLLM_PYTHON, else the running one.
        served_name: the model's name in requests; default the folder's or hub name.
        images: most images a conversation may hold.
        max_model_len, dtype: as vLLM's flags; default the checkpoint's (a CPU runs float16 as float32).
        extra_args: more vLLM flags; they win over ours.
        start_seconds: how long a start may take.
        log: file for the server's output; default a temporary one, removed after a clean stop.
        on_progress: gets the log's last line as it changes while the server starts.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        python: str | Path | None = None,
        served_name: str | None = None,
        images: int = 48,
        max_model_len: int | None = None,
        dtype: str | None = None,
        extra_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        start_seconds: float = 900.0,
        log: str | Path | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        if port is not None and not 0 < port < 65536:
            raise InputError(f"Port {port} is not between 1 and 65535: give another, or none for a free one.")
        self.source = resolve(checkpoint)
        self.model = served_name or ("embedded" if str(checkpoint) == "embedded" else _served(self.source))
        self.host, self._port = host, port
        interpreter = str(python or os.environ.get("CODEVISION_VLLM_PYTHON") or sys.executable)
        # Absolute (links kept: they are what makes it a venv), since the server runs in another folder.
        self._python = str(Path(interpreter).absolute()) if os.sep in interpreter else interpreter
        self._images, self._max_model_len, self._dtype = images, max_model_len, dtype
        self._extra, self._env = tuple(extra_args), dict(env or {})
        self._start_seconds, self._on_progress = start_seconds, on_progress
        self._own_log = log is None
        self.log = Path(log) if log else Path(tempfile.gettempdir()) / f"codevision-vllm-{os.getpid()}-{id(self):x}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self.port = 0
        self.start_seconds = 0.0
        """How long the start took."""

    @property
    def url(self) -> str:
        """Base URL for clients, up to /v1."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}/v1"

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """The command line of the server."""
        flags = vllm_flags.arguments(
            self.source,
            served_name=self.model,
            host=self.host,
            port=self.port,
            images=self._images,
            max_model_len=self._max_model_len,
            dtype=self._dtype,
            gpu=vllm_flags.has_gpu(),
            extra=self._extra,
        )
        return [self._python, "-m", "vllm.entrypoints.openai.api_server", *flags]

    def __enter__(self) -> Self:
        try:
            self._launch()
            deadline = time.monotonic() + self._start_seconds
            while not self._ready(deadline):
                time.sleep(0.2)
        except BaseException:
            self._stop(failed=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        try:
            self._launch()
            deadline = time.monotonic() + self._start_seconds
            while True:
                if await asyncio.to_thread(self._ready, deadline):
                    break
                await asyncio.sleep(0.2)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._stop, failed=True))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self._stop))

    def wait(self) -> None:
        """Block while the server lives. Raises ModelFailed when it ends by itself."""
        while self.running:
            time.sleep(0.5)
        raise self._failure("stopped by itself")

    def _launch(self) -> None:
        if self._process is not None:
            raise InputError("This VLLMServer runs already: make another one for a second server.")
        self.port = self._port or _free_port(self.host)
        _check_free(self.host, self.port)
        gpu = vllm_flags.has_gpu()
        env = {**os.environ, **vllm_flags.environment(self.source, gpu=gpu), "PYTHONUNBUFFERED": "1", **self._env}
        threading.Thread(target=_hash, args=(self.source,), name="hash", daemon=True).start()
        ours, self._pipe = os.pipe()
        self._started = time.monotonic()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, str(_GUARD), str(ours), *self.command()],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env, pass_fds=(ours,),
                    start_new_session=True,  # Ctrl-C is for us; we stop the server in order
                    cwd=tempfile.gettempdir(),  # `python -m` puts the working folder before everything else
                )  # fmt: skip
        finally:
            os.close(ours)
        self._last_line = ""

    def _ready(self, deadline: float) -> bool:
        if not self.running:
            raise self._failure("did not start")
        if time.monotonic() > deadline:
            raise ModelTimeout(
                f"vLLM for {self.source} was not ready within {self._start_seconds:g} s. Allow more, or look why in {self.log}:\n"
                f"{self._tail()}"
            )
        line = self._tail(1)
        if self._on_progress and line and line != self._last_line:
            self._last_line = line
            self._on_progress(line)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"{self.url.removesuffix('/v1')}/health", timeout=2
            ) as response:
                healthy = bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False
        self.start_seconds = time.monotonic() - self._started
        return healthy

    def _failure(self, what: str) -> ModelFailed:
        code = self._process.poll() if self._process else None
        log = self._text()
        advice = vllm_flags.remedy(f"exit code {code}\n{log[-200_000:]}")
        return ModelFailed(
            f"vLLM for {self.source} {what} (exit code {code}, {self._python}). {advice} Log {self.log}, its end:\n{self._tail()}"
        )

    def _text(self) -> str:
        try:
            return self.log.read_text(errors="replace")
        except OSError:
            return ""

    def _tail(self, lines: int = 15) -> str:
        return "\n".join([line for line in self._text().splitlines() if line.strip()][-lines:])

    def _stop(self, *, failed: bool = False) -> None:
        """Stop the server and wait until it is gone. Stopping twice is fine."""
        process, self._process = self._process, None
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
        if process is not None:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._own_log and not failed:
            self.log.unlink(missing_ok=True)


def serve(
    checkpoint: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    python: str | Path | None = None,
    extra_args: Sequence[str] = (),
    echo: Callable[[str], None] = print,
) -> None:
    """Start a server, print how to use it, and return after Ctrl-C with everything stopped. Raises ModelError."""
    server = VLLMServer(
        checkpoint,
        host=host,
        port=port,
        python=python,
        extra_args=extra_args,
        on_progress=lambda line: echo(f"  {line}"),
    )
    echo(f"Starting vLLM for {server.source} (log: {server.log}) ...")
    with contextlib.suppress(KeyboardInterrupt), server:
        echo(f"Ready after {server.start_seconds:.0f} s: {server.url}")
        echo(f"codevision ask QUESTION IMAGE --base-url {server.url} --model {server.model}")
        echo("Ctrl-C stops it.")
        server.wait()
    echo("Stopped.")


def _hash(source: str) -> None:
    """Have the hashes of a checkpoint's large files remembered, however long it takes."""
    with contextlib.suppress(OSError):
        if Path(source).is_dir():
            identity(source, limit=None)


def _served(source: str) -> str:
    return Path(source).name if Path(source).is_dir() else source


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"Port {port} of {host} cannot be used ({error.strerror}): give another --port, or none."
            ) from None
