"""An OpenAI-compatible server that plays a script: real HTTP, real streaming, no model. It keeps no state and can be slow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Choose = Callable[[list[Any]], str | int | None]
"""From a request's messages to the reply; a number is an HTTP status, None a refusal."""

PIECE = 12
"""Characters a streamed piece has."""


def call(code: str, index: int = 0, thought: str = "") -> str:
    """A reply that runs code."""
    arguments = {"code": code, "description": thought or "look", "image_index": index}
    think = f"<think>{thought}</think>\n" if thought else ""
    return f"{think}<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


def answer(thought: str, text: str) -> str:
    """A reply that ends the turn."""
    return f"<think>{thought}</think>\n<answer>{text}</answer>"


def in_order(replies: Sequence[str | int]) -> Choose:
    """By how many replies the conversation has; the last one again and again."""
    return lambda messages: replies[min(sum(one["role"] == "assistant" for one in messages), len(replies) - 1)]


def by_question(scripts: Mapping[str, Sequence[str]]) -> Choose:
    """The script whose name is in the last question that has one, by how many replies were given since."""

    def choose(messages: list[Any]) -> str | None:
        given = 0
        for message in reversed(messages):
            if message["role"] == "assistant":
                given += 1
            elif message["role"] == "user":
                text = json.dumps(message["content"], ensure_ascii=False)
                for name, replies in scripts.items():
                    if name in text:
                        return replies[min(given, len(replies) - 1)]
        return None

    return choose


class Player(BaseHTTPRequestHandler):
    """Streams the reply that `choose` gives, with `pause` between its pieces; with `key`, to who has it alone."""

    choose: Choose
    pause: Callable[[], object] | None
    key: str | None
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._whole(200, {"data": [{"id": "scripted", "object": "model"}], "object": "list"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.key is not None and self.headers["Authorization"] != f"Bearer {self.key}":
            self._whole(401, {"error": {"message": "no key"}})
            return
        reply = type(self).choose(request["messages"])
        if not isinstance(reply, str):
            self._whole(reply or 400, {"error": {"message": "no script has this question"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pause = type(self).pause
        size = PIECE if pause is not None else len(reply)
        try:
            for at in range(0, len(reply), size):
                self._chunk(
                    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": reply[at : at + size]}}]}
                )
                if pause is not None:
                    pause()
            self._chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self._chunk({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": len(reply) // 4}})
            self._write("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the run was stopped

    def _chunk(self, data: Any) -> None:
        head = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "scripted"}
        self._write(f"data: {json.dumps({**head, **data})}\n\n")

    def _write(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _whole(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def playing(choose: Choose, *, pause: float | Callable[[], object] = 0.0, key: str | None = None) -> Iterator[str]:
    """The server's address, up to /v1. `pause`: seconds between the pieces of a reply, or what waits there."""
    wait = pause if callable(pause) else partial(time.sleep, pause) if pause else None
    parts = {"choose": staticmethod(choose), "pause": wait and staticmethod(wait), "key": key}
    play = type("Play", (Player,), parts)
    server = ThreadingHTTPServer(("127.0.0.1", 0), play)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
