"""What all addresses share: who may ask, JSON in and out, errors as JSON, paths that stay in the root folder."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from kernel_agent.errors import CodeVisionError, InputError, KernelError, LiveError, ModelError, NoSuchRun, StorageError
from kernel_agent.live import LiveRun, Runs
from kernel_agent.types import Json

Method = Callable[..., Awaitable[None]]
Answered = Callable[..., Awaitable[None] | None]


def guarded(method: Method) -> Answered:
    """Only for who is logged in and allowed; our errors become answers with a `message`."""

    @wraps(method)
    async def answer(handler: Handler, **parts: str) -> None:
        try:
            await method(handler, **parts)
        except LiveError as error:
            handler.refuse(404 if isinstance(error, NoSuchRun) else 409, error)
        except InputError as error:
            handler.refuse(400, error)
        except StorageError as error:
            handler.refuse(507, error)
        except (ModelError, KernelError) as error:
            handler.refuse(502, error)
        except CodeVisionError as error:
            handler.refuse(400, error)

    return web.authenticated(authorized(answer))


class Handler(APIHandler):
    """Base of the handlers."""

    auth_resource = "contents"

    @property
    def runs(self) -> Runs:
        """The server's runs."""
        runs: Runs = self.settings["codevision_runs"]
        return runs

    @property
    def root(self) -> Path:
        """The server's root folder, resolved."""
        root: Path = self.settings["codevision_root"]
        return root

    async def run_of(self, run_id: str) -> LiveRun:
        """The run with this id. NoSuchRun where there is none."""
        return await asyncio.to_thread(self.runs.get, run_id)

    def body(self) -> dict[str, Json]:
        """The request's JSON object. InputError where it is none."""
        data = self.get_json_body()
        if not isinstance(data, dict):
            raise InputError("the body must be a JSON object")
        return data

    def number(self, name: str, default: int) -> int:
        """A whole number of the query. InputError where it is none."""
        text = self.get_query_argument(name, str(default))
        if len(text) > 15 or not text.removeprefix("-").isdecimal():
            raise InputError(f"{name}={text!r:.40} is no whole number")
        return int(text)

    def give(self, data: Json, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(data)

    def refuse(self, status: int, error: Exception) -> None:
        """Answer with what is wrong."""
        self.give({"message": str(error)}, status)

    def inside(self, path: Json) -> Path:
        """A path of the server's root folder, resolved. InputError where it leaves the folder, is hidden or is no file."""
        if not isinstance(path, str) or not path or "\0" in path:
            raise InputError(f"{path!r:.80} is no path of a file")
        relative = path.replace("\\", "/").lstrip("/")
        try:
            target = (self.root / relative).resolve()
            there = target.is_file()
        except OSError as error:
            raise InputError(f"{path!r:.80} is no path of a file: {error.strerror}") from error
        if not target.is_relative_to(self.root) or any(
            part.startswith(".") for part in target.relative_to(self.root).parts
        ):
            raise InputError(f"{path!r:.200} is not in the server's folder, or is hidden")
        if not there:
            raise InputError(f"there is no file {path!r:.200} in the server's folder")
        return target

    def shown(self, path: str | Path | None) -> str | None:
        """A path as the page knows it: relative to the root folder; None for one outside."""
        if path is None or not Path(path).is_relative_to(self.root):
            return None
        return Path(path).relative_to(self.root).as_posix()
