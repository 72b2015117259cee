"""The ASGI application: `/v1/chat/completions`, `/v1/models`, `/health`.

Guarantees: at most `at_once` runs at a time, further requests wait in order and beyond `waiting` get 429; a client that hangs up
ends its run; every error has OpenAI's form and no secret in it. Bodies must be JSON by their content type, so that a web page
cannot send one from a browser. The stream carries the answer in one piece when it is there; until then comments keep the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kernel_agent.agent import Agent
from kernel_agent.endpoint import wire
from kernel_agent.endpoint.wire import Asked, Refused
from kernel_agent.errors import CodeVisionError, InputError, KernelError, ModelError, PoolExhausted
from kernel_agent.session import KernelPool
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Budget, KernelOptions, Sampling
from kernel_agent.waiting import end

if TYPE_CHECKING:
    from kernel_agent.models import Model

HEARTBEAT_SECONDS = 10.0
"""How often a stream says that it is alive."""


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """What an endpoint is made of.

    Attributes:
        model, base_url, api_key: as `kernel_agent.api.choose_model` takes them.
        client_key: what clients must send as a bearer token; None for no key.
        name: of the model as clients see it; None for `codevision-` and the model's own.
        at_once, waiting: runs at a time, and requests that may wait.
        save: folder for each run's notebook; None keeps none.
        max_body: largest request, in bytes.
    """

    model: str | Model | None = None
    base_url: str | None = None
    api_key: str | None = None
    client_key: str | None = None
    name: str | None = None
    at_once: int = 32
    waiting: int = 256
    protocol: str = "native"
    budget: Budget = Budget()
    sampling: Sampling = Sampling()
    kernel: KernelOptions = KernelOptions()
    save: Path | None = None
    max_body: int = 256_000_000


class Endpoint:
    """What the routes share: the model, the pool, the options."""

    def __init__(self, options: EndpointOptions) -> None:
        from kernel_agent.api import choose_model

        self.options = options
        self.model = choose_model(options.model, base_url=options.base_url, api_key=options.api_key)
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model.name).strip("-")
        self.name = options.name or f"codevision-{plain}"
        self.pool = KernelPool(options.at_once, kernel=options.kernel, max_waiting=options.waiting)
        if options.save is not None:
            options.save.mkdir(parents=True, exist_ok=True)

    async def run(self, asked: Asked) -> Trajectory:
        """One run to its end. Raises Refused."""
        options = self.options
        agent = Agent(
            self.model,
            protocol=options.protocol,
            budget=options.budget,
            sampling=replace(options.sampling, **asked.sampling),
            kernel=options.kernel,
            pool=self.pool,
        )
        try:
            conversation = agent.converse(asked.images)
            trajectory = conversation.trajectory
            if options.save is not None:
                trajectory.record_to(options.save / f"{trajectory.run_id}.ipynb")
            try:
                await conversation.session.areserve()
                await conversation.ask(asked.question)
            finally:
                await conversation.aclose()
            if trajectory.failure is not None:
                raise trajectory.failure
        except CodeVisionError as error:
            raise _refusal(error) from error
        return trajectory

    def check(self, request: Request) -> None:
        """Raises Refused where the client's key is not the right one."""
        key = self.options.client_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise Refused(
                "The API key is missing or wrong: send it as `Authorization: Bearer KEY`.",
                status=401,
                code="invalid_api_key",
            )

    async def read(self, request: Request) -> Asked:
        """Raises Refused."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(f"The content type is {kind or 'missing'}: send application/json.", status=415)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self.options.max_body:
                raise Refused(
                    f"The body is larger than {self.options.max_body} bytes: send smaller images.", status=413
                )
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Refused(f"The body is no JSON ({error}).") from error
        asked = wire.read_request(data)
        if asked.model != self.name:
            raise Refused(
                f"The model {asked.model!r} does not exist: this endpoint serves {self.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )
        return asked


def _refusal(error: CodeVisionError) -> Refused:
    """What a failed run is to an OpenAI client: asked wrongly, too much at once, or a server that failed."""
    if isinstance(error, InputError):
        return Refused(str(error), param="messages")
    if isinstance(error, PoolExhausted):
        return Refused(str(error), status=429, kind="rate_limit_error", code="rate_limit_exceeded")
    if isinstance(error, ModelError):
        status = 429 if error.status == 429 else 504 if "Timeout" in type(error).__name__ else 502
        return Refused(f"The model behind the agent: {error}", status=status, kind="api_error", code="model_error")
    status = 503 if isinstance(error, KernelError) else 500
    return Refused(str(error), status=status, kind="api_error", code=type(error).__name__)


def build_app(options: EndpointOptions) -> Starlette:
    """The application; its lifespan owns the kernels and the model."""
    endpoint = Endpoint(options)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await endpoint.pool.astart()
        try:
            yield
        finally:
            await endpoint.pool.aclose()
            await endpoint.model.aclose()

    async def completions(request: Request) -> Response:
        endpoint.check(request)
        asked = await endpoint.read(request)
        if asked.stream:
            return StreamingResponse(_stream(endpoint, asked), media_type="text/event-stream")
        trajectory = await _until_gone(endpoint.run(asked), request)
        return JSONResponse(wire.response(asked, *_outcome(trajectory)))

    async def models(request: Request) -> Response:
        endpoint.check(request)
        card = {"id": endpoint.name, "object": "model", "created": 0, "owned_by": "kernel-agent"}
        return JSONResponse({"object": "list", "data": [card]})

    async def health(request: Request) -> Response:
        metrics = endpoint.pool.metrics
        return JSONResponse({"status": "ok", "running": metrics.leased, "waiting": metrics.waiting})

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        lifespan=lifespan,
        exception_handlers={Refused: _refused, 404: _no_such, 405: _no_such},
    )
    app.state.endpoint = endpoint
    return app


def _outcome(trajectory: Trajectory) -> tuple[Any, ...]:
    extra = {
        "run": trajectory.run_id,
        "stop_reason": str(trajectory.stop_reason),
        "steps": len(trajectory.steps),
        "notebook": trajectory.path.name if trajectory.path else None,
    }
    return trajectory.answer, trajectory.stop_reason, trajectory.usage, extra


async def _until_gone(run: Any, request: Request) -> Trajectory:
    """The run's result; it is cancelled when the client hangs up."""
    work = asyncio.ensure_future(run)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Refused("The client closed the connection.", status=499)
        trajectory: Trajectory = work.result()
        return trajectory
    finally:
        await end(work, gone)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(endpoint: Endpoint, asked: Asked) -> AsyncIterator[bytes]:
    """Server-sent events. An error comes as an event too: the status line is out by then."""
    work = asyncio.ensure_future(endpoint.run(asked))
    try:
        while not work.done():
            await asyncio.wait([work], timeout=HEARTBEAT_SECONDS)
            if not work.done():
                yield b": running\n\n"
        try:
            pieces = wire.chunks(asked, *_outcome(work.result()))
        except Refused as error:
            yield b"data: " + orjson.dumps(error.body()) + b"\n\n"
            return
        for piece in pieces:
            yield b"data: " + orjson.dumps(piece) + b"\n\n"
        yield b"data: [DONE]\n\n"
    finally:
        await end(work)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"retry-after": "5"} if error.status == 429 else {}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _no_such(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    said = Refused(f"{request.method} {request.url.path} is not served: POST /v1/chat/completions.", status=status)
    return JSONResponse(said.body(), status_code=status)
