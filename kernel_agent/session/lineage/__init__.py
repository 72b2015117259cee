"""Where the pixels of an image came from: `origin(obj)` gives the image it was made from and the affine back to it.

Runs inside the kernel. `install()` wraps the geometric (and the pixel-wise) functions of Pillow, NumPy and, once it is
imported, OpenCV, so that each result carries what really happened to it; array views are placed by address and
strides; what breaks the chain (`.copy()`, arithmetic, a file in between) is proven from the pixels or left unknown.

Guarantees: `origin` is None rather than a guess: several images in one, ambiguous pixels, a warp that is not affine or a
tool that is not wrapped give None. User code sees plain Pillow images and plain ndarrays. Images are referred to weakly.
Not covered: matplotlib renderings, scipy and scikit-image, `cv2.remap`, crops that were copied *and* changed by
arithmetic outside any wrapped call while the crop itself is gone. Code that wants to fool this can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Affine = tuple[float, float, float, float, float, float]

__all__ = ["Affine", "install", "origin", "register", "trim"]

_installed = False


def install() -> None:
    """Wrap Pillow and NumPy now and OpenCV when it is imported. Does nothing the second time."""
    global _installed
    if _installed:
        return
    _installed = True
    from kernel_agent.session.lineage import arrays, imports, pillow

    pillow.install()
    arrays.install()
    imports.install()


def register(obj: Any, index: int) -> None:
    """Say that this Pillow image or ndarray is image `index`, as it is now."""
    install()
    from kernel_agent.session.lineage import proof

    proof.register(obj, index)


def origin(obj: Any) -> tuple[int, Affine] | None:
    """Return (index, affine) of the nearest registered ancestor of a Pillow image or ndarray; None where unknown.

    The affine (a, b, c, d, e, f) maps a point (x, y) of `obj` to (a x + b y + c, d x + e y + f) of the ancestor, in
    pixels, (0, 0) being the outer corner of the first pixel.
    """
    install()
    from kernel_agent.session.lineage import proof

    mark = proof.origin(obj)
    return None if mark is None else (mark.image, mark.affine)


def trim(error: BaseException) -> None:
    """Take a wrapper or signal handler of ours off the end of an error's traceback, so that it ends in the user's own line.

    Wrappers further up hide themselves (`__tracebackhide__`), but IPython always shows the last frame, which is ours where
    the wrapped function is compiled (OpenCV, `np.array`).
    """
    before, last = None, error.__traceback__
    while last is not None and last.tb_next is not None:
        before, last = last, last.tb_next
    if before is not None and last is not None and _ours(last.tb_frame.f_globals):
        before.tb_next = None


def _ours(module: Mapping[str, Any]) -> bool:
    return module.get("__package__") == __name__ or module.get("__name__") == "kernel_agent.session.interrupts"
