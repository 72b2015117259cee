"""A whole kernel, started plainly at each level, with the libraries that the model's code uses."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from kernel_agent.provisioners.sandbox import bwrap, users
from kernel_agent.provisioners.sandbox.memory import MemoryCap
from kernel_agent.provisioners.sandbox.prepare import clear, command, environment, prepare
from kernel_agent.provisioners.sandbox.spawn import spawn
from kernel_agent.types import Isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
PICTURES = """
import cv2, io, matplotlib.pyplot as plt, numpy as np, subprocess, threading
from PIL import Image
plt.plot([1, 2]); plt.title("x"); plt.savefig("a.png"); plt.close()
Image.open("a.png").convert("RGB").rotate(3).save("b.jpg")
pixels = cv2.GaussianBlur(cv2.imread("b.jpg"), (5, 5), 0)
print(pixels.ndim, int((np.ones((64, 64)) @ np.ones((64, 64))).sum()))
"""
BRANCH = """
import os, zmq
from ipykernel.connect import get_connection_file
folder = os.path.dirname(get_connection_file())
heard, tell = os.pipe()
if os.fork() == 0:
    context = zmq.Context()
    server = context.socket(zmq.ROUTER)
    server.bind(f"ipc://{folder}/branch")
    os.write(tell, b"bound")
    os._exit(0)
print(os.read(heard, 100).decode())
os.wait();
"""

GROW = """
import numpy as np
kept = []
try:
    while True:
        kept.append(np.ones(1 << 17))
except MemoryError:
    kept = None
    print("MemoryError")
"""


class Kernel:
    """A kernel with a client of its own."""

    def __init__(self, level: str, how: str, folder: Path) -> None:
        run, scratch = folder / "run", folder / "scratch"
        run.mkdir(mode=0o700)
        scratch.mkdir(mode=0o700)
        folder.chmod(0o711)
        file = run / "kernel.json"
        write_connection_file(str(file), transport="ipc", ip=str(run / "k"), key=b"key")
        self.folder, self.user = folder, users.lease()
        plan = prepare(
            Isolation(level),
            connection_file=file,
            scratch=scratch,
            namespaces=how == "namespaces",
            user=self.user,
            memory_mb=1024,
        )
        words = command(plan, ["-f", str(file)])
        if how == "bubblewrap":
            words = [*bwrap.prefix(plan), *words]
        self.process = spawn(words, env=environment(plan, os.environ), start_new_session=True)
        self.cap = MemoryCap(self.process.pid, plan.memory_bytes, plan.processes)
        self.cap.start()
        self.client = BlockingKernelClient(connection_file=str(file))
        self.client.load_connection_file()
        self.client.start_channels()
        while True:
            try:
                self.client.wait_for_ready(timeout=60)
                return
            except RuntimeError:  # on a busy machine a late first heartbeat passes for a death
                if self.process.poll() is not None:
                    raise

    def run(self, code: str) -> str:
        said: list[str] = []

        def hook(message) -> None:
            content = message["content"]
            said.append(content.get("text") or content.get("ename") or content.get("data", {}).get("text/plain", ""))

        self.client.execute_interactive(code, output_hook=hook, timeout=60, allow_stdin=False, stop_on_error=False)
        return "".join(said).strip()

    def close(self) -> None:
        self.client.stop_channels()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.cap.stop()
        users.give_back(self.user)
        clear(self.folder)


@pytest.fixture
def kernel(way: tuple[str, str]) -> Iterator[Kernel]:
    with tempfile.TemporaryDirectory(prefix="cv-") as name:
        made = Kernel(*way, Path(name))
        yield made
        made.close()


def test_pictures_an_interrupt_a_branch_and_memory(kernel):
    assert kernel.run(PICTURES) == "3 262144"
    assert kernel.run(BRANCH) == "bound"
    identifier = kernel.client.execute(
        "import time\nprint('on', flush=True)\nwhile True: time.sleep(0.05)", stop_on_error=False
    )
    while kernel.client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    os.killpg(kernel.process.pid, signal.SIGINT)
    while (reply := kernel.client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != identifier:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert kernel.run("bytearray(3 << 30)") == "MemoryError"
    assert kernel.run(GROW) == "MemoryError"
    assert kernel.run("1 + 1") == "2"
    assert kernel.run("import socket; socket.socket()") == "PermissionError"


def test_it_can_be_told_to_shut_down(kernel):
    kernel.client.shutdown()
    assert kernel.process.wait(60) == 0
