"""The connection to one model server: who it is, where it is, how long to wait, and what its failures mean."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kernel_agent.errors import InputError, ModelError, ModelTimeout, ModelUnreachable
from kernel_agent.models.faults import Redactor, check_url, shown_url
from kernel_agent.models.stream import NotACompletion, read_json
from kernel_agent.types import Json

if TYPE_CHECKING:
    import httpx

_LOOK_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds: to connect, between two pieces of an answer (the first included), and for a completion with its retries."""

    connect: float = 10.0
    read: float = 300.0
    total: float = 900.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """What a server tells about itself; by model, where told: `context`, its token limit, `roots`, its path or hub name there."""

    vllm: bool = False
    models: tuple[str, ...] = ()
    context: Mapping[str, int] = field(default_factory=dict)
    roots: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None


class Connection:
    """One server, for any number of requests at once. A client is kept for each event loop it is used from."""

    def __init__(self, base_url: str, api_key: str | None, timeouts: Timeouts) -> None:
        parts = urlsplit(check_url(base_url))
        userinfo, _, place = parts.netloc.rpartition("@")
        key = (api_key or "").strip()
        if not key.isascii() or any(char.isspace() for char in key):
            raise InputError("The API key holds spaces, line breaks or characters beyond ASCII: copy it again.")
        basic = base64.b64encode(unquote(userinfo).encode()).decode() if userinfo else ""
        query = [pair.partition("=")[2] for pair in parts.query.split("&")]
        secrets = [key, basic, userinfo, *(unquote(word) for word in userinfo.split(":") if len(word) > 3)]
        self.redact = Redactor([*secrets, *(value for value in query if len(value) > 3)])
        self.has_key = bool(key or basic)
        self.timeouts = timeouts
        self._base = parts._replace(netloc=place, query="").geturl()
        self._query = f"?{parts.query}" if parts.query else ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.local = place.rpartition(":")[0].strip("[]") in ("localhost", "127.0.0.1", "::1") or place == "localhost"
        self.__authorization = f"Bearer {key}" if key else f"Basic {basic}" if basic else ""
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]
        self._clients = weakref.WeakKeyDictionary()

    @property
    def shown(self) -> str:
        """The base URL for people: no credentials, no query."""
        return shown_url(self._base)

    def __repr__(self) -> str:
        return f"Connection({self.shown!r})"

    async def aclose(self) -> None:
        """Close the connections of this event loop and forget those of others."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        self._clients.clear()
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        import httpx

        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            headers = {"content-type": "application/json", "user-agent": "kernel-agent"}
            if self.__authorization:
                headers["authorization"] = self.__authorization
            waits = self.timeouts
            client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(waits.read, connect=waits.connect, pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=not self.local,  # a proxy cannot reach this machine's own servers
            )
            self._clients[loop] = client
        return client

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[httpx.Response]:
        """POST and hand out the response unread; it is closed on leaving, however that happens."""
        async with self._client().stream("POST", f"{self._base}{path}{self._query}", content=body) as response:
            yield response

    async def get_json(self, address: str) -> tuple[int, Json]:
        """GET an address (absolute, or a path below the base); status 0 where there is no answer or no JSON."""
        import httpx

        url = address if "://" in address else f"{self._base}{address}"
        try:
            response = await self._client().get(f"{url}{self._query}", timeout=min(_LOOK_SECONDS, self.timeouts.read))
            return response.status_code, read_json(response.content)
        except httpx.HTTPError:
            return 0, None
        except NotACompletion:
            return response.status_code, None

    async def look(self) -> Server | None:
        """Ask the server who it is (a few small GETs). None where it cannot be told now."""
        status, listing = await self.get_json("/models")
        if status in (0, 401, 403, 408, 429) or status >= 500:
            return None
        cards = listing.get("data") if isinstance(listing, dict) else None
        cards = [card for card in cards if isinstance(card, dict) and card.get("id")] if isinstance(cards, list) else []
        vllm = any(card.get("owned_by") == "vllm" for card in cards)
        version = await self._tells("/version", "version") if vllm else None
        return Server(
            vllm=vllm,
            models=tuple(str(card["id"]) for card in cards),
            context={str(card["id"]): card["max_model_len"] for card in cards if card.get("max_model_len")},
            roots={str(card["id"]): str(card["root"]) for card in cards if card.get("root")},
            version=version,
        )

    async def config(self) -> str | None:
        """A vLLM server's whole configuration, which it tells only in its development mode (and then not quickly)."""
        told = await self._tells("/server_info", "vllm_config")
        return None if told is None else self.redact(told)

    async def _tells(self, path: str, key: str) -> str | None:
        """A text that a server tells beside its API."""
        _, told = await self.get_json(f"{self._base.removesuffix('/v1')}{path}")
        text = told.get(key) if isinstance(told, dict) else None
        return text if isinstance(text, str) else None

    async def serves_v1(self) -> bool:
        """Whether `/v1` below the base would have been right."""
        status, listing = await self.get_json("/v1/models")
        return status in (200, 401) and isinstance(listing, dict)

    def translate(self, error: httpx.HTTPError, received: int) -> ModelError:
        """What a failure of the transport means. `received`: characters of the answer that had come."""
        import httpx

        reason = self.redact(str(error) or type(error).__name__)
        waits, url = self.timeouts, self.shown
        if isinstance(error, httpx.ConnectTimeout):
            return ModelUnreachable(
                f"No connection to {url} within {waits.connect:g} s. Check the address and the network.", retryable=True
            )
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            return self._no_connection(error, reason)
        if isinstance(error, httpx.TimeoutException):
            return ModelTimeout(
                f"{url} sent nothing for {waits.read:g} s (after {received} characters). Raise the read timeout, or ask a "
                "faster server."
            )
        after = f"in the middle of an answer, after {received} characters" if received else "before it answered"
        return ModelUnreachable(
            f"{url} closed the connection {after} ({reason}). Its own log says why; asking again may help.",
            retryable=True,
        )

    def _no_connection(self, error: BaseException, reason: str) -> ModelError:
        causes = _causes(error)
        if any(isinstance(cause, ssl.SSLError) for cause in causes) or "CERTIFICATE" in reason:
            return ModelUnreachable(
                f"No TLS connection to {self.shown}: {reason}. Use http:// for a server without TLS, or point SSL_CERT_FILE "
                "to the authority that signed its certificate."
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return ModelUnreachable(f"The host of {self.shown} has no address ({reason}). Check its spelling.")
        return ModelUnreachable(
            f"No connection to {self.shown} ({reason}). Start a server there (`codevision serve CHECKPOINT` prints its "
            "address), or check the address and the port.",
            retryable=True,
        )


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
