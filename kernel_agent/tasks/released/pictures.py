"""Pictures as data sets hold them: bytes, base64, data URIs, paths, or a dict with one of these.

A picture is looked at when it is read: what is missing, cut off or no image is a RowError. Pixels are decoded later.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, ImageOps

from kernel_agent.tasks.released.rows import RowError
from kernel_agent.types import FORMATS

Picture: TypeAlias = bytes | Path
"""An image file: its content, or where it lies."""

_SHORTEST_BASE64 = 64
"""Shorter strings are paths: no image file fits in so few characters."""

_LONGEST_PATH = 1024


def read_picture(value: Any, *, folder: Path) -> Picture:
    """The picture in a row's field; relative paths start at `folder`. RowError says what is wrong with it."""
    if isinstance(value, Mapping):
        for key in ("bytes", "image", "path"):
            if value.get(key) is not None:
                return read_picture(value[key], folder=folder)
        raise RowError(f"an image without bytes, image or path (fields: {', '.join(map(str, value)) or 'none'})")
    if isinstance(value, bytes | bytearray):
        return _checked(bytes(value))
    if not isinstance(value, str) or not value:
        raise RowError(f"an image that is {'missing' if value is None else 'a ' + type(value).__name__}")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    elif len(value) < _SHORTEST_BASE64 or (len(value) <= _LONGEST_PATH and _is_file(folder / value)):
        path = folder / value
        if not path.is_file():
            raise RowError(f"the image file {path} does not exist")
        return _checked(path)
    try:
        return _checked(base64.b64decode(value, validate=True))
    except binascii.Error as error:
        raise RowError(f"an image that is neither base64 nor a file ({error}; it begins {value[:20]!r})") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no file system has a name this long
        return False


def _checked(picture: Picture) -> Picture:
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=FORMATS) as image:
            image.verify()
    except Exception as error:  # Pillow raises SyntaxError, struct.error, ... on broken files
        raise RowError(f"an image that cannot be read ({type(error).__name__}: {error})") from error
    return picture


def as_pil(picture: Picture) -> Image.Image:
    """Decoded, upright by its EXIF orientation, in a mode that PNG and the transforms keep (L, RGB or RGBA)."""
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
        return image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGBA" if "A" in image.mode else "RGB")
