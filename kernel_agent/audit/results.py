"""Results of earlier audits: JSON lines, each with a code that only this user could make (HMAC-SHA256).

The key lies in the user's state folder (`codevision/results-key` in XDG_STATE_HOME, ~/.local/state) and is made on first use.
Guarantees: a line is believed only where its code fits, so a file of results that came with somebody's runs, or from another user or
machine, says nothing; nothing of it is parsed. A results file that is a link or no file is refused, and one that holds anything
else is left as it is. A last line that a crash cut off is taken away.
Not guaranteed: where no key can be kept (no home that can be written to) nothing is believed later.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import orjson

from kernel_agent.errors import StorageError
from kernel_agent.trajectory.codec import text
from kernel_agent.trajectory.journal import write_all
from kernel_agent.trajectory.reading import MAX_BYTES
from kernel_agent.types import Json

_BEGINS = b'{"path":'
_BYTES = 32
_CODE = len(b',"mac":""}') + 2 * _BYTES


class Results:
    """One file of results, open for appending: `with Results(path) as results`."""

    def __init__(self, path: Path) -> None:
        self._path, self._key = path, own_key()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            why = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise StorageError(f"{path} cannot be written: {why}: give another --results") from error

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def earlier(self) -> Iterator[dict[str, Json]]:
        """The lines that this user made. StorageError where the file holds other things than results."""
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            raise StorageError(f"{self._path} is no file, or has over {MAX_BYTES:,} bytes: give another --results")
        *lines, torn = os.pread(self._file, found.st_size, 0).split(b"\n")
        if not all(map(_is_ours, [*lines, torn] if torn else lines)):
            raise StorageError(f"{self._path} is no file of audit results: give another --results")
        if torn:
            os.ftruncate(self._file, found.st_size - len(torn))
        for line in lines:
            body, code = line[:-_CODE], line[-_CODE:]
            if hmac.compare_digest(code, self._code(body)):
                yield orjson.loads(body + b"}")

    def add(self, line: Mapping[str, Json]) -> None:
        """Write a line; the first of its keys is `path`."""
        body = text(json.dumps(line, ensure_ascii=False, separators=(",", ":"))).encode()[:-1]
        write_all(self._file, body + self._code(body) + b"\n")

    def _code(self, body: bytes) -> bytes:
        return b',"mac":"%s"}' % hmac.digest(self._key, body, "sha256").hex().encode()


def _is_ours(line: bytes) -> bool:
    return line[: len(_BEGINS)] == _BEGINS[: len(line)]


def own_key() -> bytes:
    """The user's key; one that nobody knows later where none can be kept."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(base, "codevision", "results-key")
    fresh = secrets.token_bytes(_BYTES)
    with suppress(OSError):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                write_all(file, fresh)
                with suppress(FileExistsError):
                    os.link(new, path)  # at once, and whoever comes first stays
            finally:
                os.close(file)
                new.unlink()
        key = path.read_bytes()
        if len(key) == _BYTES:
            return key
    return fresh
