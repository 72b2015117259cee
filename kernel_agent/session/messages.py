"""Jupyter messages (protocol 5.3) as ZMTP frames: signed, checked, parsed.

Guarantees: what `Wire.open` and `Envelope.message` return has a right HMAC-SHA256 and fields of the types that this
package reads; anything else is a WireError that names what was wrong. Parsed JSON takes memory bounded by `JsonLimits`.
Does not guarantee that a message tells the truth: code in the kernel knows the key. Buffers are not signed (Jupyter's
signature leaves them out).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from kernel_agent.session.zmtp import Buffer, WireError

Message = Mapping[str, Any]
"""`header`, `parent_header`, `metadata`, `content` (dicts), `msg_id`, `msg_type`, `buffers` (bytes-like, not signed)."""

_DELIMITER = b"<IDS|MSG>"
_PARTS = ("header", "parent_header", "metadata", "content")
_TEXT, _OBJECT, _LIST = str, dict, list
_SCHEMA: Mapping[str, Mapping[str, type]] = {
    "stream": {"name": _TEXT, "text": _TEXT},
    "display_data": {"data": _OBJECT, "metadata": _OBJECT},
    "update_display_data": {"data": _OBJECT, "metadata": _OBJECT},
    "execute_result": {"data": _OBJECT, "metadata": _OBJECT},
    "error": {"ename": _TEXT, "evalue": _TEXT, "traceback": _LIST},
    "status": {"execution_state": _TEXT},
    "execute_reply": {"status": _TEXT},
}
"""Content fields that are read, and their types. Messages of other kinds need an object as content, no more."""


@dataclass(frozen=True, kw_only=True)
class JsonLimits:
    """Sizes in bytes of a message's JSON parts, and how many values a long part may hold.

    A parsed value takes up to 72 bytes where its text takes 3. Counting costs more than parsing, so that parts of up to
    `uncounted_bytes` are not counted: they take 100 MB at the worst.
    """

    header_bytes: int = 1 << 16
    metadata_bytes: int = 1 << 20
    content_bytes: int = 1 << 26
    uncounted_bytes: int = 1 << 22
    values: int = 1_000_000


@dataclass(frozen=True)
class Envelope:
    """A message whose signature is right and whose header is read, and not yet its content."""

    kind: str
    msg_id: str
    parent: str
    """Message id of the request it belongs to; empty where it names none."""
    header: Mapping[str, Any]
    parent_header: Mapping[str, Any]
    rest: Sequence[Buffer]
    limits: JsonLimits

    def message(self) -> Message:
        """Parse the rest."""
        metadata, content = (_load(name, data, self.limits) for name, data in zip(_PARTS[2:], self.rest, strict=False))
        for name, kind in _SCHEMA.get(self.kind, {}).items():
            if not isinstance(content.get(name), kind):
                raise WireError(f"{self.kind}: {name} is {_type(content.get(name))} and not {kind.__name__}")
        if self.kind == "error" and not all(isinstance(line, str) for line in content["traceback"]):
            raise WireError("error: traceback is not a list of str")
        count = content.get("execution_count")
        if self.kind == "execute_reply" and (isinstance(count, bool) or not isinstance(count, int | None)):
            raise WireError(f"execute_reply: execution_count is {_type(count)} and not int")
        return {
            "header": self.header,
            "msg_id": self.msg_id,
            "msg_type": self.kind,
            "parent_header": self.parent_header,
            "metadata": metadata,
            "content": content,
            "buffers": list(self.rest[2:]),
        }


class Wire:
    """One client's side of the conversation with one kernel. Message ids are random: nobody can answer in advance."""

    def __init__(self, key: bytes, *, limits: JsonLimits = JsonLimits()) -> None:
        self.key, self.limits = key, limits
        self.session = secrets.token_hex(16)

    def request(
        self, kind: str, content: Mapping[str, Any], *, buffers: Sequence[Buffer] = (), header: Mapping[str, Any] = {}
    ) -> tuple[str, list[Buffer]]:
        """The id and the frames of a new request. `header` adds fields, such as `subshell_id`."""
        msg_id = secrets.token_hex(16)
        fields = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": self.session,
            "username": "",
            "date": datetime.now(UTC).isoformat(),
            "version": "5.3",
            **header,
        }
        parts: list[Buffer] = [orjson.dumps(fields), b"{}", b"{}", orjson.dumps(content)]
        return msg_id, [_DELIMITER, self._sign(parts), *parts, *buffers]

    def open(self, frames: Sequence[Buffer], *, topic: bool) -> Envelope:
        """Check a message's form and signature and read its headers. With `topic` a frame may go before the delimiter."""
        start = 1 if topic and frames[0] != _DELIMITER else 0
        if len(frames) < start + 6 or frames[start] != _DELIMITER:
            raise WireError(f"{len(frames)} frames that are no Jupyter message")
        for name, frame, limit in zip(_PARTS, frames[start + 2 :], self._sizes(), strict=False):
            if len(frame) > limit:
                raise WireError(f"bytes of {name}", value=len(frame), limit=limit)
        if not hmac.compare_digest(self._sign(frames[start + 2 : start + 6]), bytes(frames[start + 1])):
            raise WireError("a message's signature is wrong")
        header = _load("header", frames[start + 2], self.limits)
        parent = _load("parent_header", frames[start + 3], self.limits)
        for part, fields in (("header", header), ("parent_header", parent)):
            for name in ("msg_id", "msg_type", "session", "username", "version", "date"):
                if not isinstance(fields.get(name, ""), str):
                    raise WireError(f"{part}: {name} is {_type(fields[name])} and not str")
        if not header.get("msg_id") or not header.get("msg_type"):
            raise WireError("a header without msg_id and msg_type")
        return Envelope(
            header["msg_type"],
            header["msg_id"],
            parent.get("msg_id", ""),
            header,
            parent,
            frames[start + 4 :],
            self.limits,
        )

    def _sizes(self) -> tuple[int, int, int, int]:
        limits = self.limits
        return limits.header_bytes, limits.header_bytes, limits.metadata_bytes, limits.content_bytes

    def _sign(self, parts: Sequence[Buffer]) -> bytes:
        if sum(map(len, parts)) < 1 << 16:
            return hmac.digest(self.key, b"".join(parts), "sha256").hex().encode()
        mac = hmac.new(self.key, digestmod="sha256")
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()


def _load(name: str, data: Buffer, limits: JsonLimits) -> dict[str, Any]:
    """A JSON object whose size in memory is bounded; commas and brackets in texts count as values too."""
    if len(data) > limits.uncounted_bytes:
        raw = bytes(data) if isinstance(data, memoryview) else data
        values = sum(raw.count(mark) for mark in b",:[{")
        if values > limits.values:
            raise WireError(f"values in {name}", value=values, limit=limits.values)
    try:
        loaded = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WireError(f"{name} is not JSON: {error}"[:300]) from error
    if not isinstance(loaded, dict):
        raise WireError(f"{name} is {_type(loaded)} and not an object")
    return loaded


def _type(value: object) -> str:
    return type(value).__name__
