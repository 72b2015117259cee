"""The bytes behind a path or a data URI, and a guess at what bytes are that are no image.

Guarantees: only regular files are read (no device, pipe or folder), up to a size limit. Not covered: a file that changes
while it is read.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import urllib.parse
from pathlib import Path

from kernel_agent.errors import ImageError

REMEDY = "Make the image smaller, or raise max_pixels (--max-pixels) if you trust it."


def guess(data: bytes) -> str:
    """Say what `data`, which is no image taken here, seems to be and what to do."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"%!ps") or data[:4] == b"\xc5\xd0\xd3\xc6":
        return "EPS/PostScript is not taken (decoding it runs a program). Convert it to PNG first."
    if b"<svg" in head:
        return "SVG is not taken (a drawing, not pixels). Convert it to PNG first."
    if head.startswith(b"%pdf"):
        return "PDF is not taken. Convert the page to PNG first."
    if data[4:8] == b"ftyp":
        return "HEIC/HEIF or a video is not taken. Convert it to JPEG or PNG first."
    return f"not an image ({len(data):,} bytes, starting {data[:12]!r}). Formats taken: PNG, JPEG, WebP, GIF, BMP, TIFF and a few more."


def read_file(source: str | os.PathLike[str], max_pixels: int) -> tuple[bytes, str]:
    """Return the bytes and the bare name of a regular file."""
    shown = str(source)[:200]
    limit = max(64 * 2**20, max_pixels * 8)
    try:
        path = Path(source).expanduser()
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{shown!r} is a folder. Give the path of one image in it.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{shown!r} is no regular file. Give the path of an image file.")
        if status.st_size > limit:
            raise ImageError(f"{shown!r}: {status.st_size:,} bytes; the limit is {limit:,}. {REMEDY}")
        return path.read_bytes(), path.name
    except FileNotFoundError:
        raise ImageError(f"{shown!r}: no such file. Check the path.") from None
    except (OSError, ValueError, RuntimeError) as problem:
        if isinstance(problem, ImageError):
            raise
        raise ImageError(f"{shown!r}: cannot be read ({problem}). Check the path and its permissions.") from problem


def read_data_uri(uri: str, max_pixels: int) -> bytes:
    """Return the bytes a data URI holds."""
    head, comma, body = uri.partition(",")
    limit = max(64 * 2**20, max_pixels * 8)
    if not comma:
        raise ImageError(f"data URI {uri[:40]!r} has no comma. Write data:image/png;base64,....")
    if len(body) > limit * 4 // 3:
        raise ImageError(f"data URI: {len(body):,} characters; the limit is {limit * 4 // 3:,}. {REMEDY}")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode("".join(urllib.parse.unquote(body).split()), validate=True)
        return urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as problem:
        raise ImageError(
            f"data URI: its base64 text cannot be read ({problem}). Write data:image/png;base64,...."
        ) from problem
