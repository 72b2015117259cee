"""Hashes of a checkpoint's files, so that whoever has the same files can tell.

One file's hash is its SHA-256; that of several is the SHA-256 of what `sha256sum` prints for them in the order of their
names (`sha256sum *.safetensors | sha256sum` gives it again). Guarantees: a large file is read once, and then again only where its path, size
or time changed (the user's cache folder remembers); of a file in a Hugging Face cache nothing is read: its name there is its
SHA-256, as the hub said it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernel_agent.models.checkpoint import commit, small_files, weight_files
from kernel_agent.types import Json

LIMIT = 8 * 2**30
"""Bytes that are read for a hash at most, unless the caller has the time."""

_BLOB = re.compile(r"[0-9a-f]{64}")
_REMEMBERED = 64 * 2**20
"""Bytes from which on a file's hash is remembered."""


def identity(path: str | Path, *, limit: int | None = LIMIT, since: float | None = None) -> dict[str, Json]:
    """`revision`, `weights_sha256` and `files_sha256` of a local checkpoint, and under `not_told` why one of them is None.

    `since`: when it was loaded; files of a folder that changed after that (seconds since the epoch) are not those.
    """
    told: dict[str, Json] = {"revision": commit(path), "weights_sha256": None, "files_sha256": None}
    why: dict[str, str] = {}
    if told["revision"] is None:
        why["revision"] = "the checkpoint is a folder that is no hub snapshot"
    for name, files in (("weights_sha256", weight_files(path)), ("files_sha256", small_files(path))):
        size = sum(file.stat().st_size for file in files if not _named(file) and not _remembered(file))
        if not files:
            why[name] = "the checkpoint's folder has none"
        elif since is not None and told["revision"] is None and any(file.stat().st_ctime > since for file in files):
            why[name] = "files changed after the server had started"
        elif limit is not None and size > limit:
            why[name] = f"not hashed: {size:,} bytes are more than {limit:,} (`codevision serve` hashes any size, once)"
        else:
            told[name] = files_sha256(files)
    return {**told, "not_told": why}


def files_sha256(files: Sequence[Path]) -> str:
    """The hash of files, as this module defines it."""
    if len(files) == 1:
        return file_sha256(files[0])
    listing = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def file_sha256(file: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    known = _named(file) or _remembered(file)
    if known is not None:
        return known
    before = file.stat()
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if before.st_size >= _REMEMBERED and _note(file) == _note(file, before):
        _remember(_note(file), found)
    return found


def _named(file: Path) -> str | None:
    """The SHA-256 that a hub cache has a large file under."""
    target = file.resolve()
    return target.name if target.parent.name == "blobs" and _BLOB.fullmatch(target.name) else None


def _note(file: Path, stat: os.stat_result | None = None) -> Path:
    """Where the hash of a file is remembered."""
    stat = stat or file.stat()
    key = json.dumps([str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "codevision" / "sha256" / hashlib.sha256(key.encode()).hexdigest()


def _remembered(file: Path) -> str | None:
    try:
        found = _note(file).read_text() if file.stat().st_size >= _REMEMBERED else ""
    except (OSError, ValueError):
        return None
    return found if _BLOB.fullmatch(found) else None


def _remember(note: Path, found: str) -> None:
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as half:
            half.write(found)
        Path(half.name).replace(note)
