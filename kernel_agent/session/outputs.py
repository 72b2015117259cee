"""From a cell's messages to its outputs: text clipped and cleaned, pictures taken in under their names."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from kernel_agent.session.kernel_side import MIME_NOTE
from kernel_agent.types import (
    Affine,
    ErrorOutput,
    Event,
    ImageOutput,
    KernelImage,
    Output,
    StreamOutput,
    TextOutput,
)

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_RETURN = re.compile(r"[^\n]*\r(?!\n)")

TakeImage = Callable[[bytes, int, "int | None", "Affine | None"], KernelImage]
"""(PNG bytes, index, parent, affine) -> the image; raises ImageError."""


def clean_text(text: str) -> str:
    """Without ANSI codes, overwritten progress lines, other control characters and lone surrogates."""
    text = _RETURN.sub("", _ANSI.sub("", text).replace("\r\n", "\n"))
    return _CONTROL.sub("�", text)


def clip(text: str, limit: int) -> tuple[str, int]:
    """Head and tail of a text over `limit` characters, and how many characters were left out between them."""
    if len(text) <= limit:
        return text, 0
    half = max(1, limit // 2)
    dropped = len(text) - 2 * half
    return f"{text[:half]}\n[... {dropped} characters left out ...]\n{text[-half:]}", dropped


class OutputCollector:
    """Collects the outputs of one cell. `limit` is in characters a stream, text or traceback.

    `begun` is set when the kernel says that it runs the cell.
    """

    def __init__(self, *, next_index: int, limit: int, take_image: TakeImage) -> None:
        self.next_index, self.limit, self.take_image = next_index, limit, take_image
        self.images: list[KernelImage] = []
        self.events: list[Event] = []
        self.failed = False
        self.begun = asyncio.Event()
        self._items: list[Output] = []
        self._dropped: Mapping[str, int] = {}

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Take one iopub message; what does not fit the schema is logged and left out."""
        kind, content = message["msg_type"], message["content"]
        try:
            if kind == "stream":
                self._stream(content["name"], str(content["text"]))
            elif kind in ("display_data", "execute_result"):
                self._display(content["data"], content.get("metadata", {}), is_result=kind == "execute_result")
            elif kind == "execute_input":
                self.begun.set()
            elif kind == "error":
                self._error(content)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            self.event("output_refused", message=kind, reason=str(error)[:300])

    def event(self, kind: str, **data: Any) -> None:
        """Log something that was cut or refused."""
        self.events.append(Event(kind=kind, time=time.time(), data=data))

    def _stream(self, name: Literal["stdout", "stderr"], text: str) -> None:
        if name not in ("stdout", "stderr"):
            raise ValueError(f"unknown stream {name!r}")
        last = self._items[-1] if self._items else None
        if isinstance(last, StreamOutput) and last.name == name:
            if len(last.text) > 4 * self.limit:  # the kernel's own cap was removed: keep bounded here too
                text = last.text[: 2 * self.limit] + (last.text + text)[-2 * self.limit :]
            else:
                text = last.text + text
            self._items.pop()
        self._items.append(StreamOutput(name=name, text=text))

    def _display(self, data: Mapping[str, Any], metadata: Mapping[str, Any], *, is_result: bool) -> None:
        note = data.get(MIME_NOTE)
        if note is not None:
            self._dropped = {str(key): int(value) for key, value in note["dropped"].items()}
            if note["refused"]:
                self.event("images_refused", count=int(note["refused"]))
            if note.get("cancelled"):
                self.event("await_cancelled")
            return
        record = metadata.get("codevision")
        if "image/png" in data and isinstance(record, Mapping):
            index = self.next_index + len(self.images)
            if record["index"] != index:
                raise ValueError(f"image {record['index']} came where image {index} was due")
            parent, affine = _lineage(record, index)
            image = self.take_image(base64.b64decode(data["image/png"]), index, parent, affine)
            self.images.append(image)
            self._items.append(ImageOutput(index=index, is_result=is_result))
        elif "text/plain" in data:
            self._items.append(TextOutput(text=str(data["text/plain"]), is_result=is_result))

    def _error(self, content: Mapping[str, Any]) -> None:
        self.failed = True
        frames = tuple(clean_text(str(frame)) for frame in content["traceback"])
        whole, dropped = clip("\n".join(frames), 2 * self.limit)
        if dropped:
            self.event("output_cut", what="traceback", dropped=dropped)
            frames = (whole,)
        evalue = clip(clean_text(str(content["evalue"])), self.limit)[0]
        self._items.append(ErrorOutput(ename=clean_text(str(content["ename"])), evalue=evalue, traceback=frames))

    def outputs(self) -> tuple[Output, ...]:
        """The outputs so far, cleaned and clipped; each cut is an event."""
        done: list[Output] = []
        for item in self._items:
            if isinstance(item, StreamOutput):
                text, cut = clip(clean_text(item.text), self.limit + 100)
                dropped = cut + self._dropped.get(item.name, 0)
                self._cut(item.name, dropped)
                done.append(StreamOutput(name=item.name, text=text, dropped=dropped))
            elif isinstance(item, TextOutput):
                text, dropped = clip(clean_text(item.text), self.limit)
                self._cut("text", dropped)
                done.append(TextOutput(text=text, is_result=item.is_result, dropped=dropped))
            else:
                done.append(item)
        return tuple(done)

    def _cut(self, what: str, dropped: int) -> None:
        if dropped:
            self.event("output_cut", what=what, dropped=dropped)


def _lineage(record: Mapping[str, Any], index: int) -> tuple[int, Affine] | tuple[None, None]:
    """Parent and affine as the kernel tells them; nothing where they are not of the right form."""
    parent, affine = record.get("parent"), record.get("affine")
    if not isinstance(parent, int) or not 0 <= parent < index or not isinstance(affine, list) or len(affine) != 6:
        return None, None
    a, b, c, d, e, f = (float(value) for value in affine)
    return parent, (a, b, c, d, e, f)
