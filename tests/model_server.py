"""An OpenAI-compatible server that plays a script: real HTTP, real streaming, no model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def call(code: str, index: int = 0, thought: str = "") -> str:
    """A message that runs code."""
    arguments = {"code": code, "description": "look", "image_index": index}
    think = f"<think>{thought}</think>\n" if thought else ""
    return f"{think}<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


class Script(BaseHTTPRequestHandler):
    """Plays `replies` by the number of assistant messages in the request; a number is an HTTP status.

    With `pause` a reply is streamed in pieces of `piece` characters, so many seconds apart; with `key` nobody is answered
    who has not got it.
    """

    replies: list[str | int]
    pause = 0.0
    piece = 8
    key: str | None = None

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "scripted", "object": "model"}], "object": "list"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.key is not None and self.headers["Authorization"] != f"Bearer {self.key}":
            self._send(401, {"error": {"message": "no key"}})
            return
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        reply = self.replies[min(turn, len(self.replies) - 1)]
        if isinstance(reply, int):
            self._send(reply, {"error": {"message": "no"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        size = self.piece if self.pause else len(reply)
        pieces = [reply[start : start + size] for start in range(0, len(reply), size)]
        for number, text in enumerate(pieces):
            end = "stop" if number + 1 == len(pieces) else None
            self._line(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": end}]}
            )
            time.sleep(self.pause)
        self._line({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _line(self, data: dict[str, Any]) -> None:
        chunk = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "scripted", **data}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def served(*replies: str | int, pause: float = 0.0, key: str | None = None) -> Iterator[str]:
    """The address (up to /v1) of a server that plays `replies`."""
    play = type("Play", (Script,), {"replies": list(replies), "pause": pause, "key": key})
    server = ThreadingHTTPServer(("127.0.0.1", 0), play)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
