"""What a step costs beside the model: `python -m perf.steps --json OUT`.

| figure | what it is | goal |
|---|---|---|
| step_overhead_ratio | scripted model running `1+1`: from completion received to the next request, against a bare jupyter_client round trip over ipc | 1.5 |
| step_overhead_saved_ratio | the same with the notebook and its journal written and fsynced at every step | |
| save_ratio_30_to_5, save_ms | saving step 30 against step 5, a new 1 MiB image at each step; median ms of a save | 1.5 |
| upload_ratio_turn_10 | bytes sent to a server that keeps images by uuid at turn 10, against sending all of them again | 0.125 |
| import_ms, import_agent_ms, help_ms | `import kernel_agent`; `from kernel_agent import Agent, Trajectory`; `codevision --help` | 150, -, 400 |

Ratios are medians of pairs measured in turn; milliseconds are of this machine. The upload server is a real HTTP server in
this process that behaves as vLLM does with uuids; tests/vllm_server measures the same against vLLM itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STEPS = 30


def call(code: str, index: int = 0) -> str:
    arguments = {"code": code, "description": "", "image_index": index}
    return f"<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


class Clock:
    """A scripted model that notes when each completion left and when the next request came."""

    def __init__(self, replies: list[str]) -> None:
        from kernel_agent.models import ScriptedModel

        self._inner = ScriptedModel(replies)
        self.name = "clock"
        self.overheads: list[float] = []
        self._left: float | None = None

    async def complete(self, request: Any, *, on_text: Any = None) -> Any:
        if self._left is not None:
            self.overheads.append(time.perf_counter() - self._left)
        completion = await self._inner.complete(request, on_text=on_text)
        self._left = time.perf_counter()
        return completion

    async def aclose(self) -> None:
        await self._inner.aclose()

    def describe(self) -> Any:
        return self._inner.describe()


async def bare_round_trips(count: int) -> list[float]:
    """`1+1` on a stock kernel through jupyter_client over ipc, reply and idle awaited."""
    from jupyter_client import AsyncKernelManager

    folder = tempfile.mkdtemp(prefix="cv-")
    manager = AsyncKernelManager(
        kernel_name="python3", transport="ipc", connection_file=f"{folder}/k.json", ip=f"{folder}/k"
    )
    await manager.start_kernel()
    client = manager.client()
    client.start_channels(stdin=False, hb=False)
    times = []
    try:
        await client.wait_for_ready(timeout=60)
        for _ in range(count):
            began = time.perf_counter()
            sent = client.execute("1+1")
            idle = False
            while not idle:
                message = await client.get_iopub_msg(timeout=30)
                idle = (
                    message["parent_header"].get("msg_id") == sent
                    and message["content"].get("execution_state") == "idle"
                )
            while (await client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != sent:
                pass
            times.append(time.perf_counter() - began)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    return times[5:]


async def agent_overheads(save_to: Path | None) -> list[float]:
    from kernel_agent import Agent, Budget, Task

    model = Clock([call("1+1")] * STEPS + ["<answer>2</answer>"])
    agent = Agent(model, budget=Budget(steps=STEPS + 5))
    await agent.arun(Task(question="?", images=(Image.new("RGB", (32, 32)),)), save_to=save_to, force=True)
    return model.overheads[5:]


async def step_overhead(rounds: int) -> dict[str, float]:
    ratios, saved, bare_ms = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            bare = statistics.median(await bare_round_trips(STEPS))
            ratios.append(statistics.median(await agent_overheads(None)) / bare)
            saved.append(statistics.median(await agent_overheads(Path(folder) / "run.ipynb")) / bare)
            bare_ms.append(bare * 1e3)
    return {
        "step_overhead_ratio": statistics.median(ratios),
        "step_overhead_saved_ratio": statistics.median(saved),
        "bare_round_trip_ms": statistics.median(bare_ms),
    }


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def made_images(count: int, size: tuple[int, int]) -> list[Any]:
    """Images of noise as a session would give them (a PNG of about width x height x 3 bytes)."""
    from kernel_agent import Session

    return Session([noise(seed, size) for seed in range(count)]).images


def saving(rounds: int) -> dict[str, float]:
    from dataclasses import replace

    from kernel_agent import Status, StopReason, Trajectory
    from kernel_agent.types import CellResult, Completion, ImageOutput, Observation, RunCode, Step, TextPart

    images = made_images(31, (660, 530))  # 1 MiB each
    early, late, every = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            trajectory = Trajectory.start(images=images[:1], header={})
            trajectory.record_to(Path(folder) / "run.ipynb")
            trajectory.begin_turn("?")
            times = []
            for index, image in enumerate(images[1:]):
                image = replace(image, origin=f"cell {index}")
                cell = CellResult(
                    source="1", status=Status.OK, outputs=(ImageOutput(index=image.index),), images=(image,)
                )
                step = Step(
                    index=index,
                    new_messages=(),
                    completion=Completion(text="x"),
                    thought="",
                    action=RunCode(code="1"),
                    cell=cell,
                    observation=Observation(status=Status.OK, content=(TextPart(text="x"),)),
                )
                began = time.perf_counter()
                trajectory.add_step(step)
                times.append(time.perf_counter() - began)
            trajectory.end_turn("x", StopReason.ANSWER)
            trajectory.close()
        early.append(statistics.median(times[3:7]))
        late.append(statistics.median(times[26:30]))
        every += times
    pairs = [after / before for before, after in zip(early, late, strict=True)]
    return {"save_ratio_30_to_5": statistics.median(pairs), "save_ms": statistics.median(every) * 1e3}


class UuidServer(BaseHTTPRequestHandler):
    """Chat completions with images kept by uuid, as vLLM keeps them."""

    protocol_version = "HTTP/1.1"
    known: set[str] = set()  # noqa: RUF012

    def do_GET(self) -> None:
        body = {"version": "0.32.0"} if self.path == "/version" else {"data": [{"id": "m", "owned_by": "vllm"}]}
        self._send(200, body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for message in request["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part.get("type") == "image_url" and part.get("uuid"):
                    if part["image_url"] is None and part["uuid"] not in self.known:
                        self._send(400, {"error": {"message": f"no data for uuid {part['uuid']}"}})
                        return
                    self.known.add(part["uuid"])
        index = sum(message["role"] == "assistant" for message in request["messages"])
        text = call(f"result = image.rotate({index + 1})") if index < 10 else "<answer>x</answer>"
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop"}
        if request.get("stream"):
            chunk = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            lines = [
                {**chunk, "choices": [{**choice, "delta": message}]},
                {**chunk, "choices": [], "usage": usage},
            ]
            body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
            self._send(200, body, kind="text/event-stream")
        else:
            whole = {"id": "r", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
            self._send(200, {**whole, "choices": [{**choice, "message": message}]})

    def _send(self, status: int, body: Any, kind: str = "application/json") -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def upload() -> dict[str, float]:
    from kernel_agent import Agent, Task
    from kernel_agent.models import OpenAIModel

    server = ThreadingHTTPServer(("127.0.0.1", 0), UuidServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = OpenAIModel("m", base_url=f"http://127.0.0.1:{server.server_port}/v1")
    trajectory = Agent(model).run(Task(question="?", images=(noise(0, (400, 400)),)))
    server.shutdown()
    turn = trajectory.steps[9]
    held = [image for image in trajectory.images if image.index <= 9]
    everything = sum(len(image.view) * 4 / 3 for image in held)
    return {
        "upload_ratio_turn_10": turn.completion.uploaded_bytes / everything,
        "upload_bytes_turn_10": turn.completion.uploaded_bytes,
        "resend_all_bytes_turn_10": round(everything),
    }


def process_ms(command: list[str], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def start_up(rounds: int) -> dict[str, float]:
    python = [sys.executable, "-c"]
    nothing = process_ms([*python, "pass"], rounds)
    return {
        "import_ms": process_ms([*python, "import kernel_agent"], rounds) - nothing,
        "import_agent_ms": process_ms([*python, "from kernel_agent import Agent, Trajectory"], rounds) - nothing,
        "help_ms": process_ms([str(Path(sys.executable).with_name("codevision")), "--help"], rounds),
        "python_ms": nothing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures: dict[str, float] = {}
    figures |= asyncio.run(step_overhead(options.rounds))
    figures |= saving(options.rounds)
    figures |= upload()
    figures |= start_up(options.rounds)
    for name, value in figures.items():
        print(f"{name:28} {value:10.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
