"""A little OpenAI-compatible server that plays a script chosen by the question: it streams, it keeps no state, it can be slow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def call(thought: str, code: str, image: int = 0) -> str:
    """A reply that runs code."""
    arguments = {"code": code, "description": thought, "image_index": image}
    body = json.dumps({"name": "code_image_tool", "arguments": arguments})
    return f"<think>{thought}</think>\n<tool_call>{body}</tool_call>"


def answer(thought: str, text: str) -> str:
    """A reply that ends the turn."""
    return f"<think>{thought}</think>\n<answer>{text}</answer>"


class Player(BaseHTTPRequestHandler):
    """The script is the one whose name is in the last question; the reply is chosen by how many were given since."""

    scripts: Mapping[str, Sequence[str]]
    pause: float
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._whole(200, {"data": [{"id": "scripted", "object": "model"}], "object": "list"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self._reply(request["messages"])
        if reply is None:
            self._whole(400, {"error": {"message": "no script has this question"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces(reply):
                self._chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}}]})
                time.sleep(self.pause)
            self._chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self._chunk({"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": len(reply) // 4}})
            self._write("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the run was stopped

    def _reply(self, messages: list[Any]) -> str | None:
        given = 0
        for message in reversed(messages):
            if message["role"] == "assistant":
                given += 1
            elif message["role"] == "user":
                text = json.dumps(message["content"], ensure_ascii=False)
                for name, replies in self.scripts.items():
                    if name in text:
                        return replies[min(given, len(replies) - 1)]
        return None

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


def pieces(text: str, size: int = 12) -> list[str]:
    """The text in small parts, as a model writes."""
    return [text[at : at + size] for at in range(0, len(text), size)]


@contextmanager
def playing(scripts: Mapping[str, Sequence[str]], *, pause: float = 0.004) -> Iterator[str]:
    """The server's base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Play", (Player,), {"scripts": scripts, "pause": pause}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
