"""OpenCV: the geometric functions, and those that keep the geometry. Wrapped when cv2 is imported."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kernel_agent.session.lineage import affine as af
from kernel_agent.session.lineage.affine import IDENTITY, Affine, dihedral, shift
from kernel_agent.session.lineage.marks import Mark, is_image, note_array
from kernel_agent.session.lineage.proof import find, merged
from kernel_agent.session.lineage.samples import alike, same_with_drawing, sample

_SAME = (
    "cvtColor", "GaussianBlur", "blur", "boxFilter", "medianBlur", "bilateralFilter", "filter2D", "sepFilter2D",
    "threshold", "adaptiveThreshold", "equalizeHist", "normalize", "convertScaleAbs", "LUT", "Canny", "Sobel",
    "Scharr", "Laplacian", "erode", "dilate", "morphologyEx", "bitwise_not", "fastNlMeansDenoising",
    "fastNlMeansDenoisingColored", "extractChannel", "split", "applyColorMap", "detailEnhance",
    "edgePreservingFilter", "stylization", "pencilSketch", "inpaint", "stackBlur", "sqrt", "pow", "log", "exp",
    "inRange", "illuminationChange", "pyrMeanShiftFiltering", "distanceTransform",
)  # fmt: skip
_MIXES = (
    "addWeighted", "add", "subtract", "absdiff", "multiply", "divide", "bitwise_and", "bitwise_or", "bitwise_xor",
    "max", "min", "scaleAdd",
)  # fmt: skip


def install(cv2: Any) -> None:
    """Wrap the functions of the module. Safe to call twice."""
    for name in _SAME:
        _wrap(cv2, name, _same)
    for name in _MIXES:
        _wrap(cv2, name, _mixed)
    for name, (parameters, rule) in _GEOMETRIC.items():
        _wrap(cv2, name, functools.partial(_moved, parameters, rule))
    _wrap(cv2, "merge", _merged)
    if hasattr(cv2, "CLAHE"):
        _wrap(cv2.CLAHE, "apply", _clahe)


def _wrap(holder: Any, name: str, tracker: Callable[[Any, Any, Any], Callable[[Any], None] | None]) -> None:
    original = getattr(holder, name, None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original, assigned=("__name__", "__qualname__", "__doc__"))
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            note = tracker(args, kwargs, holder)
        except Exception:  # an argument form we do not know: the call below says what is wrong with it, if anything
            note = None
        result = original(*args, **kwargs)
        if note is not None:
            note(result)
        return result

    wrapper.__module__ = "cv2"
    setattr(holder, name, wrapper)


def _source(args: Any, kwargs: Any) -> Any:
    if args:
        return args[0]
    return next((kwargs[name] for name in ("src", "image", "src1") if name in kwargs), None)


def _arrays(result: Any) -> list[Any]:
    return [one for one in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(one, np.ndarray)]


def _noter(mark: Mark, shape: tuple[int, ...]) -> Callable[[Any], None]:
    def note(result: Any) -> None:
        for array in _arrays(result):
            if array.shape[:2] == shape[:2]:
                note_array(array, mark)

    return note


def _known(source: Any) -> Mark | None:
    if not isinstance(source, np.ndarray) or not is_image(source):
        return None
    mark = find(source)
    return mark if mark is not None and mark.image >= 0 else None


def _same(args: Any, kwargs: Any, _: Any) -> Callable[[Any], None] | None:
    source = _source(args, kwargs)
    mark = _known(source)
    return None if mark is None else _noter(mark, source.shape)


def _clahe(args: Any, kwargs: Any, _: Any) -> Callable[[Any], None] | None:
    return _same(args[1:], kwargs, _)


def _merged(args: Any, kwargs: Any, _: Any) -> Callable[[Any], None] | None:
    bands = _source(args, {"src": kwargs.get("mv")})
    mark = merged(*bands)
    return None if mark is None else _noter(mark, bands[0].shape)


def _mixed(args: Any, kwargs: Any, _: Any) -> Callable[[Any], None] | None:
    """Of two pictures: that of both; where only one is known, its own if the result still shows it."""
    values = [*args, *kwargs.values()]
    pictures = [value for value in values if isinstance(value, np.ndarray) and is_image(value)]
    if not pictures:
        return None
    mark, shape = merged(*pictures[:2]), pictures[0].shape
    if mark is not None:
        return _noter(mark, shape)
    known = [(one, found) for one in pictures[:2] if (found := _known(one)) is not None]
    if len(known) != 1:
        return None
    before, single = sample(known[0][0]), known[0][1]

    def note(result: Any) -> None:
        after = sample(result)
        if same_with_drawing(before, after) or alike(before, after):
            note_array(result, single)

    return note


def _moved(parameters: str, rule: Any, args: Any, kwargs: Any, cv2: Any) -> Callable[[Any], None] | None:
    names = parameters.split()
    given = dict(zip(names, args, strict=False)) | kwargs
    source = given.pop(names[0])
    mark = _known(source)
    if mark is None:
        return None
    known, height, width = mark, source.shape[0], source.shape[1]

    def note(result: Any) -> None:
        step = rule(cv2, (width, height), (result.shape[1], result.shape[0]), given)
        if step is not None:
            note_array(result, known.then(step))

    return note


Sizes = tuple[int, int]


def _resize(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    dsize = given.get("dsize")
    across, down = size[0] / out[0], size[1] / out[1]
    if (dsize is None or not any(dsize)) and given.get("fx") and given.get("fy"):
        across, down = 1 / given["fx"], 1 / given["fy"]
    if given.get("interpolation") != cv2.INTER_NEAREST:
        return af.scale(across, down)
    # takes the pixel at floor(i * scale); on average that lies this much right of i * scale
    late = [0.5 / (small // math.gcd(large, small)) for large, small in zip(size, out, strict=True)]
    return af.scale(across, down, late[0] - across / 2, late[1] - down / 2)


def _warp(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine | None:
    matrix = np.array(given["M"], np.float64)
    if matrix.shape == (3, 3):
        if abs(matrix[2, 0]) + abs(matrix[2, 1]) > 1e-12 or not matrix[2, 2]:
            return None
        matrix = matrix[:2] / matrix[2, 2]
    if given.get("dst") is not None and given.get("borderMode") == cv2.BORDER_TRANSPARENT:
        return None  # drawn over another picture
    a, b, c, d, e, f = (float(value) for value in matrix.ravel())
    step: Affine | None = (a, b, c, d, e, f)
    if not (given.get("flags") or 0) & cv2.WARP_INVERSE_MAP:
        step = af.invert((a, b, c, d, e, f))
    return None if step is None else af.from_pixel_centres(step)


def _flip(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    code = given["flipCode"]
    return dihedral(*size)[af.FLIP_TOP_BOTTOM if code == 0 else af.FLIP_LEFT_RIGHT if code > 0 else af.ROTATE_180]


def _rotate(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    turns = {
        cv2.ROTATE_90_CLOCKWISE: af.ROTATE_270,
        cv2.ROTATE_180: af.ROTATE_180,
        cv2.ROTATE_90_COUNTERCLOCKWISE: af.ROTATE_90,
    }
    return dihedral(*size)[turns[given["rotateCode"]]]


def _transpose(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    return dihedral(*size)[af.TRANSPOSE]


def _border(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    return shift(-given["left"], -given["top"])


def _patch(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    x, y = given["center"]
    return shift(x - (out[0] - 1) / 2, y - (out[1] - 1) / 2)


def _pyramid_down(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    return af.from_pixel_centres((2, 0, 0, 0, 2, 0))


def _pyramid_up(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine:
    return af.from_pixel_centres((0.5, 0, 0, 0, 0.5, 0))


def _copied(cv2: Any, size: Sizes, out: Sizes, given: dict[str, Any]) -> Affine | None:
    return IDENTITY if size == out and given.get("dst") is None else None


_GEOMETRIC = {
    "resize": ("src dsize dst fx fy interpolation", _resize),
    "warpAffine": ("src M dsize dst flags borderMode", _warp),
    "warpPerspective": ("src M dsize dst flags borderMode", _warp),
    "flip": ("src flipCode", _flip),
    "rotate": ("src rotateCode", _rotate),
    "transpose": ("src", _transpose),
    "copyMakeBorder": ("src top bottom left right", _border),
    "getRectSubPix": ("image patchSize center", _patch),
    "pyrDown": ("src", _pyramid_down),
    "pyrUp": ("src", _pyramid_up),
    "copyTo": ("src mask dst", _copied),
}
