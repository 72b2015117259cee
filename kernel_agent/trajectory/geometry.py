"""Map boxes of derived images back to the images they were made from."""

from __future__ import annotations

from collections.abc import Mapping

from kernel_agent.errors import LineageError
from kernel_agent.types import Affine, Box, KernelImage

IDENTITY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def compose(outer: Affine, inner: Affine) -> Affine:
    """The map that applies `inner` first, then `outer`."""
    a, b, c, d, e, f = outer
    g, h, i, j, k, m = inner
    return (a * g + b * j, a * h + b * k, a * i + b * m + c, d * g + e * j, d * h + e * k, d * i + e * m + f)


def apply(affine: Affine, box: Box) -> Box:
    """The smallest upright box that holds the mapped corners of `box` (exact for anything but a free rotation)."""
    a, b, c, d, e, f = affine
    left, top, right, bottom = box
    corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    return (min(xs), min(ys), max(xs), max(ys))


def lineage(images: Mapping[int, KernelImage], index: int) -> list[KernelImage]:
    """The image, its parent, ... up to the input. LineageError where a parent is unknown."""
    chain = [images[index]]
    while chain[-1].parent is not None:
        parent = images.get(chain[-1].parent)
        if parent is None or len(chain) > len(images):
            raise LineageError(
                f"{chain[-1].name} names a parent, image_{chain[-1].parent}, that this run does not have"
            )
        chain.append(parent)
    if chain[-1].origin != "input":
        made = "" if chain[-1] is chain[0] else f", which {chain[0].name} was made from,"
        raise LineageError(
            f"{chain[-1].name}{made} came from no known image ({chain[-1].origin}): only crops, rotations, flips, resizes"
            " and transposes through PIL, OpenCV and NumPy slices are followed"
        )
    return chain


def to_root(images: Mapping[int, KernelImage], index: int) -> Affine:
    """The map from an image's coordinates to those of the input it came from."""
    total = IDENTITY
    for image in lineage(images, index)[:-1]:
        if image.affine is None:
            raise LineageError(
                f"{image.name} was made from image_{image.parent}, but not by a geometric operation that can be followed"
                " (crop, rotate, flip, resize, transpose): give the box in an image before it"
            )
        total = compose(image.affine, total)
    return total
