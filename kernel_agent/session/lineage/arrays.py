"""NumPy: the functions that copy pictures. Views need no wrapping (see marks); methods such as `.copy()` cannot be wrapped."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from kernel_agent.session.lineage import affine as af
from kernel_agent.session.lineage.affine import shift
from kernel_agent.session.lineage.marks import mark_of_array, note_array
from kernel_agent.session.lineage.proof import find

_ORIGINALS: dict[str, Any] = {}
_MIN_PIXELS = 64


def install() -> None:
    """Wrap the functions of NumPy."""
    for name in ("array", "asarray", "asanyarray", "ascontiguousarray", "copy"):
        _wrap(name, _copied)
    _wrap("clip", _clipped)
    _wrap("pad", _padded)
    _wrap("repeat", _repeated)


def uninstall() -> None:
    """Give NumPy its own functions back (for compilers that know them by identity)."""
    while _ORIGINALS:
        name, original = _ORIGINALS.popitem()
        setattr(np, name, original)


def _wrap(name: str, note: Any) -> None:
    original = _ORIGINALS[name] = getattr(np, name)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        result = original(*args, **kwargs)
        if args and isinstance(args[0], (np.ndarray, Image.Image)) and result is not args[0]:
            note(result, *args, **kwargs)
        return result

    setattr(np, name, wrapper)


def _copied(result: Any, source: Any, *_: Any, **__: Any) -> None:
    if isinstance(source, Image.Image):
        mark = find(source)
        if mark is not None and result.shape[:2] == (source.height, source.width):
            note_array(result, mark)
    elif result.size >= _MIN_PIXELS and result.base is None and result.shape == source.shape:
        mark = mark_of_array(source)
        if mark is not None:
            note_array(result, mark)


def _clipped(result: Any, source: Any, *_: Any, **__: Any) -> None:
    if isinstance(source, np.ndarray) and result.size >= _MIN_PIXELS:
        mark = find(source, parts=False)
        if mark is not None:
            note_array(result, mark)


def _padded(result: Any, source: Any, pad_width: Any = 0, *_: Any, **__: Any) -> None:
    if isinstance(source, np.ndarray) and source.size >= _MIN_PIXELS and not isinstance(pad_width, dict):
        mark = find(source)
        before = np.broadcast_to(pad_width, (source.ndim, 2))[:, 0]
        if mark is not None and (source.ndim == 2 or result.shape[2] == source.shape[2]):
            note_array(result, mark.then(shift(-int(before[1]), -int(before[0]))))


def _repeated(result: Any, source: Any, repeats: Any = None, axis: Any = None) -> None:
    if (
        isinstance(source, np.ndarray)
        and axis in (0, 1, -2, -1)
        and np.ndim(repeats) == 0
        and source.size >= _MIN_PIXELS
    ):
        axis %= source.ndim
        mark = find(source) if axis < 2 else None
        if mark is not None:
            step = 1.0 / float(repeats)
            note_array(result, mark.then(af.scale(step, 1.0) if axis else af.scale(1.0, step)))
