"""A `Request` as the body of an OpenAI-compatible chat completion.

Text-only messages are sent as a string, others as a list of parts in order, images as data URIs of exactly the view's
bytes. For vLLM each image also carries its SHA-256 as `uuid`; an image the server has is sent by `uuid` alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from kernel_agent.models.text import break_up, mend
from kernel_agent.types import ImagePart, Json, KernelImage, Message, Part, Request, TextPart

_MOVED = "Images of the tool result above, in order:"


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What this server takes.

    Attributes:
        uuids: images may be sent by content hash (vLLM).
        tool_images: images may stand in `tool` messages (vLLM); else they follow in a user message.
        stream_options: usage may be asked for in a stream.
        max_tokens: the name of the parameter, `max_tokens` or `max_completion_tokens`.
        image_tokens: what must not stand in text, since the server would put an image there (vLLM; see `text.break_up`).
        rendered: the prompt as rendered and the tokens' ids may be asked for (vLLM).
    """

    uuids: bool = False
    tool_images: bool = False
    stream_options: bool = True
    max_tokens: str = "max_tokens"
    image_tokens: tuple[str, ...] = ()
    rendered: bool = False


@dataclass(frozen=True, kw_only=True)
class Body:
    """An encoded request. `sent` are the uuids of images whose data is in it, `referenced` those named only.

    `broken` are the image tokens that stood in text, with the role of the message.
    """

    data: bytes
    sent: frozenset[str]
    referenced: frozenset[str]
    broken: tuple[tuple[str, str], ...] = ()


def encode(request: Request, *, model: str, dialect: Dialect, known: Container[str], max_tokens: int) -> Body:
    """Encode `request`; images whose SHA-256 is in `known` go by reference where the dialect has uuids."""
    writer = _Writer(dialect, known)
    sampling = request.sampling
    body: dict[str, Json] = {
        "model": model,
        "messages": list(writer.messages(request.messages)),
        "stream": True,
        dialect.max_tokens: max_tokens,
    }
    if dialect.stream_options:
        body["stream_options"] = {"include_usage": True}
    if dialect.rendered:
        body |= {"return_token_ids": True, "return_prompt_text": True}
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    optional = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    body.update({key: value for key, value in optional.items() if value is not None})
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.n != 1:
        body["n"] = sampling.n
    if sampling.logprobs:
        body["logprobs"] = True
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Body(
        data=mend(text)[0].encode(),
        sent=frozenset(writer.sent),
        referenced=frozenset(writer.referenced),
        broken=tuple(writer.broken),
    )


def view_id(image: KernelImage) -> str:
    """The id under which a server keeps an image: the SHA-256 of the bytes it is shown."""
    return hashlib.sha256(image.view).hexdigest()


class _Writer:
    def __init__(self, dialect: Dialect, known: Container[str]) -> None:
        self.dialect, self.known = dialect, known
        self.sent: set[str] = set()
        self.referenced: set[str] = set()
        self.broken: dict[tuple[str, str], None] = {}

    def messages(self, messages: tuple[Message, ...]) -> Iterator[Mapping[str, Json]]:
        """Messages in order; images of tool messages after the last of them where the server wants it so."""
        moved: list[Part] = []
        for message in messages:
            parts = message.content
            if message.role == "tool" and not self.dialect.tool_images:
                moved += [part for part in parts if isinstance(part, ImagePart)]
                parts = tuple(part for part in parts if isinstance(part, TextPart))
            elif moved:
                yield self._moved(moved)
                moved = []
            out: dict[str, Json] = {"role": message.role, "content": self._content(parts, message.role)}
            if message.tool_calls:
                out["content"] = out["content"] or None
                out["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": self._text(call.arguments, message.role)},
                    }
                    for call in message.tool_calls
                ]
            if message.tool_call_id is not None:
                out["tool_call_id"] = message.tool_call_id
            yield out
        if moved:
            yield self._moved(moved)

    def _moved(self, images: list[Part]) -> Mapping[str, Json]:
        return {"role": "user", "content": self._content((TextPart(text=_MOVED), *images), "user")}

    def _text(self, text: str, role: str) -> str:
        text, found = break_up(text, self.dialect.image_tokens)
        self.broken.update(((token, role), None) for token in found)
        return text

    def _content(self, parts: tuple[Part, ...], role: str) -> Json:
        if not any(isinstance(part, ImagePart) for part in parts):
            return self._text("".join(part.text for part in parts if isinstance(part, TextPart)), role)
        return [
            {"type": "text", "text": self._text(part.text, role)}
            if isinstance(part, TextPart)
            else self._image(part.image)
            for part in parts
        ]

    def _image(self, image: KernelImage) -> Mapping[str, Json]:
        identity = view_id(image) if self.dialect.uuids else None
        if identity is not None and identity in self.known:
            self.referenced.add(identity)
            return {"type": "image_url", "image_url": None, "uuid": identity}
        url = f"data:{image.view_mime};base64,{base64.b64encode(image.view).decode()}"
        part: dict[str, Json] = {"type": "image_url", "image_url": {"url": url}}
        if identity is not None:
            self.sent.add(identity)
            part["uuid"] = identity
        return part
