"""From a cell's messages to its outputs: text clipped and cleaned, pictures taken in under their names.

Guarantees: what is held of a cell's text is bounded whatever the kernel sends, by `MAX_OUTPUTS` pieces and
`TEXT_FACTOR * limit` characters (its errors, `MAX_ERRORS`, apart), and what is left out is an event. Only text/plain
and pictures are looked at.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from kernel_agent.session.kernel_side import MIME_NOTE
from kernel_agent.session.pixels import Pixels, read_pixels
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

MAX_OUTPUTS = 1000
"""Text outputs of one cell."""
TEXT_FACTOR = 32
"""How many times its limit a cell's text outputs may hold together."""
MAX_ERRORS = 16
MAX_EVENTS = 64
"""Events of one cell about refused messages; further ones are counted in the last."""

TakeImage = Callable[[Pixels | bytes, int, "int | None", "Affine | None"], KernelImage]
"""(pixels, or a PNG or JPEG file, index, parent, affine) -> the image; raises ValueError."""


def clean_text(text: str) -> str:
    """Without ANSI codes, overwritten progress lines, other control characters and lone surrogates."""
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        *lines, last = text.split("\n")
        text = "\n".join([*(line[line.rfind("\r", 0, -1) + 1 :] for line in lines), last[last.rfind("\r") + 1 :]])
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
        self.next_index, self.limit, self.take_image = next_index, max(1, limit), take_image
        self.images: list[KernelImage] = []
        self.events: list[Event] = []
        self.failed = False
        self.begun = asyncio.Event()
        self.unsettled = False  # whether the kernel may hold other images than were taken in
        self._items: list[Output] = []
        self._texts = self._held = self._errors = 0
        self._left_out = self._refused = self._notes = 0
        self._clipped: dict[int, int] = {}  # characters already cut from the output at this place
        self._dropped: Mapping[str, int] = {}

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Take one iopub message; what does not fit the schema is logged and left out."""
        kind, content = message["msg_type"], message["content"]
        try:
            if kind == "stream":
                self._stream(content["name"], str(content["text"]))
            elif kind in ("display_data", "execute_result", "update_display_data"):
                shown = content["data"], content.get("metadata", {}), message.get("buffers") or ()
                self._display(*shown, is_result=kind == "execute_result")
            elif kind == "execute_input":
                self.begun.set()
            elif kind == "error":
                self._error(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error) as error:
            self._refused += 1
            if self._refused <= MAX_EVENTS:
                self.event("output_refused", message=kind, reason=str(error)[:300])

    def event(self, kind: str, **data: Any) -> None:
        """Log something that was cut or refused."""
        self.events.append(Event(kind=kind, time=time.time(), data=data))

    def _stream(self, name: Literal["stdout", "stderr"], text: str) -> None:
        if name not in ("stdout", "stderr"):
            raise ValueError(f"unknown stream {name!r}")
        last = self._items[-1] if self._items else None
        if isinstance(last, StreamOutput) and last.name == name:
            self._items[-1] = StreamOutput(
                name=name, text=self._fit(last.text + text, len(self._items) - 1, len(last.text))
            )
        elif self._room():
            self._items.append(StreamOutput(name=name, text=self._fit(text, len(self._items))))

    def _room(self) -> bool:
        """Whether one more text may be kept; counts those that may not."""
        if self._texts < MAX_OUTPUTS and self._held < TEXT_FACTOR * self.limit:
            self._texts += 1
            return True
        self._left_out += 1
        return False

    def _fit(self, text: str, place: int, before: int = 0) -> str:
        """The text that is to stand at `place`, where `before` characters stood: head and tail of what is far over the limit.

        The kernel cuts too, so this is for code that took its cap away.
        """
        if len(text) > 4 * self.limit:
            self._clipped[place] = self._clipped.get(place, 0) + len(text) - 3 * self.limit
            text = text[: 2 * self.limit] + text[-self.limit :]
        self._held += len(text) - before
        return text

    def _display(
        self, data: Mapping[str, Any], metadata: Mapping[str, Any], buffers: Sequence[Any], *, is_result: bool
    ) -> None:
        note = data.get(MIME_NOTE)
        if note is not None:
            self._notes += 1
            if self._notes > MAX_EVENTS:
                raise ValueError(f"more than {MAX_EVENTS} notes")
            self._dropped = {key: int(note["dropped"].get(key, 0)) for key in ("stdout", "stderr")}
            if note["refused"]:
                self.event("images_refused", count=int(note["refused"]))
            if note.get("cancelled"):
                self.event("await_cancelled")
            return
        record = metadata.get("codevision")
        file = data.get("image/png") or data.get("image/jpeg")
        if isinstance(record, Mapping) or file is not None or buffers:
            self._image(record, file, buffers, is_result=is_result)
        elif "text/plain" in data and self._room():
            text = self._fit(str(data["text/plain"]), len(self._items))
            self._items.append(TextOutput(text=text, is_result=is_result))

    def _image(self, record: Any, file: Any, buffers: Sequence[Any], *, is_result: bool) -> None:
        """Take in an image that the kernel holds. One that it did not name would have no label, so it is refused."""
        unsettled, self.unsettled = self.unsettled, True
        if not isinstance(record, Mapping):
            raise ValueError("an image that was not shown with display(): the kernel does not hold it")
        index = self.next_index + len(self.images)
        if record["index"] != index:
            raise ValueError(f"image {str(record['index'])[:20]} came where image {index} was due")
        parent, affine = _lineage(record, index)
        source = read_pixels(record, buffers) if file is None else base64.b64decode(file, validate=True)
        self.images.append(self.take_image(source, index, parent, affine))
        self.unsettled = unsettled or file is not None  # the kernel's own hook sends no files
        self._items.append(ImageOutput(index=index, is_result=is_result))

    def _error(self, content: Mapping[str, Any]) -> None:
        self.failed = True
        self._errors += 1
        if self._errors > MAX_ERRORS:
            self._left_out += 1
            return
        raw, cut = clip("\n".join(content["traceback"]), 8 * self.limit)  # before it is cleaned, which takes its time
        frames = (clean_text(raw),) if cut else tuple(clean_text(str(frame)) for frame in content["traceback"])
        whole, dropped = clip("\n".join(frames), 2 * self.limit)
        dropped += cut
        if dropped:
            self.event("output_cut", what="traceback", dropped=dropped)
            frames = (whole,)
        evalue = clip(clean_text(clip(content["evalue"], 4 * self.limit)[0]), self.limit)[0]
        ename = clean_text(clip(content["ename"], 200)[0])
        self._items.append(ErrorOutput(ename=ename, evalue=evalue, traceback=frames))

    def outputs(self) -> tuple[Output, ...]:
        """The outputs so far, cleaned and clipped; each cut is an event."""
        done: list[Output] = []
        for place, item in enumerate(self._items):
            already = self._clipped.get(place, 0)
            if isinstance(item, StreamOutput):
                text, cut = clip(clean_text(item.text), self.limit + 100)
                dropped = cut + already + self._dropped.get(item.name, 0)
                self._cut(item.name, dropped)
                done.append(StreamOutput(name=item.name, text=text, dropped=dropped))
            elif isinstance(item, TextOutput):
                text, cut = clip(clean_text(item.text), self.limit)
                self._cut("text", cut + already)
                done.append(TextOutput(text=text, is_result=item.is_result, dropped=cut + already))
            else:
                done.append(item)
        if self._left_out:
            self.event("outputs_left_out", count=self._left_out, limit=MAX_OUTPUTS)
        if self._refused > MAX_EVENTS:
            self.event("outputs_refused", count=self._refused, limit=MAX_EVENTS)
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
