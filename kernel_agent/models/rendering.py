"""What a checkpoint's processor makes of a conversation: the same for generation and for training.

Images go through the checkpoint's own processor and chat template, in the order of the messages.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from kernel_agent.models.text import IMAGE_TOKENS, break_up, mend
from kernel_agent.types import FORMATS, Event, ImagePart, Json, KernelImage, Message, TextPart


def render(
    processor: Any,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Json]],
    events: list[Event],
    *,
    reply_next: bool = True,
) -> tuple[str, list[KernelImage]]:
    """The text that the checkpoint's chat template makes of messages and tools, and the images it marks, in order.

    With `reply_next` it ends where the model begins to write. Literal image tokens in text are broken up, which `events` tells.
    """
    chat = [_chat(message, image_tokens(processor), events) for message in messages]
    given = [dict(tool) for tool in tools] or None
    text = processor.apply_chat_template(chat, tools=given, add_generation_prompt=reply_next, tokenize=False)
    return str(text), [part.image for one in messages for part in one.content if isinstance(part, ImagePart)]


def prepare(processor: Any, texts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
    """Tensors of rendered texts and the pictures of each, as the model takes them; several texts are padded."""
    inputs = processor(
        text=list(texts),
        images=[list(row) for row in pictures] if any(pictures) else None,
        return_tensors="pt",
        add_special_tokens=False,
        padding=len(texts) > 1,
    )
    inputs.pop("token_type_ids", None)
    return inputs


def picture(view: bytes) -> Image.Image:
    """A view as the processor gets it."""
    return Image.open(io.BytesIO(view), formats=FORMATS).convert("RGB")


def image_tokens(processor: Any) -> tuple[str, ...]:
    """What must not stand in a text for this processor, as it would count as an image."""
    own = getattr(processor, "image_token", None)
    return (own, *IMAGE_TOKENS) if isinstance(own, str) and own not in IMAGE_TOKENS else IMAGE_TOKENS


def _chat(message: Message, image_tokens: tuple[str, ...], events: list[Event]) -> dict[str, Json]:
    """A message as chat templates take it. A literal image token in text would count as an image: it is broken up."""
    broken: dict[str, None] = {}

    def broken_up(text: str) -> str:
        text, found = break_up(mend(text)[0], image_tokens)
        broken.update(dict.fromkeys(found))
        return text

    parts: list[dict[str, Json]] = [
        {"type": "text", "text": broken_up(part.text)} if isinstance(part, TextPart) else {"type": "image"}
        for part in message.content
    ]
    out: dict[str, Json] = {"role": message.role, "content": parts}
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(broken_up(call.arguments))},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    events += [
        Event(kind="image_token_in_text", time=time.time(), data={"token": token, "role": message.role})
        for token in broken
    ]
    return out


def _arguments(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text
