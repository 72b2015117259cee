"""A vision-language model in this process, through transformers.

Guarantees: the event loop stays free (loading and generation run in one thread of the model's own, one completion at a
time, in order of asking); cancelling stops generation within a token; greedy decoding gives what vLLM gives for the
same weights and dtype, up to rounding. Does not guarantee speed: completions are not batched and no prefix is cached.
Sampling seeds torch's global generator for the length of a completion and puts it back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_agent.blocking import leave_room_in_environment
from kernel_agent.errors import ModelError, ModelFailed
from kernel_agent.models.checkpoint import embedded_path, resolve, snapshot
from kernel_agent.models.hashes import identity
from kernel_agent.types import Completion, Json, Request

if TYPE_CHECKING:
    from kernel_agent.models.generate import Loaded

_INSTALL = "pip install 'kernel-agent[local]'"
_NOT_HERE = "the checkpoint is not in this machine's hub cache"


def embedded(*, device: str = "auto") -> TransformersModel:
    """The model that ships with the package. Raises ModelFailed where its weights, torch or transformers are missing."""
    return TransformersModel(embedded_path(), device=device, name="embedded")


class TransformersModel:
    """A checkpoint folder or hub name, loaded on the first completion (or by `load`).

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda:0", ...
        dtype: as torch names it ("float32", "bfloat16"); "auto" is the checkpoint's own.
        revision: of a hub checkpoint.

    Raises ModelFailed where torch or transformers are not installed, InputError for a path that is no checkpoint.
    """

    def __init__(
        self,
        path_or_name: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        name: str | None = None,
    ) -> None:
        missing = [package for package in ("torch", "transformers") if importlib.util.find_spec(package) is None]
        if missing:
            raise ModelFailed(f"A model in this process needs {' and '.join(missing)}: {_INSTALL}")
        leave_room_in_environment()
        self._source = resolve(path_or_name)
        self.name = name or Path(self._source).name
        self._device, self._dtype, self._revision = device, dtype, revision
        self._loaded: Loaded | None = None
        self._identity: dict[str, Json] = {}
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"TransformersModel({self._source!r})"

    def load(self) -> None:
        """Load the weights now, in this thread. Raises ModelFailed."""
        if self._loaded is None:
            try:
                from kernel_agent.models.generate import load
            except ImportError as error:
                raise ModelFailed(f"torch and transformers cannot be loaded ({error}): {_INSTALL}") from None
            self._loaded = load(self._source, device=self._device, dtype=self._dtype, revision=self._revision)

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """See `Model.complete`. Raises ModelRefused where the prompt does not fit, ModelFailed where it cannot run."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        cancel = threading.Event()
        first: list[float] = []

        def give(piece: str) -> None:
            first.append(time.monotonic() - started)
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def work() -> Completion:
            try:
                self.load()
                assert self._loaded is not None
                return self._loaded.complete(request, give, cancel)
            except ModelError:
                raise
            except (RuntimeError, ValueError, TypeError, OSError, IndexError, KeyError) as error:
                raise ModelFailed(f"{self.name} failed on this request: {type(error).__name__}: {error}") from error
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{self.name}")
        future = self._thread.submit(work)
        try:
            while (piece := await pieces.get()) is not None:
                if on_text:
                    on_text(piece)
            completion = await asyncio.wrap_future(future)
        finally:
            cancel.set()
            future.cancel()
        return replace(
            completion,
            model=self.name,
            seconds=time.monotonic() - started,
            first_token_seconds=first[0] if first else None,
        )

    async def aclose(self) -> None:
        """Release thread and weights; a completion after this loads them again."""
        thread, self._thread, self._loaded = self._thread, None, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    def describe(self) -> Mapping[str, Json]:
        """Kind, model, revision and hashes of its files (see hashes.py), and once loaded: chat template, dtype, device, versions.

        What is None and why it could not be told is in `not_told`.
        """
        about = self._loaded.about if self._loaded else {}
        if not self._identity:
            wanted = about.get("revision") or self._revision
            local = Path(self._source)
            folder = local if local.is_dir() else snapshot(self._source, wanted, os.environ)
            if folder is not None:
                self._identity = identity(folder)
        files = self._identity or {"revision": self._revision, "weights_sha256": None, "files_sha256": None,
                                   "not_told": {"weights_sha256": _NOT_HERE, "files_sha256": _NOT_HERE}}  # fmt: skip
        return {
            "kind": "transformers",
            "model": self.name,
            "dtype": self._dtype,
            "device": self._device,
            **about,
            **files,
        }
