"""Compare pictures by their pixels: what the record holds, what it says of it, what the code makes again.

Guarantees: files of the record are untrusted; they are decoded as `session.images.decode_output` does it (PNG or JPEG, size
checked from the header) and never passed on as they came: every picture in a report is encoded anew. Two files of the same
pixels are identical whatever wrote them (what else a file holds is looked at in pictures.py). A lossy image and a view have to be,
pixel by pixel, what our encoder and Pillow make of the exact pixels: there is no mean in which a digit could hide. Only where the
run names another Pillow than ours, which may scale by one level otherwise, a PNG view may be off by `SCALED`, and a JPEG view
within `LOSSY` cannot be checked. What was measured is in docs/audit.md, "Pictures".
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel_agent.audit.verdicts import Comparison, Verdict
from kernel_agent.environment import environment
from kernel_agent.errors import ImageError
from kernel_agent.session.images_view import encode_jpeg, encode_png, normalise, over_white, pixel_sha256
from kernel_agent.types import Json, KernelImage

if TYPE_CHECKING:
    from PIL import Image

SCALED = 1
"""Levels of 255 by which Pillows scale otherwise: 12 and 13 do so for some sizes."""
LOSSY = (24, 4.0)
"""Largest difference, and of means of 8x8 pixels, that JPEG makes of that: 20 and 2.9 at worst of 26 pictures."""
_SIDE = 480
"""Longest side of a picture in a report."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far two pictures of one size are apart: channels (of 255) and pixels (as RGBA).

    `box` holds all pixels that differ: left, top, right, bottom.
    """

    largest: int
    mean: float
    pixels: int
    share: float
    box: tuple[int, int, int, int] | None

    def __str__(self) -> str:
        return f"{self.pixels} pixels ({self.share:.2%}) differ, by up to {self.largest} of 255, within {self.box}"


def decode(image: KernelImage, max_pixels: int) -> Image.Image:
    """The pixels that the record holds. ImageError where it holds none."""
    from kernel_agent.session.images import decode_output

    return decode_output(image.data, max_pixels)


def distance(first: Image.Image, second: Image.Image) -> Distance:
    """Of two pictures of the same size."""
    import numpy as np

    one, other = (np.asarray(picture.convert("RGBA"), np.int16) for picture in (first, second))
    gap = np.abs(one - other)
    apart = gap.max(axis=2) > 0
    rows, columns = np.flatnonzero(apart.any(axis=1)), np.flatnonzero(apart.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None
    count = int(apart.sum())
    return Distance(largest=int(gap.max()), mean=float(gap.mean()), pixels=count, share=count / apart.size, box=box)


def compare_input(image: KernelImage, pixels: Image.Image) -> Comparison:
    """An input: its file against the hash of its pixels."""
    if pixel_sha256(pixels) == image.pixel_sha256 and pixels.size == image.size:
        return Comparison(what=image.name, verdict=Verdict.IDENTICAL)
    return Comparison(
        what=image.name,
        verdict=Verdict.DIFFERS,
        how="the file of this input does not have the recorded size and hash of pixels",
    )


def compare_image(
    recorded: KernelImage, replayed: KernelImage, *, max_pixels: int, tolerance: int = 0, pictures: bool = True
) -> Comparison:
    """An image that a cell made. `tolerance` is the largest difference of a channel that is let through (of 255)."""
    name = recorded.name
    try:
        held = decode(recorded, max_pixels)
    except ImageError as error:
        return Comparison(what=name, verdict=Verdict.DIFFERS, how=f"the record's file is no image: {error}")
    facts = (_facts(recorded), _facts(replayed))
    if held.size != recorded.size:
        how = f"the record's file is {held.width}x{held.height} px"
        return Comparison(what=name, verdict=Verdict.DIFFERS, how=how, texts=facts)
    own = pixel_sha256(held)
    if recorded.lossless and own != recorded.pixel_sha256:
        return Comparison(
            what=name,
            verdict=Verdict.DIFFERS,
            how="the record's file has other pixels than the record says",
            texts=facts,
        )
    same = recorded.pixel_sha256 == replayed.pixel_sha256
    if same and recorded.lossless:
        return Comparison(what=name, verdict=Verdict.IDENTICAL)
    again = _pixels(replayed)
    if not recorded.lossless:
        return _compare_lossy(recorded, held, again, same, facts, tolerance)
    if held.size != again.size:
        how = f"{held.width}x{held.height} against {again.width}x{again.height} pixels"
        shown = sides(held, again) if pictures else ()
        return Comparison(what=name, verdict=Verdict.DIFFERS, how=how, pictures=shown, texts=facts)
    far = distance(held, again)
    modes = "" if held.mode == again.mode else f"; {held.mode} against {again.mode}"
    if not modes and far.largest <= tolerance:
        return Comparison(what=name, verdict=Verdict.WITHIN_TOLERANCE, how=str(far), texts=facts)
    shown = draw(held, again) if pictures else ()
    return Comparison(what=name, verdict=Verdict.DIFFERS, how=f"{far}{modes}", pictures=shown, texts=facts)


def _compare_lossy(
    recorded: KernelImage, held: Image.Image, again: Image.Image, same: bool, facts: tuple[str, str], tolerance: int
) -> Comparison:
    """The record has a JPEG and the hash of exact pixels: the hash is compared, and the file with one made of the replay's."""
    name, lossy = recorded.name, _through_jpeg(again)
    if not same or held.size != lossy.size:
        apart = str(distance(held, lossy)) if held.size == lossy.size else "of another size"
        how = f"other exact pixels; the lossy files: {apart}"
        return Comparison(what=name, verdict=Verdict.DIFFERS, how=how, texts=facts)
    far = distance(held, lossy)
    if far.largest == 0:
        return Comparison(what=name, verdict=Verdict.IDENTICAL)
    how = f"same exact pixels, but the lossy file is not what our encoder makes of them: {far}"
    verdict = Verdict.WITHIN_TOLERANCE if far.largest <= tolerance else Verdict.DIFFERS
    return Comparison(what=name, verdict=verdict, how=how, pictures=draw(held, lossy), texts=facts)


