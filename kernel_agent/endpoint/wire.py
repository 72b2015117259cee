"""OpenAI's chat format, as far as the endpoint speaks it: a request into a question with images, an answer into a response.

Taken: `model`, `messages` (text and image_url parts with data URIs), `temperature`, `top_p`, `seed`, `stream`,
`stream_options.include_usage`, `user`. Left alone, since they would cut the agent's own messages: `max_tokens`,
`max_completion_tokens`, `stop`, penalties. Refused: what would change the meaning of the answer (`n` above 1, `tools`, `logprobs`,
images by URL).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernel_agent.types import Json, StopReason, Usage


class Refused(Exception):
    """A request that is answered with an error in OpenAI's form."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    def body(self) -> dict[str, Json]:
        """As OpenAI says it."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that was understood; `sampling` has what the client chose of temperature, top_p and seed."""

    model: str
    question: str
    images: tuple[str, ...] = field(repr=False)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False


def read_request(data: Json) -> Asked:
    """Raises Refused."""
    if not isinstance(data, Mapping):
        raise Refused("The body is no JSON object.")
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("`messages` is missing or empty: send at least one user message.", param="messages")
    for name in ("tools", "functions", "logprobs"):
        if data.get(name):
            raise Refused(
                f"`{name}` is not supported: the endpoint runs the agent's own tool and returns its answer.", param=name
            )
    if data.get("n") not in (None, 1):
        raise Refused(f"`n` is {data['n']}: one answer a request is given.", param="n")
    images: list[str] = []
    turns = [_turn(message, index, images) for index, message in enumerate(messages)]
    if not images:
        raise Refused("There is no image: send one as an image_url part with a data: URI.", param="messages")
    options = data.get("stream_options")
    return Asked(
        model=str(data.get("model") or ""),
        question=_question(turns),
        images=tuple(images),
        sampling={name: _number(data, name) for name in ("temperature", "top_p", "seed") if data.get(name) is not None},
        stream=bool(data.get("stream")),
        include_usage=isinstance(options, Mapping) and bool(options.get("include_usage")),
    )


def _number(data: Mapping[str, Json], name: str) -> float | int:
    value = data[name]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Refused(f"`{name}` is {value!r}, not a number.", param=name)
    return int(value) if name == "seed" else float(value)


def _turn(message: Json, index: int, images: list[str]) -> tuple[str, str]:
    """(role, text); pictures are put into `images`."""
    where = f"messages[{index}]"
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ("system", "developer", "user", "assistant"):
        raise Refused(f"`{where}` has the role {role!r}: system, user or assistant is expected.", param=where)
    content = message.get("content")
    if isinstance(content, str):
        return role, content
    texts = []
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            source = part.get("image_url")
            url = source.get("url") if isinstance(source, Mapping) else source
            if not isinstance(url, str) or not url.startswith("data:"):
                raise Refused(
                    f"`{where}` has an image that is no data: URI: images by URL are not fetched.", param=where
                )
            images.append(url)
        else:
            raise Refused(f"`{where}` has a part of type {kind!r}: text and image_url are known.", param=where)
    return role, "\n".join(texts)


def _question(turns: Sequence[tuple[str, str]]) -> str:
    """The last user message; what was said before comes before it, as context."""
    if turns[-1][0] != "user":
        raise Refused("The last message is not the user's: there is nothing to answer.", param="messages")
    told = [text for role, text in turns if role in ("system", "developer") and text.strip()]
    talk = [(role, text) for role, text in turns[:-1] if role in ("user", "assistant") and text.strip()]
    before = [f"{'Earlier question' if role == 'user' else 'Earlier answer'}: {text}" for role, text in talk]
    question = turns[-1][1]
    if not question.strip():
        raise Refused("The last message has no text: say what you want to know about the image.", param="messages")
    return "\n\n".join([*told, *before, question])


def response(asked: Asked, answer: str | None, reason: StopReason | None, usage: Usage, extra: Json) -> dict[str, Json]:
    """The whole answer. A run that ended at a limit has no content and the finish reason `length`."""
    message = {"role": "assistant", "content": answer or ""}
    return {
        **_head(asked, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(reason), "logprobs": None}],
        "usage": usage_data(usage),
        "codevision": extra,
    }


def finish_reason(reason: StopReason | None) -> str:
    """`stop` for an answer, `length` for a limit."""
    return "stop" if reason is StopReason.ANSWER else "length"


def chunks(
    asked: Asked, answer: str | None, reason: StopReason | None, usage: Usage, extra: Json
) -> list[dict[str, Json]]:
    """The answer as a stream has it: role, content, end, and the usage where it was asked for."""
    head = _head(asked, "chat.completion.chunk")

    def chunk(delta: dict[str, Json], finish: str | None = None) -> dict[str, Json]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    out = [chunk({"role": "assistant", "content": ""}), chunk({"content": answer or ""})]
    out.append({**chunk({}, finish_reason(reason)), "codevision": extra})
    if asked.include_usage:
        out.append({**head, "choices": [], "usage": usage_data(usage)})
    return out


def _head(asked: Asked, kind: str) -> dict[str, Json]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": asked.model}


def usage_data(usage: Usage) -> dict[str, Json]:
    """Tokens of all the agent's model calls together."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
