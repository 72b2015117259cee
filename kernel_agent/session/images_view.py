"""What an image looks like inside this package: normalised pixels, their hash, and the resized view a model is shown.

Guarantees: `normalise` is deterministic (same pixels and EXIF orientation in, same pixels out) and returns L, RGB or RGBA
without metadata; `make_view` never exceeds its bounds by more than rounding. Not covered: colour management (an ICC
profile is ignored, CMYK is converted as Pillow does it) and HDR.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from PIL import Image, ImageCms, ImageOps

from kernel_agent.errors import InputError
from kernel_agent.session.png import CHANNELS, write_png

if TYPE_CHECKING:
    import numpy as np

    from kernel_agent.types import Size

MAX_ASPECT = 200
"""Vision processors refuse more extreme images; views are stretched along the short side to stay within it."""

JPEG_QUALITY = 90

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class ViewBounds:
    """Limits of what a model is shown, in pixels: area between `min_pixels` and `max_pixels`, no side over `max_side`."""

    min_pixels: int = 56 * 56
    max_pixels: int = 1280 * 28 * 28
    max_side: int = 4096

    def __post_init__(self) -> None:
        if not (0 < self.min_pixels <= self.max_pixels and self.max_side > 0):
            raise InputError(
                f"view bounds min_pixels={self.min_pixels}, max_pixels={self.max_pixels}, max_side={self.max_side}: "
                "they must be positive, and min_pixels at most max_pixels"
            )
        if self.max_side**2 < self.min_pixels:
            raise InputError(
                f"max_side={self.max_side} cannot hold min_pixels={self.min_pixels}: raise the one, or lower the other"
            )


@dataclass(frozen=True, kw_only=True)
class View:
    """An image as it is sent to a model."""

    data: bytes = field(repr=False)
    mime: str
    size: Size


def normalise(image: Image.Image) -> Image.Image:
    """Return `image` upright and as L, RGB or RGBA with 8 bits a channel, without metadata. Never changes its argument.

    EXIF orientation is applied. 1 -> L; LA, PA and anything with a transparent colour -> RGBA; palette -> RGB;
    CMYK, YCbCr, LAB, HSV -> RGB. Deeper greys: 16-bit values v become round(v / 257). 32-bit integers (I) are taken as
    8-bit where all lie in 0..255, as 16-bit where all lie in 0..65535; floats (F) as they are where all lie in 0..255 and
    one is above 1, times 255 where all lie in 0..1; any other range is stretched to 0..255. NaN and infinities become 0.
    """
    image.load()
    upright = ImageOps.exif_transpose(image)
    mode = upright.mode
    transparent = "transparency" in upright.info
    if mode.startswith("I;16"):
        result = _from_array(_scale_integers(upright, sixteen=True))
    elif mode == "I":
        result = _from_array(_scale_integers(upright, sixteen=False))
    elif mode == "F":
        result = _from_array(_scale_floats(upright))
    elif mode in ("LA", "La", "PA", "RGBa") or (transparent and mode in ("1", "L", "P", "RGB")):
        result = _to_rgba(upright)
    elif mode == "1":
        result = upright.convert("L")
    elif mode == "LAB":
        result = _lab_to_rgb(upright)
    elif mode in ("L", "RGB", "RGBA"):
        result = upright.copy() if upright is image else upright
    else:
        result = upright.convert("RGB")
    result.info = {}
    result._exif = None
    return result


def pixel_sha256(image: Image.Image) -> str:
    """Return the SHA-256 over mode, size and raw pixels, as hex."""
    digest = hashlib.sha256(f"{image.mode}:{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def view_size(size: Size, bounds: ViewBounds) -> Size:
    """Return the size at which an image of `size` is shown within `bounds`.

    The aspect is kept up to 200:1; past that the short side counts as long side / 200, so a 20000x10 image is shown as
    if it were 20000x100. Rounded so that the bounds hold.
    """
    long, short = float(max(size)), float(min(size))
    short = max(short, long / MAX_ASPECT)
    scale = 1.0
    if long * short > bounds.max_pixels:
        scale = math.sqrt(bounds.max_pixels / (long * short))
    elif long * short < bounds.min_pixels:
        scale = math.sqrt(bounds.min_pixels / (long * short))
    scale = min(scale, bounds.max_side / long)
    if scale == 1.0:
        shown = (int(long), math.ceil(short))
    elif scale > 1.0:
        shown = (min(math.ceil(long * scale - 1e-9), bounds.max_side), math.ceil(short * scale - 1e-9))
    else:
        width = max(1, int(long * scale + 1e-9))
        shown = (width, max(1, int(short * scale + 1e-9), math.ceil(width / MAX_ASPECT)))
    return shown if size[0] >= size[1] else (shown[1], shown[0])


def make_view(image: Image.Image, data: bytes, mime: str, bounds: ViewBounds, *, jpeg: bool = False) -> View:
    """Return what a model is shown of a normalised `image`, whose file is `data`.

    `data` itself (the same object) where it is an upright, opaque PNG or JPEG within `bounds`; else an RGB PNG, or with
    `jpeg` a JPEG: alpha over white, LANCZOS to `view_size`.
    """
    size = view_size(image.size, bounds)
    if shown_as_is(image, data, mime, bounds):
        return View(data=data, mime=mime, size=size)
    flat = over_white(image)
    if flat.size != size:
        flat = flat.resize(size, Image.Resampling.LANCZOS)
    if jpeg:
        return View(data=encode_jpeg(flat), mime="image/jpeg", size=size)
    return View(data=encode_png(flat), mime="image/png", size=size)


def shown_as_is(image: Image.Image, data: bytes, mime: str, bounds: ViewBounds) -> bool:
    """Whether a model is shown the file `data` itself. No pixel is touched to tell."""
    fits = view_size(image.size, bounds) == image.size
    return fits and mime in ("image/png", "image/jpeg") and image.mode != "RGBA" and _plain(image, data)


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode with loss, at quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """Encode losslessly, fast rather than small. Metadata is left out."""
    if image.mode not in CHANNELS:
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    return write_png(image.mode, image.size, image.tobytes())


def _plain(image: Image.Image, data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as header:
        return (
            header.size == image.size and header.mode == image.mode and header.getexif().get(_EXIF_ORIENTATION, 1) == 1
        )


def over_white(image: Image.Image) -> Image.Image:
    """As RGB, what shines through white."""
    if image.mode != "RGBA":
        return image if image.mode == "RGB" else image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode == "1":  # Pillow converts 1-bit transparency only by way of L
        key = image.info.get("transparency")
        image = image.convert("L")
        if isinstance(key, int):
            image.info["transparency"] = 255 if key else 0
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return cast("Image.Image", converted)


def _from_array(values: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(values)


def _scale_integers(image: Image.Image, *, sixteen: bool) -> np.ndarray[Any, Any]:
    import numpy as np

    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if not sixteen and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    if low >= 0 and high <= 65535:
        return ((values + 128) // 257).astype(np.uint8)
    return _stretch(values.astype(np.float64))


def _scale_floats(image: Image.Image) -> np.ndarray[Any, Any]:
    import numpy as np

    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255:
        return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)
    return _stretch(values)


def _stretch(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    low, high = float(values.min()), float(values.max())
    stretched: np.ndarray[Any, Any] = np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    return stretched
