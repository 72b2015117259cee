"""Images in: from whatever a user (or the kernel) gives to normalised pixels, or an `ImageError` that says what to do.

Guarantees: the format is on an allow-list and the size is checked from the header, against `max_pixels` and against
the memory at hand, before anything is decoded; each file is decoded once; `LoadedImage.data` decodes with plain Pillow
(plus EXIF orientation) to exactly `LoadedImage.pil`. Not covered: bugs in the decoders themselves; a hostile file is
still parsed in this process.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from kernel_agent.errors import ImageError
from kernel_agent.session.images_files import REMEDY, guess, read_data_uri, read_file
from kernel_agent.session.images_plain import orientation
from kernel_agent.session.images_view import (
    View,
    ViewBounds,
    encode_png,
    make_view,
    normalise,
    pixel_sha256,
    shown_as_is,
    view_size,
)
from kernel_agent.types import FORMATS

__all__ = [
    "LoadedImage",
    "View",
    "ViewBounds",
    "decode_output",
    "encode_png",
    "load_image",
    "make_view",
    "normalise",
    "pixel_sha256",
    "shown_as_is",
    "view_size",
]

MAX_PIXELS = 100_000_000
_KEPT = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
_ORIENTATION = 0x0112
_BYTES_PER_PIXEL = 8  # Pillow holds RGB in 4 bytes a pixel, and normalising may hold it twice
_LIMITS = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class LoadedImage:
    """An image taken in.

    Attributes:
        data: the file as given where a notebook can hold it and it decodes to exactly `pil`; else a lossless PNG.
        mime: media type of `data`.
        pil: the pixels, normalised to L, RGB or RGBA (see `normalise`).
        source: what the user gave, fit to be shown and stored (a file name, never its folder or a query string).
        notes: what was changed or left out on the way, for people.
    """

    data: bytes = field(repr=False)
    mime: str
    pil: Image.Image
    source: str
    notes: tuple[str, ...] = ()


def load_image(
    source: Any, *, max_pixels: int = MAX_PIXELS, allow_http: bool = False, allow_private_hosts: bool = False
) -> LoadedImage:
    """Take in a path, bytes, PIL image, NumPy array, matplotlib figure, data URI or (if allowed) http(s) address.

    Arrays are HxW, HxWx1, HxWx3 or HxWx4; bool, uint8, uint16, other integers within 0..255, or floats within 0..1.
    Raises ImageError.
    """
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "")
        return _take_pil(source, Path(name).name if isinstance(name, str) and name else "PIL image", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _take_bytes(bytes(source), "bytes", max_pixels)
    if isinstance(source, str):
        scheme = source[:8].lower()
        if scheme.startswith("data:"):
            return _take_bytes(read_data_uri(source, max_pixels), "data URI", max_pixels)
        if scheme.startswith(("http://", "https://")):
            return _take_url(source, max_pixels, allow_http, allow_private_hosts)
        if scheme.startswith("file:"):
            raise ImageError(f"{source[:80]!r}: file addresses are not taken. Give the path itself.")
    if isinstance(source, (str, os.PathLike)):
        data, name = read_file(source, max_pixels)
        return _take_bytes(data, name, max_pixels)
    if hasattr(source, "savefig") and hasattr(source, "get_size_inches"):
        return _take_figure(source, max_pixels)
    if hasattr(source, "__array_interface__") or hasattr(source, "__array__"):
        return _take_array(source, max_pixels)
    raise ImageError(
        f"an image cannot be made of {type(source).__name__}. "
        "Give a path, bytes, a PIL image, a NumPy array, a matplotlib figure or a data URI."
    )


def decode_output(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file that came from the kernel (untrusted bytes): PNG or JPEG, checked from its header, normalised.

    The file itself must not be kept: it may hold more than pixels. Raises ImageError.
    """
    return _decode(data, "image output", max_pixels, ("PNG", "JPEG"))[0]


def _take_bytes(data: bytes, name: str, max_pixels: int) -> LoadedImage:
    pil, form, plain, notes = _decode(data, name, max_pixels, FORMATS)
    if plain and form in _KEPT:
        return LoadedImage(data=data, mime=_KEPT[form], pil=pil, source=name, notes=notes)
    return LoadedImage(data=encode_png(pil), mime="image/png", pil=pil, source=name, notes=notes)