def compare_view(
    recorded: KernelImage, replayed: KernelImage, header: Mapping[str, Json], *, max_pixels: int
) -> Comparison:
    """The view of a lossy image against the exact pixels that the code gives again."""
    return check_view(recorded, _pixels(replayed), header, max_pixels=max_pixels)


def check_view(image: KernelImage, whole: Image.Image, header: Mapping[str, Json], *, max_pixels: int) -> Comparison:
    """Whether the view that the model was shown is the scaled image with these pixels."""
    from PIL import Image

    from kernel_agent.session.images import decode_output

    def found(verdict: Verdict, how: str = "") -> Comparison:
        return Comparison(what=f"view of {image.name}", verdict=verdict, how=how)

    try:
        shown = decode_output(image.view, max_pixels)
    except ImageError as error:
        return found(Verdict.DIFFERS, f"it cannot be compared: {error}")
    if shown.size != image.view_size:
        said = f"the record says {image.view_size[0]}x{image.view_size[1]}"
        return found(Verdict.DIFFERS, f"it is {shown.width}x{shown.height} px, {said}")
    again = over_white(whole).resize(shown.size, Image.Resampling.LANCZOS)
    jpeg = image.view_mime == "image/jpeg"
    again = _through_jpeg(again) if jpeg else again
    far = distance(again, shown)
    if far.largest == 0:
        return found(Verdict.IDENTICAL)
    then, now = _pillows(header)
    if then != now and not jpeg and far.largest <= SCALED:
        return found(Verdict.WITHIN_TOLERANCE, f"{far}: scaled by Pillow {then}, and by {now} here")
    if then != now and jpeg and far.largest <= LOSSY[0] and blocks(again, shown) <= LOSSY[1]:
        return found(
            Verdict.NOT_REPLAYABLE, f"made by Pillow {then}, and {now} here makes a little of it otherwise: {far}"
        )
    return found(Verdict.DIFFERS, f"it is not the scaled image: {far}")


