"""Reading a chat completion, streamed or whole, into one `Completion`.

Guarantees: tool calls and texts of all choices are put together from their pieces; lone surrogates are replaced with
the original kept; a stream that ends before every choice has its finish reason is not taken for an answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from kernel_agent.models.text import Mender, mend
from kernel_agent.models.tokens import are_ids, joined, rendered_prompt
from kernel_agent.types import Completion, Json, RenderedPrompt, TokenLogprob, ToolCall, Usage

MAX_BYTES = 64 * 2**20
"""A completion of more than this is refused: the server ignores max_tokens."""


class NotACompletion(Exception):
    """What came is no chat completion; the message says what it is instead."""


class TooMuch(NotACompletion):
    """More than `MAX_BYTES` came."""


async def server_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event. Splits at line feeds only: JSON may hold other line separators."""
    buffer, data, received = bytearray(), list[bytes](), 0
    async for chunk in chunks:
        received += len(chunk)
        if received > MAX_BYTES:
            raise TooMuch(f"more than {MAX_BYTES} bytes")
        buffer += chunk
        if b"\n" not in chunk:
            continue
        *lines, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
    if buffer.startswith(b"data:"):
        data.append(bytes(buffer).rstrip(b"\r")[5:].removeprefix(b" "))
    if data:
        yield b"\n".join(data)


def read_json(data: bytes) -> Json:
    """JSON whose text may hold what is no valid UTF-8. Raises NotACompletion."""
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    except ValueError as error:
        raise NotACompletion(f"no JSON ({error}): {excerpt(data)}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise NotACompletion(f"no JSON ({error}): {excerpt(data)}") from None


def excerpt(data: bytes, limit: int = 200) -> str:
    """The beginning of a body, for an error message."""
    text = " ".join(data[: 4 * limit].decode("utf-8", "replace").split())
    return text[:limit] + ("..." if len(text) > limit or len(data) > 4 * limit else "")


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish: str | None = None
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def whole(self) -> str:
        """Text as written. A server that takes the reasoning out of the text gets it put back in <think> tags."""
        text, reasoning = "".join(self.text), "".join(self.reasoning)
        return f"<think>{reasoning}</think>{text}" if reasoning else text


class Assembly:
    """Puts a completion together; `feed` takes each event (or the one whole answer) as parsed JSON."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._model = self._id = self._fingerprint = ""
        self._prompt: RenderedPrompt | None = None
        self._mender = Mender()
        self.pieces = 0
        self.received = 0
        """Characters of text and tool arguments so far, over all choices."""

    @property
    def done(self) -> bool:
        """Whether every choice seen has ended."""
        return bool(self._choices) and all(choice.finish is not None for choice in self._choices.values())

    def feed(self, event: Json) -> str:
        """Take one event and return the new text of the first choice. Raises NotACompletion."""
        if not isinstance(event, dict) or ("choices" not in event and "usage" not in event):
            raise NotACompletion(f"JSON without choices: {excerpt(json.dumps(event).encode())}")
        self._model = event.get("model") or self._model
        self._id = event.get("id") or self._id
        self._fingerprint = event.get("system_fingerprint") or self._fingerprint
        if self._prompt is None and are_ids(ids := event.get("prompt_token_ids")):
            text = event.get("prompt_text")
            self._prompt = rendered_prompt(ids, text if isinstance(text, str) else None)
        if isinstance(event.get("usage"), dict):
            self._usage = _usage(event["usage"])
        shown = ""
        try:
            for item in event.get("choices") or ():
                index = item.get("index") or 0
                piece = self._take(self._choices.setdefault(index, _Choice()), item)
                shown += piece if index == 0 else ""
        except (AttributeError, TypeError, KeyError) as error:
            raise NotACompletion(
                f"a choice of unknown form ({error!r}): {excerpt(json.dumps(event).encode())}"
            ) from None
        return self._mender.feed(shown)

    def _take(self, choice: _Choice, item: dict[str, Json]) -> str:
        delta = item.get("delta") or item.get("message") or {}
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        text = delta.get("content") or ""
        choice.reasoning.append(reasoning)
        choice.text.append(text)
        self.received += len(reasoning) + len(text)
        self.pieces += bool(text or reasoning or delta.get("tool_calls"))
        for position, part in enumerate(delta.get("tool_calls") or ()):
            index = part.get("index")
            if index is None:  # some servers number nothing and send each call whole
                index = len(choice.calls) if part.get("id") else max(position, len(choice.calls) - 1)
            call = choice.calls.setdefault(index, _Call())
            function = part.get("function") or {}
            call.id = part.get("id") or call.id
            call.name += function.get("name") or ""
            arguments = function.get("arguments") or ""
            call.arguments.append(arguments)
            self.received += len(arguments)
        for entry in (item.get("logprobs") or {}).get("content") or ():
            choice.logprobs.append(TokenLogprob(token=mend(entry["token"])[0], logprob=float(entry["logprob"])))
        if are_ids(ids := item.get("token_ids")):
            choice.ids += ids
        choice.finish = item.get("finish_reason") or choice.finish
        return reasoning + text

    def completion(self) -> tuple[Completion, bool]:
        """The completion, and whether the server told its usage (else completion tokens are the pieces counted).

        Raises NotACompletion where no choice came.
        """
        if not self._choices:
            raise NotACompletion("an answer without any choice")
        first, *others = (self._choices[index] for index in sorted(self._choices))
        text, raw = mend(first.whole())
        calls = tuple(
            ToolCall(id=call.id or f"call_{index}", name=mend(call.name)[0], arguments=mend("".join(call.arguments))[0])
            for index, call in sorted(first.calls.items())
        )
        return Completion(
            text=text,
            raw_json=raw,
            tool_calls=calls,
            finish_reason=first.finish or "stop",
            usage=self._usage or Usage(completion_tokens=self.pieces),
            model=self._model,
            response_id=self._id,
            logprobs=tuple(first.logprobs),
            alternatives=tuple(mend(choice.whole())[0] for choice in others),
            prompt=self._prompt,
            token_ids=joined(first.ids),
            system_fingerprint=str(self._fingerprint),
        ), self._usage is not None


def _usage(usage: dict[str, Json]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )
