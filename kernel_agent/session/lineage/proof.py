"""Finding the origin of pictures whose chain was broken (`.copy()`, arithmetic, a file): by their pixels, or not at all.

Two proofs. Same size: a picture alive in the calling functions, in the notebook's namespace or lately made by a wrapped
call shows the same pixel by pixel (see samples). Part: the pixels are exactly a rectangle of a known picture, in one of the
eight orientations, and nowhere else (a plain border around them is taken off first). Both must give one answer.
Costs are bounded, the same in every run: from one `origin` or `register` to the next at most `PROOFS` pictures are looked
at and `WORK` bytes searched; what comes after is unknown.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from kernel_agent.session.lineage import affine as af
from kernel_agent.session.lineage.affine import close, compose, dihedral, shift
from kernel_agent.session.lineage.marks import (
    BLANK,
    UNKNOWN,
    Array,
    Mark,
    is_image,
    known_arrays,
    mark_of_array,
    mark_of_pil,
    note_array,
    note_pil,
    traces,
)
from kernel_agent.session.lineage.samples import alike, ranks, same_with_drawing, sample, sample_pil
from kernel_agent.session.lineage.search import MIN_SIDE, places, turns, without_border

WORK = 1_500_000_000
PROOFS = 100
_PACKAGE = __name__.rpartition(".")[0]
_MODES = ("L", "RGB", "RGBA")

_registered: dict[int, weakref.ref[Any]] = {}
_parents: dict[int, Mark] = {}
_left = {"bytes": WORK, "proofs": PROOFS}
_local = threading.local()


def register(obj: Any, index: int) -> None:
    """See the package."""
    _refill()
    known = _noted(obj)
    if known is not None and known.image >= 0 and known.image != index:
        _parents[index] = known
    elif known is None or known.image < 0:
        _parents.pop(index, None)
    _registered[index] = weakref.ref(obj)
    mark = Mark(index, af.IDENTITY)
    if isinstance(obj, Image.Image):
        note_pil(obj, mark)
    else:
        note_array(obj, mark)


def origin(obj: Any) -> Mark | None:
    """See the package."""
    _refill()
    try:
        mark = find(obj)
        return mark if mark is not None and mark.image >= 0 else None
    finally:
        _refill()


def _spend(count: int) -> bool:
    if _left["bytes"] < count:
        return False
    _left["bytes"] -= count
    return True


def _refill() -> None:
    _left.update(bytes=WORK, proofs=PROOFS)


def find(obj: Any, *, parts: bool = True) -> Mark | None:
    """The mark of an image or array, by what was noted or else by proof; BLANK for an empty canvas; None where unknown.

    Without `parts` the dearer of the two proofs is left out, and the answer is not remembered.
    """
    mark = _noted(obj)
    if mark is not None:
        return None if mark == UNKNOWN else mark
    if not _left["proofs"] or getattr(_local, "busy", False) or (pixels := _pixels(obj)) is None:
        return None
    _left["proofs"] -= 1
    _local.busy = True
    try:
        mark = _prove_same_size(obj, pixels) or (_prove_part(obj, pixels) if parts else None)
    finally:
        _local.busy = False
    if not parts:
        return mark
    if isinstance(obj, Image.Image):
        note_pil(obj, mark or UNKNOWN)
    elif mark is not None:
        note_array(obj, mark)
    return mark


def _noted(obj: Any) -> Mark | None:
    if isinstance(obj, Image.Image):
        return mark_of_pil(obj)
    return mark_of_array(obj) if isinstance(obj, np.ndarray) else None


def _pixels(obj: Any) -> Array | None:
    """The pixels of something worth a proof."""
    if isinstance(obj, Image.Image):
        if obj.mode not in _MODES or min(obj.size) < MIN_SIDE:
            return None
        obj.load()
        raw = np.frombuffer(obj.tobytes(), np.uint8)
        return raw.reshape((obj.height, obj.width) if obj.mode == "L" else (obj.height, obj.width, len(obj.mode)))
    if (
        not isinstance(obj, np.ndarray)
        or not is_image(obj)
        or min(obj.shape[:2]) < MIN_SIDE
        or obj.dtype.kind not in "buif"
    ):
        return None
    return obj[:, :, 0] if obj.ndim == 3 and obj.shape[2] == 1 else obj


def _known(obj: Any) -> Iterator[tuple[Any, Mark]]:
    """Pictures that carry a mark and are alive: registered, lately made, or named in the calling code."""
    seen = {id(obj)}
    for reference in list(_registered.values()):
        held = reference()
        if held is not None and id(held) not in seen:
            seen.add(id(held))
            mark = _noted(held)
            if mark is not None and mark.image >= 0:
                yield held, mark
    for value in _named():
        if id(value) not in seen:
            seen.add(id(value))
            mark = _noted(value)
            if mark is not None and mark.image >= 0:
                yield value, mark


def _named() -> Iterator[Any]:
    frame: FrameType | None = sys._getframe(1)
    spaces: list[dict[str, Any]] = []
    while frame is not None and len(spaces) < 4:
        if not str(frame.f_globals.get("__name__", "")).startswith((_PACKAGE, "PIL.", "importlib", "IPython.")):
            spaces.append(frame.f_locals)
        frame = frame.f_back
    main = sys.modules.get("__main__")
    if main is not None:
        spaces.append(vars(main))
    for space in spaces:
        for value in list(space.values())[-400:]:
            if isinstance(value, (np.ndarray, Image.Image)):
                yield value


def _prove_same_size(obj: Any, pixels: Array) -> Mark | None:
    height, width = pixels.shape[:2]
    sizes = {(width, height), (height, width)}
    known = [(theirs, ranks(theirs), size, mark) for theirs, size, mark in _samples(obj, sizes)]
    readings = list(turns(pixels)) if known else []
    for turn in (af.UNCHANGED, *range(af.UNCHANGED)) if known else ():
        mine = sample(readings[turn])
        my_ranks = ranks(mine)
        size = readings[turn].shape[1], readings[turn].shape[0]
        exact: list[Mark] = []
        similar: list[Mark] = []
        for theirs, their_ranks, their_size, mark in known:
            if their_size != size:
                continue
            if same_with_drawing(theirs, mine):
                exact.append(mark)
            elif alike(theirs, mine, their_ranks, my_ranks):
                similar.append(mark)
        if exact or similar:
            agreed = _agreed(exact or similar)
            back = af.invert(dihedral(width, height)[turn])
            return agreed.then(back) if agreed is not None and back is not None else None
    return None


def _samples(obj: Any, sizes: set[tuple[int, int]]) -> Iterator[tuple[Array, tuple[int, int], Mark]]:
    """Sampled pixels of known pictures of these sizes, and of those that wrapped NumPy and OpenCV calls made lately."""
    for known, mark in _known(obj):
        if isinstance(known, Image.Image):
            if known.size in sizes and known.mode in _MODES:
                yield sample_pil(known), known.size, mark
        elif (size := (known.shape[1], known.shape[0])) in sizes:
            yield sample(known), size, mark
    lately = [trace for trace in reversed(traces) if (trace.width, trace.height) in sizes]
    for trace in lately[:16]:
        yield trace.samples, (trace.width, trace.height), trace.mark


def _agreed(marks: list[Mark]) -> Mark | None:
    """The nearest of marks that all lead to the same place in the same image; None where they do not."""
    if not marks:
        return None
    roots = [_root(mark) for mark in marks]
    if any(root.image != roots[0].image or not close(root.affine, roots[0].affine) for root in roots):
        return None
    return max(marks, key=lambda mark: mark.image)


def _root(mark: Mark) -> Mark:
    for _ in range(100):
        parent = _parents.get(mark.image)
        if parent is None:
            break
        mark = parent.then(mark.affine)
    return mark


def _prove_part(obj: Any, pixels: Array) -> Mark | None:
    if pixels.dtype != np.uint8:
        return None
    found: list[Mark] = []
    plain, left, top = without_border(pixels)
    for known, mark in (*_known(obj), *known_arrays(8)):
        theirs = _pixels(known)
        if theirs is None or theirs.dtype != np.uint8:
            continue
        for part, x, y in ((pixels, 0, 0), (plain, left, top)) if plain is not pixels else ((pixels, 0, 0),):
            spots = places(part, theirs, known, _spend)
            if spots is None or len(spots) > 1:
                return None  # in more than one place, or too much work
            if spots:
                found.append(mark.then(compose(spots[0], shift(-x, -y))))
                break
    return _agreed(found)


def merged(*objects: Any) -> Mark | None:
    """The mark of a pixel-wise mix: that of all, or of all but blank canvases; None where they differ."""
    marks = [find(one) for one in objects]
    if any(mark is None for mark in marks):
        return None
    shown = [mark for mark in marks if mark is not None and mark != BLANK]
    if not shown:
        return BLANK
    if any(mark.image != shown[0].image or not close(mark.affine, shown[0].affine) for mark in shown):
        return None
    return shown[0]
