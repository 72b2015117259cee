"""A real kernel with the magics loaded, spoken to as a page does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.stock_kernels import socket_files

SETUP = """
%load_ext kernel_agent
from PIL import Image
photo = Image.new("RGB", (60, 40), "red")
"""


class Cell:
    """What came of a cell."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = ""

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [message["content"] for message in self.messages if message["msg_type"] == kind]

    @property
    def text(self) -> str:
        return "".join(content["text"] for content in self.all("stream"))

    @property
    def result(self) -> dict[str, Any]:
        [content] = self.all("execute_result")
        data: dict[str, Any] = content["data"]
        return data

    def events(self) -> list[dict[str, Any]]:
        """What the live view was told, in order."""
        sent = [content["data"].get("content") or {} for content in self.all("comm_msg")]
        return [event for message in sent if message.get("type") == "events" for event in message["events"]]


class Notebook:
    """A page: runs cells, clicks while they run."""

    def __init__(self, client: BlockingKernelClient, manager: KernelManager) -> None:
        self.client, self.manager = client, manager

    def start(self, code: str) -> str:
        return str(self.client.execute(code))

    def finish(
        self, cell_id: str, on: Callable[[dict[str, Any], Cell], None] | None = None, seconds: float = 90
    ) -> Cell:
        """Until the cell has ended; `on` is called with each message and what came so far."""
        cell, end = Cell(), time.monotonic() + seconds
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            if message["parent_header"].get("msg_id") == cell_id:
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    break
            elif message["msg_type"] not in ("comm_msg", "comm_open"):
                continue
            cell.messages.append(message)
            if on is not None:
                on(message, cell)
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
            if reply["parent_header"].get("msg_id") == cell_id:
                cell.status = reply["content"]["status"]
                return cell

    def run(self, code: str, **options: Any) -> Cell:
        return self.finish(self.start(code), **options)

    def good(self, code: str, **options: Any) -> Cell:
        cell = self.run(code, **options)
        assert cell.status == "ok", cell.text + str(cell.all("error"))
        return cell

    def click(self, cell: Cell, **message: Any) -> None:
        """Send a message of the page's live view, which the cell has opened."""
        views = [content for content in cell.all("comm_open") if "_esm" in content["data"].get("state", {})]
        content = {"comm_id": views[-1]["comm_id"], "data": {"method": "custom", "content": message}}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", content))


@pytest.fixture(scope="module")
def _kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CODEVISION")}
    with socket_files() as sockets:
        manager = KernelManager(kernel_name="python3", **sockets)
        manager.start_kernel(cwd=str(folder), env={**environment, "IPYTHONDIR": str(folder / "ipython")})
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            yield Notebook(client, manager)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(_kernel: Notebook, tmp_path: Path) -> Iterator[Notebook]:
    """A fresh start in a kernel that the tests of a module share."""
    _kernel.good(f"%cd -q {tmp_path}" + SETUP)
    yield _kernel
    _kernel.good("%unload_ext kernel_agent\n%reset -f")
