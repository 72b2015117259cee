"""A model behind an OpenAI-compatible server: vLLM, or any other.

Guarantees: a request is repeated only as a whole, after a pause, and each repetition is an event of the completion;
no key or credential reaches an error, an event, `describe` or `repr`; cancelling closes the connection at once.
Does not guarantee: that an image sent before is still held by the server (it is sent again when it is not), or usage
where the server tells none (then an event says so and the pieces received are counted).

httpx as it is: bodies are counted as sent, `uuid` parts pass, importing it costs a fifth of `openai`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kernel_agent.errors import InputError, ModelError, ModelRefused, ModelTimeout, ModelUnreachable
from kernel_agent.models import stream, wire
from kernel_agent.models.attempts import Refused, Work, adapt
from kernel_agent.models.faults import Reply, explain, in_stream, no_completion, read_reply
from kernel_agent.models.http import Connection, Server, Timeouts
from kernel_agent.models.nearby import ELSEWHERE, Nearby
from kernel_agent.models.text import IMAGE_TOKENS
from kernel_agent.types import Completion, Json, Request

if TYPE_CHECKING:
    import httpx

RESTARTED = "\n[the connection was lost: the answer starts again]\n"
"""What `on_text` is given before a text that was shown in part begins anew."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0


class OpenAIModel:
    """Asks `model` at `base_url` (up to /v1). `model` None takes the only one served.

    Args:
        api_key: sent as a bearer token. Default: CODEVISION_API_KEY, and for api.openai.com OPENAI_API_KEY; so no key
            goes to a host it was not meant for. Credentials in the URL are sent as basic authentication.
        timeout: seconds for a whole completion, or `Timeouts`.
        retries: how often a request is repeated after 429, 5xx or a lost connection; Retry-After is honoured.
        max_image_uploads: how many images are remembered as held by a vLLM server.
    """

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str,
        api_key: str | None = None,
        timeout: float | Timeouts = Timeouts(),
        retries: int = 3,
        max_image_uploads: int = 4096,
    ) -> None:
        timeouts = timeout if isinstance(timeout, Timeouts) else Timeouts(total=timeout)
        if min(timeouts.connect, timeouts.read, timeouts.total) <= 0 or retries < 0:
            raise InputError(f"timeout={timeout} and retries={retries}: seconds must be above 0 and retries 0 or more.")
        if model is not None and not model.strip():
            raise InputError(
                "The model's name is empty: give one the server lists, or None for the only one it serves."
            )
        if api_key is None:
            api_key = os.environ.get("CODEVISION_API_KEY")
        if api_key is None and urlsplit(base_url).hostname == "api.openai.com":
            api_key = os.environ.get("OPENAI_API_KEY")
        self._model = model
        self._connection = Connection(base_url, api_key, timeouts)
        self._retries = retries
        self._server: Server | None = None
        self._nearby = Nearby()
        self._config: str | None = None
        self._dialect = wire.Dialect()
        self._held: OrderedDict[str, None] = OrderedDict()
        self._max_held = max_image_uploads

    @property
    def name(self) -> str:
        """The model asked; the address until it is known."""
        return self._model or self._connection.shown

    def __repr__(self) -> str:
        return f"OpenAIModel({self._model!r}, base_url={self._connection.shown!r})"

    def describe(self) -> Mapping[str, Json]:
        """Kind, model and address; once it was asked (see `probe`) the server's kind, version, token limit, `root` (path or
        hub name of what it serves), and what else can be known of it, with `not_told` for what cannot (see nearby.py).
        """
        server, model = self._server or Server(), self._model or ""
        about: dict[str, Json] = {
            "kind": "openai",
            "model": self._model,
            "base_url": self._connection.shown,
            "server": None if self._server is None else "vllm" if server.vllm else "other",
            "server_version": server.version,
            "context_tokens": server.context.get(model),
        }
        facts = self._nearby.facts()
        if not facts:
            return about
        why = {} if server.version else {"server_version": ELSEWHERE}
        config = {"config": self._config} if self._config else {}
        return {**about, "root": server.roots.get(model), **config, **facts, "not_told": {**why, **facts["not_told"]}}

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self._connection.aclose()

    async def probe(self) -> Server | None:
        """Ask once who the server is; None where it does not say (then the next call asks again). Never raises."""
        if self._server is None:
            self._server = await self._connection.look()
            if self._server is not None and self._server.vllm:
                self._dialect = replace(
                    self._dialect, uuids=True, tool_images=True, rendered=True, image_tokens=IMAGE_TOKENS
                )
        if self._model is None and self._server is not None and len(self._server.models) == 1:
            self._model = self._server.models[0]
        if self._server is not None and self._model is not None:
            port = self._connection.port if self._server.vllm and self._connection.local else None
            self._nearby.look(port, self._server.roots.get(self._model), tuple(self._server.roots.values()))
        return self._server

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """See `Model.complete`. Raises ModelUnreachable, ModelTimeout, ModelRefused or ModelFailed."""
        work = Work(request=request, on_text=on_text, max_tokens=request.sampling.max_tokens)
        total = self._connection.timeouts.total
        limit = asyncio.timeout(total)
        try:
            async with limit:
                completion = await self._ask(work)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ModelTimeout(
                f"{self._connection.shown} gave no whole answer within {total:g} s ({work.received} characters came, "
                f"{work.repeats} retries). Raise the timeout, lower max_tokens, or ask a faster server."
            ) from None
        seconds = time.monotonic() - work.started
        await self._learn()
        return replace(
            completion,
            events=tuple(work.events),
            seconds=seconds,
            first_token_seconds=work.first_token,
            uploaded_bytes=work.uploaded,
        )

    async def _learn(self) -> None:
        """After the first completion: what is known of the server; where the machine does not tell, the server itself may."""
        await self._nearby.settle()
        if self._config is None and (self._server or Server()).vllm and not self._nearby.facts().get("flags"):
            self._config = ""
            self._config = await self._connection.config() or ""

    async def _ask(self, work: Work) -> Completion:
        await self.probe()
        while True:
            if self._model is None:
                error: ModelError = self._which()
                pause = None
            else:
                try:
                    return await self._once(work, self._model)
                except Refused as refused:
                    if self._adapted(work, refused.reply):
                        continue
                    error, pause = await self._explained(refused.reply), refused.reply.retry_after
                except ModelError as failed:
                    error, pause = failed, None
            if not error.retryable or work.repeats >= self._retries:
                raise work.finally_failed(error) from None
            await self._pause(work, error, pause)
            if self._server is None:
                await self.probe()

    async def _pause(self, work: Work, error: ModelError, asked: float | None) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**work.repeats) * random.uniform(0.75, 1.25)
        pause = pause if asked is None else max(asked, 0.05)
        left = self._connection.timeouts.total - (time.monotonic() - work.started)
        if pause >= left:
            raise type(error)(
                f"{error} The next try would be in {pause:.0f} s, beyond the limit of {self._connection.timeouts.total:g} s.",
                status=error.status,
                retryable=True,
            )
        work.repeats += 1
        work.note("model_retry", attempt=work.repeats, of=self._retries, status=error.status, pause=round(pause, 3),
                  error=str(error), received=work.received)  # fmt: skip
        await asyncio.sleep(pause)

    async def _once(self, work: Work, model: str) -> Completion:
        import httpx

        context = (self._server or Server()).context.get(model)
        if context is not None and work.max_tokens > context:
            work.note("max_tokens_reduced", asked=work.max_tokens, sent=context)
            work.max_tokens = context
        body = wire.encode(
            work.request, model=model, dialect=self._dialect, known=self._held, max_tokens=work.max_tokens
        )
        if work.body is None:
            for token, role in body.broken:
                work.note("image_token_in_text", token=token, role=role)
        work.body = body
        assembly = stream.Assembly()
        if work.received and work.on_text:
            work.on_text(RESTARTED)
        work.received = 0
        work.uploaded += len(body.data)
        try:
            async with self._connection.post("/chat/completions", body.data) as response:
                if response.status_code != 200:
                    said = await _bounded(response, 2**20)
                    raise Refused(read_reply(response.status_code, response.headers, said, self._connection.redact))
                self._hold(body)
                if "event-stream" in response.headers.get("content-type", ""):
                    await self._read_stream(response, assembly, work)
                else:
                    whole = await _bounded(response, stream.MAX_BYTES)
                    self._take(whole, assembly, work)
            completion, told = assembly.completion()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            work.uploaded -= len(body.data)
            raise self._connection.translate(error, 0) from None
        except httpx.HTTPError as error:
            raise self._connection.translate(error, work.received) from None
        except stream.NotACompletion as error:
            raise no_completion(
                error, self._connection.shown, self._connection.redact, begun=assembly.pieces > 0
            ) from None
        if not told:
            work.note("usage_missing", counted_pieces=assembly.pieces)
        return completion

    async def _read_stream(self, response: httpx.Response, assembly: stream.Assembly, work: Work) -> None:
        events = stream.server_events(response.aiter_bytes())
        ended = False
        async for data in events:
            if data.strip() == b"[DONE]":
                ended = True
                break
            self._take(data, assembly, work)
        if ended:
            with suppress(TimeoutError):  # read to the end, so that the connection can be used again
                async with asyncio.timeout(0.5):
                    async for _ in events:
                        pass
        if not assembly.done and not (ended and assembly.pieces):
            if ended:
                return
            raise ModelUnreachable(
                f"{self._connection.shown} closed the connection in the middle of an answer, after {work.received} "
                "characters. Its own log says why; asking again may help.",
                retryable=True,
            )

    def _take(self, data: bytes, assembly: stream.Assembly, work: Work) -> None:
        event = stream.read_json(data)
        if isinstance(event, dict) and event.get("error"):
            raise Refused(in_stream(event["error"], self._connection.redact))
        piece = assembly.feed(event)
        work.received = assembly.received
        if assembly.pieces and work.first_token is None:
            work.first_token = time.monotonic() - work.started
        if piece and work.on_text:
            work.on_text(piece)

    def _hold(self, body: wire.Body) -> None:
        """The server took the request: it has these images now."""
        for identity in sorted(body.sent | body.referenced):
            self._held[identity] = None
            self._held.move_to_end(identity)
        while len(self._held) > self._max_held:
            self._held.popitem(last=False)

    def _adapted(self, work: Work, reply: Reply) -> bool:
        """Change what the server objects to; True where it is worth asking again at once."""
        adapted = adapt(work, reply, self._dialect)
        if adapted is None:
            return False
        kind, self._dialect = adapted
        if kind == "image_resend" and work.body:
            for identity in work.body.referenced:
                self._held.pop(identity, None)
        return True

    async def _explained(self, reply: Reply) -> ModelError:
        """The error for a refusal, with what the server serves where the name or the path is wrong."""
        url, model = self._connection.shown, self._model or ""
        if reply.status == 404 or (reply.status == 400 and "model" in reply.message and "exist" in reply.message):
            server = await self._connection.look() or Server()
            said = f"{url} answered {reply.status}: {reply.message}."
            if server.models and model not in server.models:
                names = ", ".join(server.models[:10]) + (", ..." if len(server.models) > 10 else "")
                return ModelRefused(
                    f"{said} It does not serve {model!r} but: {names}. Choose with --model.", status=reply.status
                )
            if not server.models and await self._connection.serves_v1():
                return ModelRefused(f"{said} The address lacks /v1: use --base-url {url}/v1.", status=reply.status)
        context = (self._server or Server()).context.get(model)
        return explain(reply, url=url, model=model, has_key=self._connection.has_key, context=context)

    def _which(self) -> ModelError:
        url = self._connection.shown
        if self._server is None:
            return ModelUnreachable(
                f"{url} does not say which models it serves: is it running? Or give --model.", retryable=True
            )
        names = ", ".join(self._server.models) or "none"
        return ModelRefused(f"{url} serves {names}: choose one with --model.")


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    """The body. Raises TooMuch beyond `limit`."""
    whole = bytearray()
    async for piece in response.aiter_bytes():
        whole += piece
        if len(whole) > limit:
            raise stream.TooMuch(f"more than {limit} bytes")
    return bytes(whole)
