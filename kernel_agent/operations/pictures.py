"""The pixels of a run's pictures, decoded once: (height, width, 3) uint8, RGB; alpha is left out.

What was decoded lately is kept over runs (by hash, at most `KEPT` bytes), because the rollouts of a group share their input.
A picture that cannot be decoded, or is not of the size that its record says, is a TrajectoryError.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernel_agent.errors import TrajectoryError
from kernel_agent.session.png import read_png
from kernel_agent.types import KernelImage

Pixels: TypeAlias = NDArray[np.uint8]

KEPT = 96 * 2**20

_kept: OrderedDict[tuple[str, bool], Pixels] = OrderedDict()
_lock = threading.Lock()


class Pictures:
    """The pictures of one run by index."""

    def __init__(self, images: Mapping[int, KernelImage]) -> None:
        self.images = images

    def __getitem__(self, index: int) -> Pixels:
        image = self.images[index]
        key = image.pixel_sha256, image.lossless
        with _lock:
            if (known := _kept.get(key)) is not None:
                _kept.move_to_end(key)
                return known
        pixels = _decode(image)
        pixels.flags.writeable = False
        with _lock:
            _kept[key] = pixels
            held = sum(one.nbytes for one in _kept.values())
            while held > KEPT and len(_kept) > 1:
                held -= _kept.popitem(last=False)[1].nbytes
        return pixels


def forget(pixel_sha256: str | None = None) -> None:
    """Drop what was decoded: of one picture, or all."""
    with _lock:
        for key in [key for key in _kept if pixel_sha256 in (None, key[0])]:
            del _kept[key]


def _decode(image: KernelImage) -> Pixels:
    import cv2

    data, size = image.data, tuple(image.size)
    try:
        if image.mime == "image/png" and struct.unpack(">II", data[16:24]) == size:
            own = read_png(data)
            if own is not None and own.shape[2] == 1:
                return np.asarray(cv2.cvtColor(own, cv2.COLOR_GRAY2RGB), np.uint8)
            if own is not None:
                return np.ascontiguousarray(own[..., :3])
        decoded: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if decoded is not None and decoded.shape[1::-1] == size:
            return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
        pixels = np.array(image.to_pil().convert("RGB"))  # a format that OpenCV does not read
    except (ValueError, OSError, SyntaxError, struct.error, cv2.error) as error:
        raise TrajectoryError(f"{image.name} cannot be decoded ({error}): recover or save the run again") from error
    if pixels.shape[1::-1] != size:
        raise TrajectoryError(
            f"{image.name} is {pixels.shape[1::-1]}, its record says {size}: the run was changed by hand"
        )
    return pixels
