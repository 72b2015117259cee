"""Keys of the host, a sandbox that is not what it says, and rights that a kernel must not have."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from kernel_agent import Agent
from kernel_agent.models import OpenAIModel
from kernel_agent.types import Isolation, Task
from perf.attacks.case import EVERYWHERE, SANDBOXED, Result, case
from perf.attacks.host import status_line
from perf.attacks.scene import Scene
from perf.attacks.world import new_secret

READ_ANY_FILE = 1 << 2
"""CAP_DAC_READ_SEARCH."""


@case("API key in kernel env", Result.BLOCKED, EVERYWHERE)
def environment(scene: Scene) -> str:
    """The host's OPENAI_API_KEY is not in the kernel's environment, as Python, a child or Linux tells it."""
    code = """
import os, subprocess, sys
print(dict(os.environ)); print(open("/proc/self/environ").read())
print(subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"], capture_output=True, text=True).stdout)
"""
    return scene.leak(code, scene.world.environment_secret)


class _Server(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible server that says back the key it was given: in headers, in an error, in a completion's fields."""

    words: ClassVar[list[str]] = []
    asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).asked += 1
        if self.asked == 1:
            self._answer(500, {"error": {"message": f"bad Authorization: {self.headers['authorization']}"}})
            return
        text = self.words[min(self.asked - 2, len(self.words) - 1)]
        message = {"role": "assistant", "content": text}
        self._answer(
            200,
            {
                "id": self.headers["authorization"],
                "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            },
        )

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("x-echo", self.headers.get("authorization", ""))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@case("key in saved notebook or log", Result.BLOCKED, EVERYWHERE)
def saved(scene: Scene) -> str:
    """A model server's key is in no file of a run, though the server says it back and the code prints its environment."""
    key = f"sk-{new_secret()}"
    code = "import os\nprint(dict(os.environ)); raise ValueError(str(dict(os.environ)))"
    call = json.dumps({"name": "code_image_tool", "arguments": {"code": code, "image_index": 0}})
    _Server.words, _Server.asked = [f"<tool_call>\n{call}\n</tool_call>", "<answer>done</answer>"], 0
    folder = scene.world.folder / "run"
    folder.mkdir(exist_ok=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ["CODEVISION_API_KEY"] = key
        try:
            model = OpenAIModel("m", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key=key)
            agent = Agent(model, kernel=scene.profile.options())
            run = agent.run(
                Task(question="What is it?", images=(Image.new("RGB", (32, 32)),)),
                save_to=folder / "run.ipynb",
                force=True,
            )
        finally:
            del os.environ["CODEVISION_API_KEY"]
            server.shutdown()
    if run.answer != "done":
        return f"the run ended by {run.stop_reason}: nothing was tested"
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return "nothing was saved: nothing was tested"
    found = [path.name for path in files if key.encode() in path.read_bytes()]
    return f"the key is in {found}" if found else ""


PROBE = """
import sys
from kernel_agent import KernelOptions, Session
from kernel_agent.errors import KernelError
level, path, secret = sys.argv[1:]
for namespaces in ("auto", "bubblewrap"):
    try:
        with Session(kernel=KernelOptions(isolation=level, fork=False, namespaces=namespaces)) as session:
            cell = session.run(f"print(open({path!r}).read())")
            print("READ" if secret in str(cell.outputs) else "SAFE", session.isolation, flush=True)
    except KernelError as error:
        print("REFUSED", str(error).replace("\\n", " "))
"""

FALSE_BWRAPS = {
    "succeeds and does nothing": "#!/bin/sh\nexit 0\n",
    "fails": "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n",
    "hangs": "#!/bin/sh\nexec /bin/sleep 3000\n",
    "runs the command without any sandbox": (
        '#!/bin/sh\nwhile [ $# -gt 0 ]; do case "$1" in --) shift; break;; /*|*python*) [ -x "$1" ] && break; shift;; *) shift;; esac; done\n'
        'exec "$@"\n'
    ),
}


@case("probe says bwrap but it fails", Result.REFUSED, SANDBOXED, seconds=900, slow=True)
def false_bubblewrap(scene: Scene) -> str:
    """A `bwrap` that only seems to work is not believed: the kernel is isolated in another way or is not started, and is told why."""
    path = scene.world.file(scene.world.folder / "behind-bwrap")
    scripts = FALSE_BWRAPS if scene.profile.namespaces == "bubblewrap" else dict(list(FALSE_BWRAPS.items())[-1:])
    for what, script in scripts.items():
        folder = scene.world.folder / f"bin-{len(what)}"
        folder.mkdir(exist_ok=True)
        (folder / "bwrap").write_text(script)
        (folder / "bwrap").chmod(0o755)
        ran = subprocess.run(
            [sys.executable, "-c", PROBE, str(scene.profile.level), str(path), path.read_text()],
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        lines = ran.stdout.splitlines()
        held = [
            line == f"SAFE {scene.profile.level}" or (line.startswith("REFUSED") and len(line) > 60) for line in lines
        ]
        if len(held) != 2 or not all(held):
            return f"where bwrap {what}: {ran.stdout.strip()[:300] or ran.stderr[-300:]}"
    return ""


@case("running as root", Result.BLOCKED, SANDBOXED, control=os.geteuid() == 0)
def rights(scene: Scene) -> str:
    """The code's process has no root user, group or capability on the host, and a limit of processes that holds."""
    pid = scene.inner_pid(scene.session)
    users, groups = status_line(pid, "Uid").split(), status_line(pid, "Gid").split()
    if "0" in users or "0" in groups:
        return "it runs as root"
    if "0" in status_line(pid, "Groups").split():
        return "it is in root's group"
    allowed = READ_ANY_FILE if scene.profile.level is Isolation.MEDIUM else 0  # there Landlock says which files
    if any(int(status_line(pid, name), 16) & ~allowed for name in ("CapPrm", "CapEff")):
        return "it has capabilities"
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    processes = next(line for line in limits if line.startswith("Max processes")).split()
    if scene.profile.level is Isolation.STRONG and (processes[3] == "unlimited" or int(processes[3]) > 4096):
        return f"its limit of processes is {processes[3]}"
    core = next(line for line in limits if line.startswith("Max core"))
    return "" if core.split()[5] == "0" else "it may dump core"