def blocks(first: Image.Image, second: Image.Image) -> float:
    """The largest difference of means of 8x8 pixels of two pictures of a size."""
    import numpy as np

    one, other = (np.asarray(picture.convert("RGB"), np.float32) for picture in (first, second))
    gap = one - other
    gap = np.pad(gap, ((0, -gap.shape[0] % 8), (0, -gap.shape[1] % 8), (0, 0)), mode="edge")
    height, width = gap.shape[:2]
    return float(np.abs(gap.reshape(height // 8, 8, width // 8, 8, 3).mean(axis=(1, 3))).max())


def _pillows(header: Mapping[str, Json]) -> tuple[str, str]:
    """The run's Pillow, and ours."""
    then = header.get("environment")
    packages = then.get("packages") if isinstance(then, Mapping) else None
    recorded = packages.get("pillow") if isinstance(packages, Mapping) else None
    return f"{recorded!s:.40}", str(environment()["packages"].get("pillow"))


def _through_jpeg(image: Image.Image) -> Image.Image:
    from PIL import Image

    with Image.open(io.BytesIO(encode_jpeg(image))) as picture:
        return normalise(picture)


def compare_lineage(recorded: KernelImage, replayed: KernelImage) -> Comparison:
    """Where the image came from, as the kernel tells it."""
    one, other = ((image.parent, image.affine) for image in (recorded, replayed))
    if one == other:
        return Comparison(what=f"lineage of {recorded.name}", verdict=Verdict.IDENTICAL)
    return Comparison(
        what=f"lineage of {recorded.name}", verdict=Verdict.DIFFERS, texts=(_lineage(*one), _lineage(*other))
    )


def sides(*pictures: Image.Image) -> tuple[bytes, ...]:
    """PNG files of pictures that cannot be laid over each other; at most `_SIDE` pixels a side."""
    from PIL import Image

    small = []
    for picture in pictures:
        copy = picture.convert("RGB")
        copy.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        small.append(encode_png(copy))
    return tuple(small)


def draw(first: Image.Image, second: Image.Image) -> tuple[bytes, ...]:
    """PNG files of both pictures and of the first in grey with red where they differ; at most `_SIDE` pixels a side."""
    import numpy as np
    from PIL import Image

    one, other = (np.asarray(picture.convert("RGBA"), np.int16) for picture in (first, second))
    apart = np.abs(one - other).max(axis=2) > 0
    grey = np.asarray(first.convert("RGB").convert("L").convert("RGB"), np.uint8) // 2 + 100
    grey[apart] = (230, 0, 40)
    marks = Image.fromarray(apart.astype(np.uint8) * 255)
    base = Image.fromarray(grey)
    scale = min(1.0, _SIDE / max(base.size))
    size = (max(1, round(base.width * scale)), max(1, round(base.height * scale)))
    small = base.resize(size, Image.Resampling.BILINEAR)
    if scale < 1 and apart.any():  # one pixel must not get lost on the way
        found = marks.reduce((-(-base.width // size[0]), -(-base.height // size[1]))).resize(
            size, Image.Resampling.NEAREST
        )
        small.paste((230, 0, 40), mask=found.point(lambda value: 255 if value else 0))
    halves = [picture.convert("RGB").resize(size, Image.Resampling.LANCZOS) for picture in (first, second)]
    return tuple(encode_png(picture) for picture in (*halves, small))


def _pixels(image: KernelImage) -> Image.Image:
    """Of an image that our own session made."""
    return normalise(image.to_pil())


def _facts(image: KernelImage) -> str:
    return f"{image.size[0]}x{image.size[1]} px, pixels {image.pixel_sha256[:16]}"


def _lineage(parent: int | None, affine: tuple[float, ...] | None) -> str:
    return "unknown" if parent is None else f"image {parent} by {affine}"
