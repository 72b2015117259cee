"""A model server that misbehaves on order: raw asyncio, so that every byte on the wire is the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

Reply = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request, and the means to answer it byte by byte."""

    path: str
    headers: dict[str, str]
    body: Any
    size: int
    writer: asyncio.StreamWriter
    closed_by_client: asyncio.Event = field(default_factory=asyncio.Event)

    async def whole(self, status: int, body: Any, *, mime: str = "application/json", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {
            "content-type": mime,
            "content-length": str(len(data)),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        self.writer.write(f"HTTP/1.1 {status} X\r\n".encode() + _lines(lines) + data)
        await self.writer.drain()

    async def begin(self) -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\n" + _lines({"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        )
        await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def event(self, event: Any) -> None:
        await self.raw(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n")

    async def end(self, *, done: bool = True) -> None:
        if done:
            await self.event(b"[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


def _lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"


def delta(text: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "chat-1",
        "model": "m",
        "choices": [{"index": index, "delta": {"content": text, **more}, "finish_reason": finish}],
    }


TELLING = {"prompt_token_ids": [1, 2, 70_000], "prompt_text": "<|user|>hi"}
"""What vLLM adds to the first chunk."""

USAGE = {
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
    "choices": [],
}


def say(*pieces: str) -> Reply:
    """A proper streamed answer."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for piece in pieces:
            await exchange.event(delta(piece))
        await exchange.event(delta(finish="stop"))
        await exchange.event(USAGE)
        await exchange.end()

    return reply


def fail(status: int, body: Any = None, **headers: str) -> Reply:
    """An error answer."""

    async def reply(exchange: Exchange) -> None:
        await exchange.whole(
            status, body if body is not None else {"error": {"message": f"failure {status}"}}, **headers
        )

    return reply


class BadServer:
    """Answers /v1/chat/completions with `replies` in order (the last one again and again), /v1/models with `models`."""

    def __init__(self, replies: Sequence[Reply], *, models: Any = ("m",), vllm: bool = False) -> None:
        self.replies = list(replies)
        self.models, self.vllm = models, vllm
        self.exchanges: list[Exchange] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split()[1]
                exchange = Exchange(path, headers, json.loads(data) if data else None, len(data), writer)
                if "/chat/completions" in path and path.startswith("/v1"):
                    self.exchanges.append(exchange)
                    reply = self.replies[min(len(self.exchanges), len(self.replies)) - 1]
                    watch = asyncio.create_task(self._watch(reader, exchange))
                    try:
                        await reply(exchange)
                    finally:
                        watch.cancel()
                        await asyncio.gather(watch, return_exceptions=True)
                else:
                    await self._other(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader, exchange: Exchange) -> None:
        while not reader.at_eof():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        exchange.closed_by_client.set()

    async def _other(self, exchange: Exchange) -> None:
        if exchange.path.startswith("/v1/models") and callable(self.models):
            await self.models(exchange)
        elif exchange.path.startswith("/v1/models"):
            card = {"owned_by": "vllm" if self.vllm else "someone", **({"max_model_len": 4096} if self.vllm else {})}
            await exchange.whole(200, {"object": "list", "data": [{"id": name, **card} for name in self.models]})
        elif exchange.path == "/version" and self.vllm:
            await exchange.whole(200, {"version": "0.32.0"})
        else:
            await exchange.whole(404, {"detail": "Not Found"})