def _decode(
    data: bytes, name: str, max_pixels: int, formats: tuple[str, ...]
) -> tuple[Image.Image, str, bool, tuple[str, ...]]:
    """Return pixels, format, whether `data` decodes to exactly these pixels, and notes."""
    if not data:
        raise ImageError(f"{name}: 0 bytes, an empty file is no image. Check how it was written or downloaded.")
    with _pillow_limits(name, max_pixels):
        try:
            with Image.open(io.BytesIO(data), formats=formats) as image:
                form = image.format or ""
                check_size(image.size, name, max_pixels)
                frames = int(getattr(image, "n_frames", 1))
                image.load()
                pil = normalise(image)
                notes = tuple(_notes(image, pil, form, frames))
                animated = frames > 1 and form not in ("MPO", "TIFF")
                plain = image.mode == pil.mode and not animated and _turned_alike(image, form)
                return pil, form, plain, notes
        except UnidentifiedImageError:
            raise ImageError(f"{name}: {guess(data)}") from None
        except (ImageError, Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise
        except MemoryError:
            raise ImageError(f"{name}: not enough memory to decode it. Make the image smaller.") from None
        except Exception as problem:  # decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, ...
            raise ImageError(
                f"{name}: {len(data):,} bytes that start as an image but cannot be decoded "
                f"({type(problem).__name__}: {problem}): truncated or damaged. Get the file again."
            ) from problem


@contextlib.contextmanager
def _pillow_limits(name: str, max_pixels: int) -> Iterator[None]:
    with _LIMITS, warnings.catch_warnings():
        before = Image.MAX_IMAGE_PIXELS
        warnings.simplefilter("ignore")  # e.g. "corrupt EXIF data": the pixels are what counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
            size = re.search(r"\((\d+) pixels\)", str(problem))
            many = f"{int(size[1]):,} pixels" if size else "more pixels than that"
            raise ImageError(f"{name}: {many}; the limit is {max_pixels:,} pixels. {REMEDY}") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Raise ImageError where an image of `size` is empty, over `max_pixels` or more than memory holds."""
    width, height = size
    pixels = width * height
    if pixels <= 0:
        raise ImageError(f"{name}: {width}x{height}, an image without pixels. Give one of at least 1x1.")
    if pixels > max_pixels:
        raise ImageError(f"{name}: {width}x{height} is {pixels:,} pixels; the limit is {max_pixels:,}. {REMEDY}")
    free = _free_memory()
    if free is not None and pixels * _BYTES_PER_PIXEL > free:
        raise ImageError(
            f"{name}: {width}x{height} needs about {pixels * _BYTES_PER_PIXEL // 2**20:,} MiB to decode and "
            f"{free // 2**20:,} MiB are free. Make the image smaller, or free memory."
        )


def _free_memory() -> int | None:
    try:
        with Path("/proc/meminfo").open() as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None  # not Linux: only the pixel limit holds


def _turned_alike(image: Image.Image, form: str) -> bool:
    """Whether every viewer turns the file as Pillow does: all heed one plain EXIF orientation of a JPEG, few any other."""
    told = orientation(image.info.get("exif", b""))
    if told is None or told != image.getexif().get(_ORIENTATION, 1):
        return False
    if form not in ("JPEG", "MPO"):
        return told == 1
    segments = [data for name, data in getattr(image, "applist", ()) if name == "APP1" and data.startswith(b"Exif\0\0")]
    return len(segments) <= 1


def _notes(image: Image.Image, pil: Image.Image, form: str, frames: int) -> Iterator[str]:
    if frames > 1:
        yield (
            f"multi-picture file: first of {frames} used"
            if form in ("MPO", "TIFF", "ICO")
            else f"animated: first of {frames} frames used"
        )
    turned = image.getexif().get(_ORIENTATION, 1)
    if turned in range(2, 9):
        yield f"EXIF orientation {turned} applied"
    if image.mode != pil.mode:
        yield f"{image.mode} converted to {pil.mode}"


def _take_url(url: str, max_pixels: int, allow_http: bool, allow_private: bool) -> LoadedImage:
    from kernel_agent.session.images_http import display_url, fetch

    name = display_url(url)
    if not allow_http:
        raise ImageError(
            f"{name}: http(s) addresses are not fetched unless allowed. Pass allow_http=True (--allow-http), or give a path."
        )
    return _take_bytes(fetch(url, allow_private=allow_private), name, max_pixels)


def _take_pil(image: Image.Image, name: str, max_pixels: int) -> LoadedImage:
    check_size(image.size, name, max_pixels)
    try:
        pil = normalise(image)
    except Exception as problem:  # a lazily opened file is decoded here; see _decode
        raise ImageError(
            f"{name}: cannot be decoded ({type(problem).__name__}: {problem}). Give a complete image."
        ) from problem
    notes = tuple(_notes(image, pil, "", 1))
    return LoadedImage(data=encode_png(pil), mime="image/png", pil=pil, source=name, notes=notes)


def _take_figure(figure: Any, max_pixels: int) -> LoadedImage:
    width, height = (round(float(side) * float(figure.dpi)) for side in figure.get_size_inches())
    check_size((width, height), "matplotlib figure", max_pixels)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return _take_bytes(buffer.getvalue(), "matplotlib figure", max_pixels)


def _take_array(source: Any, max_pixels: int) -> LoadedImage:
    import numpy as np

    name = "NumPy array"
    array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        hint = (
            " Put the channels last: array.transpose(1, 2, 0)."
            if array.ndim == 3 and array.shape[0] in (1, 3, 4)
            else ""
        )
        raise ImageError(f"{name}: shape {array.shape} is no image; take HxW, HxWx3 or HxWx4.{hint}")
    check_size((array.shape[1], array.shape[0]), name, max_pixels)
    kind = array.dtype.kind
    notes: tuple[str, ...] = ()
    if kind == "b":
        pixels = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        pixels, notes = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8), ("16-bit scaled to 8-bit",)
    elif kind in "iu" and int(array.min()) >= 0 and int(array.max()) <= 255:
        pixels = array.astype(np.uint8)
    elif kind == "f" and bool(np.isfinite(array).all()) and float(array.min()) >= 0 and float(array.max()) <= 1:
        pixels, notes = np.rint(array.astype(np.float64) * 255).astype(np.uint8), ("floats 0..1 scaled to 8-bit",)
    else:
        span = f" with values {array.min()} to {array.max()}" if kind in "iuf" else ""
        raise ImageError(
            f"{name}: dtype {array.dtype}{span} is no image; take uint8, uint16, bool or floats within 0..1. "
            "Scale it and convert with .astype(np.uint8)."
        )
    pil = Image.fromarray(np.ascontiguousarray(pixels)).copy()
    return LoadedImage(data=encode_png(pil), mime="image/png", pil=pil, source=name, notes=notes)
