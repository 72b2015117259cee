"""Reading what somebody else may have made: the bytes of a file, and the JSON in bytes.

Guarantees: nothing is waited for (a pipe, a device, a terminal is refused, also where a link leads to it); a file over `MAX_BYTES` is
refused unread; JSON of more values than the caller allows is refused unparsed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from pathlib import Path

import orjson

from kernel_agent.errors import TrajectoryError
from kernel_agent.types import Json

MAX_BYTES = 1 << 30
"""Largest file that is read."""
MAX_VALUES = 20_000_000
"""Most values of one JSON text, where it is the reader's own. A parsed value takes up to 72 bytes where its text takes 3."""
FOREIGN_VALUES = 2_000_000
"""Most values of one JSON text where somebody else may have made it to fill the memory."""
_UNCOUNTED = 1 << 21  # bytes: they take 50 MB at the worst
_PIECE = 1 << 18


def read_file(path: Path, most: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file, links followed. OSError, with a reason for people, where it is none or over `most` bytes."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and {most:,} are read at most", str(path))
        with os.fdopen(file, "rb", closefd=False) as opened:
            return opened.read(found.st_size)
    finally:
        os.close(file)


def read_json(data: bytes, name: str, most: int = MAX_VALUES) -> Json:
    """The value in a JSON text. TrajectoryError where it holds too many values, orjson.JSONDecodeError where it is no JSON."""
    check_size(data, name, most)
    return orjson.loads(data)


def check_size(data: bytes, name: str, most: int = MAX_VALUES) -> None:
    """TrajectoryError where a JSON text, or lines of them, hold more than `most` values."""
    if len(data) > _UNCOUNTED and (values := _values(data)) > most:
        raise TrajectoryError(
            f"{name} holds {values:,} JSON values, and {most:,} are read at most: split the run, or record it without"
            " log-probabilities"
        )


def repeated_keys(data: bytes, most: int = 10) -> list[str]:
    """Keys that stand twice in one object of a JSON text that `read_json` has taken, the first ones."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Json]]) -> None:
        if len(pairs) > len({key for key, _ in pairs}) and len(found) < most:
            found.append(Counter(key for key, _ in pairs).most_common(1)[0][0])

    json.loads(data, object_pairs_hook=look)
    return found


def _values(data: bytes) -> int:
    """How many values a JSON text may hold: commas, colons and brackets in its texts count too."""
    import numpy as np

    text, count = np.frombuffer(data, np.uint8), 0
    for start in range(
        0, len(text), _PIECE
    ):  # what a processor's cache holds: in one piece it takes five times as long
        piece = text[start : start + _PIECE]
        count += int(np.count_nonzero((piece == 0x2C) | (piece == 0x3A) | (piece == 0x5B) | (piece == 0x7B)))
    return count
