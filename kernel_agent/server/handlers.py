"""The addresses under /codevision/api: starting, listing, watching and steering runs."""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import replace
from typing import Any

from jupyter_server.utils import url_path_join

from kernel_agent import __version__
from kernel_agent.errors import InputError, KernelError, LiveError, NoSuchRun
from kernel_agent.live import RunOptions
from kernel_agent.server.base import Handler, guarded
from kernel_agent.server.stream import EventsHandler
from kernel_agent.trajectory import export
from kernel_agent.types import Isolation, Json

MAX_IMAGES = 32
_ID = r"(?P<run_id>[^/]+)"


class StatusHandler(Handler):
    """What this server has."""

    @guarded
    async def get(self) -> None:
        """Version, isolation level, defaults."""
        from kernel_agent.protocols import PROTOCOLS

        isolation = await asyncio.to_thread(_isolation, str(self.runs.kernel.isolation))
        defaults = self.runs.defaults
        self.give(
            {
                "version": __version__,
                "isolation": isolation,
                "isolation_levels": [str(level) for level in Isolation if level is not Isolation.NONE],
                "protocols": list(PROTOCOLS),
                "defaults": {"model": defaults.model, "base_url": defaults.base_url},
                "folder": self.shown(self.runs.folder),
            }
        )


class RunsHandler(Handler):
    """All runs."""

    @guarded
    async def get(self) -> None:
        """A list, newest first: `search` in questions and answers, at most `limit`."""
        limit = max(1, min(self.number("limit", 100), 1000))
        search = self.get_query_argument("search", "")[:500]
        lines = await asyncio.to_thread(self.runs.listed, search, limit)
        self.give({"runs": [{**line, "path": self.shown(line["path"])} for line in lines]})

    @guarded
    async def post(self) -> None:
        """Start a run."""
        body = self.body()
        question, images = body.get("question"), body.get("images")
        if not isinstance(question, str) or not isinstance(images, list):
            raise InputError("a run needs a question (text) and images (a list)")
        if not 1 <= len(images) <= MAX_IMAGES:
            raise InputError(f"{len(images)} images: give 1 to {MAX_IMAGES}")
        options = RunOptions.from_json(body.get("options") or {})
        user = getattr(self.current_user, "username", None) or "user"
        sources = [self._image(item) for item in images]
        run = await asyncio.to_thread(self.runs.start, question, sources, replace(options, by=user))
        self.give({"id": run.id}, 201)

    def _image(self, item: Json) -> Any:
        if isinstance(item, dict) and "path" in item:
            return self.inside(item["path"])
        if not isinstance(item, dict) or not isinstance(item.get("data"), str):
            raise InputError("an image is {path} of the server's folder, or {name, data} with base64 data")
        most = self.settings["codevision_max_upload"]
        if len(item["data"]) > most * 4 // 3 + 4:
            raise InputError(
                f"an image has more than {most >> 20} MiB: put it into the server's folder, or make it smaller"
            )
        try:
            return base64.b64decode(item["data"], validate=True)
        except binascii.Error as error:
            raise InputError(f"an image's data is no base64: {error}") from error


class OpenHandler(Handler):
    """A saved run."""

    @guarded
    async def post(self) -> None:
        """Open a trajectory notebook of the server's folder."""
        path = self.inside(self.body().get("path"))
        run = await asyncio.to_thread(self.runs.open, path)
        self.give({"id": run.id})


class RunHandler(Handler):
    """One run."""

    @guarded
    async def delete(self, run_id: str) -> None:
        """Close it: its kernel ends, its notebook stays."""
        run = await self.run_of(run_id)
        await asyncio.wrap_future(run.submit("close"))
        self.set_status(204)
        self.finish()


class CommandsHandler(Handler):
    """Steering."""

    @guarded
    async def post(self, run_id: str) -> None:
        """Carry out a command; the answer has the id of the branch, where one is made."""
        body = self.body()
        command = body.pop("command", None)
        if not isinstance(command, str):
            raise InputError("a command needs its name, as in {command: 'stop'}")
        run = await self.run_of(run_id)
        branch = await asyncio.wrap_future(run.submit(command, **body))
        self.give({"id": branch.id} if branch is not None else {})


class ImageHandler(Handler):
    """The pictures of a run."""

    @guarded
    async def get(self, run_id: str, index: str) -> None:
        """`kind=data`: at full size; `kind=view` (default): as the model sees it."""
        run = await self.run_of(run_id)
        found = [image for image in run.trajectory.images if str(image.index) == index]
        kind = self.get_query_argument("kind", "view")
        if not found or kind not in ("view", "data"):
            raise NoSuchRun(f"this run has no image {index!r:.20} of kind {kind!r:.20}")
        image = found[0]
        mime = image.view_mime if kind == "view" else image.mime
        data = await asyncio.to_thread(getattr, image, kind)
        self.set_header("Content-Type", mime if mime in _SHOWN else "application/octet-stream")
        self.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")
        self.finish(data, set_content_type=self._headers["Content-Type"])


class CellsHandler(Handler):
    """A run as notebook cells."""

    @guarded
    async def get(self, run_id: str) -> None:
        """nbformat 4 cells of the whole run, or of one `turn`, to insert into another notebook."""
        turn = self.number("turn", -1)
        run = await self.run_of(run_id)
        cells = await asyncio.to_thread(export.to_insert, run.trajectory, turn=None if turn < 0 else turn)
        self.give({"cells": cells})


class PathHandler(Handler):
    """A run's notebook."""

    @guarded
    async def get(self, run_id: str) -> None:
        """Its path in the server's folder."""
        run = await self.run_of(run_id)
        path = self.shown(run.trajectory.path)
        if path is None:
            raise LiveError("this run has no notebook in the server's folder")
        self.give({"path": path})


_SHOWN = {"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"}


def handlers() -> list[tuple[str, type]]:
    """All addresses."""
    table: list[tuple[str, type]] = [
        ("status", StatusHandler),
        ("runs", RunsHandler),
        ("runs/open", OpenHandler),
        (f"runs/{_ID}", RunHandler),
        (f"runs/{_ID}/events", EventsHandler),
        (f"runs/{_ID}/commands", CommandsHandler),
        (rf"runs/{_ID}/images/(?P<index>[^/]+)", ImageHandler),
        (f"runs/{_ID}/cells", CellsHandler),
        (f"runs/{_ID}/path", PathHandler),
    ]
    return [(url_path_join("/codevision/api", address), handler) for address, handler in table]


def _isolation(wanted: str) -> Json:
    """The level that kernels get here, or why none can be had."""
    from kernel_agent.provisioners.sandbox import probes

    try:
        return {"level": str(probes.choose(wanted).level), "why": None}
    except KernelError as error:
        return {"level": None, "why": str(error)}
