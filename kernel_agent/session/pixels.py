"""Pixels on their way from a kernel: checked before anything is made of them, hashed once, encoded at most once.

Guarantees: `read_pixels` accepts exactly the bytes that mode and size ask for, and nothing is decoded; an image that comes as
a file is decoded under `max_pixels` and never kept as it came. Not covered: whether the kernel tells the truth about
what it shows; code in it can show what it likes.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kernel_agent.errors import ImageError
from kernel_agent.session.images_view import ViewBounds, encode_jpeg, make_view, view_size
from kernel_agent.session.png import CHANNELS, write_png
from kernel_agent.types import ImageEncoding

if TYPE_CHECKING:
    from PIL import Image

    from kernel_agent.types import KernelImage, Size

_MAX_SIDE = 2**31 - 1  # what a PNG can say


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Normalised pixels: packed rows of 8-bit samples, mode L, RGB or RGBA."""

    mode: str
    size: Size
    data: bytes | memoryview = field(repr=False)

    @classmethod
    def of(cls, image: Image.Image) -> Pixels:
        """Those of a normalised image."""
        return cls(mode=image.mode, size=image.size, data=image.tobytes())

    def to_pil(self) -> Image.Image:
        """As a Pillow image."""
        from PIL import Image

        return Image.frombytes(self.mode, self.size, self.data)

    def sha256(self) -> str:
        """`images_view.pixel_sha256` of the image."""
        digest = hashlib.sha256(f"{self.mode}:{self.size[0]}x{self.size[1]}:".encode())
        digest.update(self.data)
        return digest.hexdigest()

    def to_png(self) -> bytes:
        """As a PNG file."""
        return write_png(self.mode, self.size, self.data)


def read_pixels(record: Mapping[str, Any], buffers: Sequence[Any]) -> Pixels:
    """The picture that a kernel's message carries in its buffers. ValueError where it is not exactly what `record` says."""
    mode, size = record.get("mode"), record.get("size")
    if not isinstance(mode, str) or mode not in CHANNELS:
        raise ValueError(f"pixels of mode {str(mode)[:20]!r}: only {', '.join(CHANNELS)} are taken")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int for side in size):
        raise ValueError(f"pixels of size {str(size)[:40]}: two whole numbers are taken")
    width, height = size
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise ValueError(f"pixels of size {str(size)[:40]}: sides from 1 to {_MAX_SIDE} are taken")
    if len(buffers) != 1:
        raise ValueError(f"pixels in {len(buffers)} buffers: one is taken")
    data = memoryview(buffers[0])
    wanted = width * height * CHANNELS[mode]
    if data.nbytes != wanted:
        raise ValueError(f"{data.nbytes} bytes of pixels where {mode} of {width}x{height} has {wanted}")
    return Pixels(mode=mode, size=(width, height), data=data)


class Files:
    """The files of an image, made when they are asked for, each once: the view is the notebook's file wherever it may be.

    What has alpha stays a PNG in the notebook.
    """

    def __init__(self, pixels: Pixels, encoding: ImageEncoding, bounds: ViewBounds) -> None:
        self._pixels, self._bounds = pixels, bounds
        self.lossless = encoding.notebook == "png" or pixels.mode == "RGBA"
        self.mime = "image/png" if self.lossless else "image/jpeg"
        self.view_mime = f"image/{encoding.view}"
        self.view_size = view_size(pixels.size, bounds)
        whole = pixels.mode != "RGBA" and self.view_size == pixels.size
        self._one = whole and self.mime == self.view_mime

    def __call__(self, name: str) -> dict[str, bytes]:
        """`data` or `view`; both where they are the same file."""
        if name == "view" and not self._one:
            jpeg = self.view_mime == "image/jpeg"
            return {"view": make_view(self._pixels.to_pil(), b"", "", self._bounds, jpeg=jpeg).data}  # no file to reuse
        data = self._pixels.to_png() if self.lossless else encode_jpeg(self._pixels.to_pil())
        return {"data": data, "view": data} if self._one else {"data": data}


class Room:
    """How many bytes of pixels may wait to be made into files: 42 of 1024x768. Blank pictures would else fill the memory.

    `most` is how many bytes all pictures may hold that are alive, files and waiting pixels (None: no limit), the last one in
    excepted; `refused` is whether one had no room left.
    """

    def __init__(self, limit: int = 96 * 2**20, most: int | None = None) -> None:
        self.limit, self.used = limit, 0
        self.most, self.kept, self.refused = most, 0, False

    def check(self) -> None:
        """ImageError where no further picture may be kept."""
        if self.most is not None and self.kept >= self.most:
            self.refused = True
            raise ImageError(f"the pictures of this session hold {self.kept:,} bytes; the limit is {self.most:,}")

    def keep(self, image: KernelImage, files: Files, pixels: Pixels) -> None:
        """Count an image while it lives; its files are made now where its pixels may not wait."""
        size = memoryview(pixels.data).nbytes
        if not self.holds(files, pixels):
            size = len(image.data) + (0 if image.view is image.data else len(image.view))
        self.kept += size
        weakref.finalize(image, self._let_go, size)

    def holds(self, files: Files, pixels: Pixels) -> bool:
        """Whether these pixels may wait; they count until their `files` are gone."""
        size = memoryview(pixels.data).nbytes
        if self.used + size > self.limit:
            return False
        self.used += size
        weakref.finalize(files, self._free, size)
        return True

    def _free(self, size: int) -> None:
        self.used -= size

    def _let_go(self, size: int) -> None:
        self.kept -= size


class Exact:
    """The exact pixels of lossy images while their cell runs: raw up to `raw_bytes` in all, as PNG files after that."""

    def __init__(self, raw_bytes: int = 64 * 2**20) -> None:
        self.raw_bytes = raw_bytes
        self._held: dict[int, Pixels | bytes] = {}
        self._raw = 0

    def keep(self, index: int, pixels: Pixels) -> None:
        """Those of image `index`."""
        size = memoryview(pixels.data).nbytes
        if self._raw + size <= self.raw_bytes:
            self._raw += size
            self._held[index] = pixels
        else:
            self._held[index] = pixels.to_png()

    def restore(self, images: Iterable[KernelImage]) -> list[KernelImage]:
        """`images` with their data as lossless PNG files; the views stay what the model is shown."""
        done = []
        for image in images:
            held = self._held.get(image.index)
            if held is not None:
                data = held if isinstance(held, bytes) else held.to_png()
                image = replace(image, data=data, mime="image/png", lossless=True)
            done.append(image)
        return done

    def clear(self) -> None:
        """Forget all of them: the cell is over."""
        self._held.clear()
        self._raw = 0
