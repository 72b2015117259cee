"""Pillow: each method that makes an image from another notes how. `rotate`, `ImageOps` and `ImageEnhance` are built on these."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from PIL import ExifTags, Image, ImageChops, ImageOps

from kernel_agent.session.lineage import affine as af
from kernel_agent.session.lineage.affine import IDENTITY, Affine, dihedral, shift
from kernel_agent.session.lineage.marks import BLANK, KEY, UNKNOWN, Mark, mark_of_pil, note_pil
from kernel_agent.session.lineage.proof import find, merged

Rule = Callable[..., Affine | None]

_SAME = ("copy", "convert", "quantize", "filter", "point", "getchannel", "remap_palette", "effect_spread")
_MIXES = (
    *(
        "lighter",
        "darker",
        "difference",
        "multiply",
        "screen",
        "soft_light",
        "hard_light",
        "overlay",
        "add",
        "subtract",
    ),
    *("add_modulo", "subtract_modulo", "logical_and", "logical_or", "logical_xor"),
)


def install() -> None:
    """Wrap the methods and functions of Pillow."""
    for name in _SAME:
        _wrap_method(name, _unmoved)
    for name, rule in _geometric().items():
        _wrap_method(name, rule)
    _wrap_in_place()
    _wrap_functions()


def _geometric() -> dict[str, Rule]:
    return {"crop": _crop, "resize": _resize, "reduce": _reduce, "transpose": _transpose, "transform": _transform}


def _wrap_method(name: str, rule: Rule) -> None:
    original = getattr(Image.Image, name, None)
    if original is None:
        return

    @functools.wraps(original)
    def wrapper(self: Image.Image, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        size = self._size
        result = original(self, *args, **kwargs)
        if result is not self:
            mark = find(self)
            if mark is None:
                result.__dict__[KEY] = UNKNOWN
            elif mark.image < 0:
                result.__dict__[KEY] = mark
            else:
                _note(result, mark, rule, size, args, kwargs)
        return result

    setattr(Image.Image, name, wrapper)


def _note(result: Image.Image, mark: Mark, rule: Rule, size: tuple[int, int], args: Any, kwargs: Any) -> None:
    try:
        step = rule((size, result._size), *args, **kwargs)
    except Exception:  # an argument form we do not know: the user's call went well, its origin is unknown
        step = None
    note_pil(result, UNKNOWN if step is None else mark if step is IDENTITY else mark.then(step))


Sizes = tuple[tuple[int, int], tuple[int, int]]


def _unmoved(sizes: Sizes, *_: Any, **__: Any) -> Affine:
    return IDENTITY


def _crop(sizes: Sizes, box: Any = None) -> Affine:
    if box is None:
        return IDENTITY
    return shift(round(float(box[0])), round(float(box[1])))


def _resize(sizes: Sizes, size: Any, resample: Any = None, box: Any = None, reducing_gap: Any = None) -> Affine:
    left, top, right, bottom = box if box is not None else (0, 0, *sizes[0])
    width, height = sizes[1]
    return af.scale((right - left) / width, (bottom - top) / height, left, top)


def _reduce(sizes: Sizes, factor: Any, box: Any = None) -> Affine:
    across, down = factor if isinstance(factor, (list, tuple)) else (factor, factor)
    return af.scale(across, down, *(box[:2] if box is not None else (0, 0)))


def _transpose(sizes: Sizes, method: Any) -> Affine:
    return dihedral(*sizes[0])[int(method)]


def _transform(sizes: Sizes, size: Any, method: Any, data: Any = None, *_: Any, **__: Any) -> Affine | None:
    if hasattr(method, "getdata"):
        method, data = method.getdata()
    elif isinstance(method, Image.ImageTransformHandler):
        return None
    width, height = sizes[1]
    values = [float(value) for value in data] if method != Image.Transform.MESH else []
    if method == Image.Transform.AFFINE:
        return (values[0], values[1], values[2], values[3], values[4], values[5])
    if method == Image.Transform.EXTENT:
        x0, y0, x1, y1 = values
        return af.scale((x1 - x0) / width, (y1 - y0) / height, x0, y0)
    if method == Image.Transform.PERSPECTIVE and not values[6] and not values[7]:
        return (values[0], values[1], values[2], values[3], values[4], values[5])
    if method == Image.Transform.QUAD:
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = values[0:2], values[2:4], values[4:6], values[6:8]  # NW, SW, SE, NE
        if abs(x2 - x1 - x3 + x0) + abs(y2 - y1 - y3 + y0) < 1e-9:  # a parallelogram
            return ((x3 - x0) / width, (x1 - x0) / height, x0, (y3 - y0) / width, (y1 - y0) / height, y0)
    return None


def _wrap_in_place() -> None:
    thumbnail, paste, putdata, frombytes = (
        getattr(Image.Image, name) for name in ("thumbnail", "paste", "putdata", "frombytes")
    )
    split, exif_transpose = Image.Image.split, ImageOps.exif_transpose

    @functools.wraps(thumbnail)
    def new_thumbnail(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        mark, size = find(self), self.size
        thumbnail(self, *args, **kwargs)
        if mark is not None and self.size != size:
            note_pil(self, mark.then(af.scale(size[0] / self.width, size[1] / self.height)))

    @functools.wraps(paste)
    def new_paste(self: Image.Image, im: Any, box: Any = None, mask: Any = None) -> None:
        __tracebackhide__ = True
        paste(self, im, box, mask)
        mark = mark_of_pil(self)
        if mark is not None and mark != UNKNOWN:
            _pasted(self, mark, im, *((None, box) if isinstance(box, Image.Image) else (box, mask)))

    @functools.wraps(putdata)
    def new_putdata(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        putdata(self, *args, **kwargs)
        self.__dict__.pop(KEY, None)

    @functools.wraps(frombytes)
    def new_frombytes(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        frombytes(self, *args, **kwargs)
        self.__dict__.pop(KEY, None)

    @functools.wraps(split)
    def new_split(self: Image.Image) -> tuple[Image.Image, ...]:
        __tracebackhide__ = True
        bands = split(self)
        mark = find(self)
        for band in bands:
            note_pil(band, mark or UNKNOWN)
        return bands

    @functools.wraps(exif_transpose)
    def new_exif_transpose(image: Image.Image, *, in_place: bool = False) -> Any:
        __tracebackhide__ = True
        if not in_place:
            return exif_transpose(image)
        mark, size = find(image), image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
        exif_transpose(image, in_place=True)
        if mark is not None and turned in range(2, 9):
            method = (0, 3, 1, 5, 4, 6, 2)[turned - 2]
            note_pil(image, mark.then(dihedral(*size)[method]))
        return None

    patches = {
        "thumbnail": new_thumbnail,
        "paste": new_paste,
        "putdata": new_putdata,
        "frombytes": new_frombytes,
        "split": new_split,
    }
    for name, wrapper in patches.items():
        setattr(Image.Image, name, wrapper)
    setattr(ImageOps, "exif_transpose", new_exif_transpose)  # noqa: B010  (mypy knows it as two overloads)


def _pasted(canvas: Image.Image, mark: Mark, im: Any, box: Any, mask: Image.Image | None) -> None:
    """What a canvas shows after a paste: still the same, now the pasted image, or a montage (unknown)."""
    left, top = box[:2] if box is not None else (0, 0)
    if isinstance(im, Image.Image):
        width, height = im.size
    elif box is not None and len(box) == 4:
        width, height = box[2] - left, box[3] - top
    else:
        width, height = canvas.size
    there = max(0, min(canvas.width, left + width) - max(0, left)) * max(
        0, min(canvas.height, top + height) - max(0, top)
    )
    share = there / max(1, canvas.width * canvas.height)
    pasted = find(im) if isinstance(im, Image.Image) else BLANK
    placed = pasted.then(shift(-left, -top)) if pasted is not None and pasted != BLANK else pasted
    if mask is not None:
        histogram = (
            mask if mask.mode == "L" else mask.getchannel("A") if "A" in mask.mode else mask.convert("L")
        ).histogram()
        share *= sum(value * count for value, count in enumerate(histogram)) / (255 * max(1, sum(histogram)))
    if mark == BLANK:
        note_pil(canvas, placed or UNKNOWN)
    elif placed is not None and placed.image == mark.image and af.close(placed.affine, mark.affine):
        return
    elif share > 0.98:
        note_pil(canvas, placed or UNKNOWN)
    else:
        covered = mark.covered + share
        note_pil(canvas, mark._replace(covered=covered) if covered <= 0.4 else UNKNOWN)


def _wrap_functions() -> None:
    new, fromarray, merge, offset = Image.new, Image.fromarray, Image.merge, ImageChops.offset

    @functools.wraps(new)
    def new_new(*args: Any, **kwargs: Any) -> Image.Image:
        __tracebackhide__ = True
        image = new(*args, **kwargs)
        note_pil(image, BLANK)
        return image

    @functools.wraps(fromarray)
    def new_fromarray(obj: Any, *args: Any, **kwargs: Any) -> Image.Image:
        __tracebackhide__ = True
        image = fromarray(obj, *args, **kwargs)
        note_pil(image, find(obj) or UNKNOWN)
        return image

    @functools.wraps(merge)
    def new_merge(mode: Any, bands: Any) -> Image.Image:
        __tracebackhide__ = True
        image = merge(mode, bands)
        note_pil(image, merged(*bands) or UNKNOWN)
        return image

    @functools.wraps(offset)
    def new_offset(*args: Any, **kwargs: Any) -> Image.Image:
        __tracebackhide__ = True
        image = offset(*args, **kwargs)
        note_pil(image, UNKNOWN)  # wraps around: two pieces
        return image

    for name, wrapper in {"new": new_new, "fromarray": new_fromarray, "merge": new_merge}.items():
        setattr(Image, name, wrapper)
    ImageChops.offset = new_offset
    for module, names in ((Image, ("blend", "alpha_composite")), (ImageChops, _MIXES)):
        for name in names:
            setattr(module, name, _mix(getattr(module, name)))
    ImageChops.invert = _mix(ImageChops.invert)


def _mix(original: Any) -> Any:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        result = original(*args, **kwargs)
        images = [value for value in (*args, *kwargs.values()) if isinstance(value, Image.Image)]
        if all(image.size == result.size for image in images):
            note_pil(result, merged(*images) or UNKNOWN)
        return result

    return wrapper
