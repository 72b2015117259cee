"""What `find_operations` says of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kernel_agent.types import Affine, Box


class Applied(StrEnum):
    """An operation that was applied. Those of the paper are equal to `tasks.ground_truth.Operation`, as texts.

    Rotations are counter-clockwise, as `PIL.Image.rotate` counts.
    """

    ROTATE90 = "rotate90"
    ROTATE180 = "rotate180"
    ROTATE270 = "rotate270"
    FLIP_HORIZONTAL = "flip-horizontal"  # left and right change places
    FLIP_VERTICAL = "flip-vertical"
    TRANSPOSE = "transpose"  # rows and columns change places
    TRANSVERSE = "transverse"
    CROP = "crop"
    FREE_ROTATION = "free-rotation"
    RESIZE = "resize"
    PHOTOMETRIC = "photometric"  # colours, brightness, contrast, blur, sharpness, threshold, edges
    OTHER = "other"  # drawn on, framed, drawn anew inside a plot


ORIENTATIONS = (
    Applied.FLIP_HORIZONTAL,
    Applied.FLIP_VERTICAL,
    Applied.ROTATE90,
    Applied.ROTATE180,
    Applied.ROTATE270,
    Applied.TRANSPOSE,
    Applied.TRANSVERSE,
)
"""All ways to lie but upright, in the order of Pillow's `Transpose`."""


@dataclass(frozen=True, kw_only=True)
class PictureOperations:
    """What was done to make one picture.

    Attributes:
        image: its index.
        parent: the picture it was made from; None where unknown.
        applied: from parent to picture: orientation, free rotation, crop, resize, photometric, other; empty where nothing
            was, and where it is unknown.
        known: whether the pixels tell. False also where they do not tell the way it lies.
        root: the input it goes back to; None where that is unknown.
        to_root: maps its points to those of the input.
        lies: how it lies to the input, over all steps; None for as the input does.
        box: the part of the input it shows, in pixels of the input, clipped to it.
        by: "lineage" where the pixels bear lineage out, "pixels" where the place was searched for, "" where unknown.
    """

    image: int
    parent: int | None = None
    applied: tuple[Applied, ...] = ()
    known: bool = False
    root: int | None = None
    to_root: Affine | None = None
    lies: Applied | None = None
    box: Box | None = None
    by: str = ""


@dataclass(frozen=True, kw_only=True)
class StepOperations:
    """What one step did: one entry for each picture it showed."""

    step: int
    pictures: tuple[PictureOperations, ...] = ()

    @property
    def applied(self) -> tuple[Applied, ...]:
        """All operations of the step, each once, in order."""
        return tuple(dict.fromkeys(one for picture in self.pictures for one in picture.applied))

    @property
    def unknown(self) -> bool:
        """Whether the pixels of any of its pictures cannot tell."""
        return any(not picture.known for picture in self.pictures)
