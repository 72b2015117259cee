"""`codevision eval` through inspect_ai, as a user types it: a real process, real kernels, a real HTTP server that plays.

In the environment that `make test-evaluation` makes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playing import call, colour_set

pytestmark = pytest.mark.evaluation

CODEVISION = [sys.executable, "-m", "kernel_agent.cli"]


class Play(BaseHTTPRequestHandler):
    """Turns the picture, then answers `red`; keeps what it was asked, fails whom it is told to; after `most` it keeps silent."""

    asked: list[tuple[str, int]]
    failing: set[str]
    most = 10**9
    over: threading.Event

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "played", "object": "model"}], "object": "list"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        text = json.dumps(request["messages"][1])
        number = text.split("Colour of ")[1].split("?")[0]
        self.asked.append((number, turn))
        if len(self.asked) > self.most:
            self.over.wait(300)
        if number in self.failing:
            self._send(400, {"error": {"message": "not this one"}})
            return
        reply = call("result = image.rotate(90, expand=True)") if turn == 0 else "<answer>red</answer>"
        chunk = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "played"}
        delta = {"index": 0, "delta": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        usage = {**chunk, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
        lines = [json.dumps(line) for line in ({**chunk, "choices": [delta]}, usage)]
        self._send(200, "".join(f"data: {line}\n\n" for line in lines) + "data: [DONE]\n\n")

    def _send(self, status: int, body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


@contextmanager
def playing(port: int = 0, **facts: Any) -> Iterator[Any]:
    handler: Any = type("Now", (Play,), {"asked": [], "failing": set(), "over": threading.Event(), **facts})
    with Server(("127.0.0.1", port), handler) as server:
        handler.port, handler.url = server.server_port, f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield handler
        finally:
            handler.over.set()
            server.shutdown()


@pytest.fixture
def played() -> Iterator[Any]:
    with playing() as handler:
        yield handler


def command(tmp_path: Path, played: Any, *more: str) -> list[str]:
    data = [
        "--data",
        str(tmp_path / "data" / "own.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(tmp_path / "s.json"),
    ]
    return [*CODEVISION, "eval", "orientation", *data, "--base-url", played.url, "--model", "played", *more]


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "out" / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[1:-1]]


def test_a_killed_evaluation_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    n = 40
    colour_set(tmp_path / "data", n)
    with playing(most=40) as first:  # of 80; so it cannot come to its end
        given = command(tmp_path, first, "--transforms", "none", "--controls", "none", "--at-once", "6")
        process = subprocess.Popen(given, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        while len(lines(tmp_path)) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {line["sample"] for line in lines(tmp_path)}
    assert 8 <= len(finished) < n
    with playing(first.port) as played:  # another one, which knows of no request that was on its way
        done = subprocess.run(given, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    after = [line["sample"] for line in lines(tmp_path)]
    assert Counter(after) == Counter({f"c/{number}": 1 for number in range(n)})
    assert {f"c/{number}" for number, _ in played.asked} == set(after) - finished  # nothing finished was asked again
    assert Counter(turn for _, turn in played.asked) == {0: n - len(finished), 1: n - len(finished)}
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["conditions"]["tools"]["columns"]["source"]["n"] == n
    assert report["failed"] == 0

    from inspect_ai.log import list_eval_logs, read_eval_log

    logs = [read_eval_log(log) for log in list_eval_logs(str(tmp_path / "out" / "logs"))]
    (last,) = [log for log in logs if log.status == "success"]
    assert last.samples is not None
    assert len(last.samples) == n  # the finished ones too, with their conversations
    assert {len(sample.messages) for sample in last.samples} == {5}
    assert last.results is not None
    assert last.results.scores[0].metrics["mean"].value == pytest.approx(report["conditions"]["tools"]["average"] / 100)
    score = (last.samples[0].scores or {})["official"]
    assert Path(str((score.metadata or {})["notebook"])).is_file()


def test_failed_runs_are_named_and_tried_again(tmp_path: Path, played: Any) -> None:
    colour_set(tmp_path / "data", 3)
    (tmp_path / "data" / "own.jsonl").open("a").write('{"image": "gone.png", "question": "q", "answer": "a"}\n')
    played.failing = {"1"}
    given = command(tmp_path, played, "--transforms", "rot90", "--controls", "off", "--retries", "1")
    done = subprocess.run(given, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 3, done.stderr
    assert "4 runs failed" in done.stderr
    assert "row 3" in done.stderr
    assert played.asked.count(("1", 0)) == 8  # four runs, each tried once more
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["failed"] == 4
    assert [problem["index"] for problem in report["problems"]] == [3]
    assert report["conditions"]["tools"]["columns"]["rot90"]["n"] == 2
    assert "average" in done.stdout
    played.failing.clear()
    assert subprocess.run(given, capture_output=True, timeout=240, check=False).returncode == 0


def test_ctrl_c_writes_the_report_of_what_is_finished(tmp_path: Path) -> None:
    colour_set(tmp_path / "data", 60)
    with playing(most=30) as played:  # of 120; so it cannot come to its end
        given = command(tmp_path, played, "--transforms", "none", "--controls", "none", "--at-once", "4")
        process = subprocess.Popen(
            given,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
        )
        deadline = time.monotonic() + 240
        while len(lines(tmp_path)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert json.loads((tmp_path / "s.json").read_text())["n"] == len(lines(tmp_path))


def test_wrong_arguments_are_named(tmp_path: Path, played: Any) -> None:
    for more, word in (
        (["ocrbench"], "--data"),
        (["mmlu"], "no benchmark"),
        (["orientation", "--transforms", "rot45"], "rot45"),
        (["orientation", "--controls", "base", "--limit", "1"], "--control-model"),
        (["vstar", "--data", str(tmp_path / "none")], "does not exist"),
    ):
        out = ["--out", str(tmp_path / "x")]
        done = subprocess.run(
            [*CODEVISION, "eval", *more, *out], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, word in done.stderr) == (1, True), done.stderr


def test_the_inspect_command_finds_the_benchmarks(tmp_path: Path, played: Any) -> None:
    colour_set(tmp_path / "data", 2)
    given = {
        "data": tmp_path / "data" / "own.jsonl",
        "out": tmp_path / "out",
        "base_url": played.url,
        "model_name": "played",
    }
    arguments = [word for key, value in given.items() for word in ("-T", f"{key}={value}")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "inspect_ai",
            "eval",
            "kernel_agent/orientation",
            *arguments,
            "-T",
            "transform=rot90",
            "--model",
            "codevision/played",
            "--log-dir",
            str(tmp_path / "logs"),
            "--display",
            "plain",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line["column"] for line in lines(tmp_path)} == {"tools/rot90"}
    assert len(lines(tmp_path)) == 2
