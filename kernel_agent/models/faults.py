"""What can go wrong between this package and a model server, as errors that name URL, status, message and remedy.

No secret gets into them: URLs are shown without credentials and query, and everything a server says goes through a
`Redactor`, since servers quote keys and headers back.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from kernel_agent.errors import InputError, ModelError, ModelFailed, ModelRefused
from kernel_agent.models.stream import NotACompletion, TooMuch, excerpt, read_json
from kernel_agent.types import Json

_RETRYABLE = {408, 425, 429, 500, 502, 503, 504, 529}
_SECRET = re.compile(
    r"(?i)\b(?:sk|pk|hf|gsk|xai|nvapi)[-_][\w*-]{6,}|\b(bearer|basic)\s+[\w.~+/=*-]{4,}"
    r"|(?<=://)[^/\s@]+@|((?:api[-_]?key|token|secret|password)[\"']?\s*[=:]\s*)[\"']?[^\s\"'&,}]+"
)
_TOO_LONG = re.compile(
    r"(?i)context (?:length|window|size)|max_model_len|maximum model length|prompt is too long|too many tokens|longer than the max"
)


class Redactor:
    """Takes the given secrets, and what looks like one, out of text. Shows none of them itself."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.__secrets = tuple(sorted({secret for secret in secrets if secret}, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """`text` with *** for each secret."""
        for secret in self.__secrets:
            text = text.replace(secret, "***")
        return _SECRET.sub(lambda found: (found[2] or "") + (f"{found[1]} " if found[1] else "") + "***", text)

    def __repr__(self) -> str:
        return "Redactor(...)"


def shown_url(url: str) -> str:
    """A URL without credentials, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def check_url(url: str) -> str:
    """`url` as the base of `/chat/completions`: without it and without trailing slashes. Raises InputError."""
    remedy = "Give the address up to /v1, as in http://127.0.0.1:8000/v1."
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"--base-url {Redactor()(url)!r} is no http or https address. {remedy}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return parts._replace(path=path, fragment="").geturl()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An HTTP answer that is no success; `message` is the server's, already redacted."""

    status: int
    message: str
    retry_after: float | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later. A quota that is used up comes as 429 and does not."""
        return self.status in _RETRYABLE and "insufficient_quota" not in self.message


def read_reply(status: int, headers: Mapping[str, str], body: bytes, redact: Redactor) -> Reply:
    """What a server said, whatever its form."""
    try:
        message = _message(read_json(body))
    except NotACompletion:
        message = excerpt(body, 400)
    if 300 <= status < 400:
        message = f"moved to {shown_url(headers.get('location', '?'))}"
    return Reply(
        status=status,
        message=redact(message or "no message")[:1000].rstrip(". "),
        retry_after=_retry_after(headers.get("retry-after", "")),
    )


def in_stream(error: Json, redact: Redactor) -> Reply:
    """An error that came as an event of the stream."""
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and str(code).isdigit() and 400 <= int(code) < 600 else 500
    return Reply(status=status, message=redact(_message({"error": error}))[:1000].rstrip(". "))


def _message(body: Json) -> str:
    if isinstance(body, dict):
        for key in ("error", "message", "detail", "msg"):
            if body.get(key):
                inner = _message(body[key])
                kind = body[key].get("code") if isinstance(body[key], dict) else None
                return f"{inner} [{kind}]" if kind == "insufficient_quota" else inner
    if isinstance(body, list) and body:
        return "; ".join(_message(item) for item in body[:3])
    return str(body)


def _retry_after(value: str) -> float | None:
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def is_too_long(reply: Reply) -> bool:
    """Whether the server says that the conversation does not fit."""
    return reply.status < 500 and bool(_TOO_LONG.search(reply.message))


def explain(reply: Reply, *, url: str, model: str, has_key: bool, context: int | None) -> ModelError:
    """The error for `reply`, without what only another request could tell (see `OpenAIModel`)."""
    said = f"{url} answered {reply.status}: {reply.message}."
    status, retryable = reply.status, reply.retryable
    if status in (401, 403):
        remedy = (
            "The key was refused: check it, and that it may use this model."
            if has_key
            else "No key was sent: set CODEVISION_API_KEY (OPENAI_API_KEY is used for api.openai.com only) or pass api_key."
        )
    elif status == 429:
        remedy = (
            "The quota is used up: retrying does not help."
            if not retryable
            else "Too many requests: wait, run fewer at once, or raise `retries`."
        )
    elif is_too_long(reply):
        limit = f" (its limit: {context} tokens)" if context else ""
        remedy = (
            f"The conversation is too long for {model!r}{limit}: send fewer or smaller images, lower the budget's steps or "
            "output_chars, lower max_tokens, or serve the model with a larger --max-model-len."
        )
    elif status == 413:
        remedy = "The request body is too large for this server: send fewer or smaller images."
    elif 300 <= status < 400:
        remedy = "Give that address as --base-url."
    elif status < 500:
        remedy = "Check the model's name, the base URL and the sampling options against what this server supports."
    else:
        remedy = "The server failed: its own log says why."
    kind = ModelRefused if status < 500 else ModelFailed
    return kind(f"{said} {remedy}", status=status, retryable=retryable)


def no_completion(error: NotACompletion, url: str, redact: Redactor, *, begun: bool) -> ModelFailed:
    """The error for a 200 that holds no chat completion; worth another try where a good stream had `begun`."""
    if isinstance(error, TooMuch):
        return ModelFailed(f"{url} sent {error} for one completion: it ignores max_tokens. Stop it, or ask another.")
    return ModelFailed(
        f"{url} answered 200 with what is no chat completion: {redact(str(error))}. Check that the address is that of an "
        "OpenAI-compatible server, up to /v1.",
        status=200,
        retryable=begun,
    )
