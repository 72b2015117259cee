"""Which operations made the pictures of a run: lineage proposes, pixels decide; without lineage the nearest picture counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kernel_agent.operations.affine import IDENTITY, Parts, compose, covered, invert, orientation_map, parts
from kernel_agent.operations.changes import changes
from kernel_agent.operations.compare import FLAT, Fit, judge, spread, within
from kernel_agent.operations.pictures import Pictures, Pixels
from kernel_agent.operations.search import STRICT, Search
from kernel_agent.operations.values import Applied, PictureOperations, StepOperations
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Affine, KernelImage, RunCode, Size

SEARCHED = 6
"""So many pictures are searched for one of unknown origin."""

_WHOLE, _SCALED = 0.98, 0.01


def find_operations(trajectory: Trajectory) -> tuple[StepOperations, ...]:
    """What each step did, in order; a step that showed no picture has none. Pure: reads the record alone."""
    images = {image.index: image for image in trajectory.images}
    pictures = Pictures(images)
    search = Search(pictures)
    made = {index for step in trajectory.steps for index in (image.index for image in step.images)}
    known: dict[int, PictureOperations] = {
        index: PictureOperations(
            image=index,
            known=True,
            root=index,
            to_root=IDENTITY,
            box=(0.0, 0.0, float(image.size[0]), float(image.size[1])),
        )
        for index, image in images.items()
        if index not in made
    }
    out = []
    for step in trajectory.steps:
        found = []
        bound = step.action.image_index if isinstance(step.action, RunCode) else None
        for image in step.images:
            known[image.index] = _of_picture(image, pictures, search, known, bound)
            found.append(known[image.index])
        out.append(StepOperations(step=step.index, pictures=tuple(found)))
    return tuple(out)


def _of_picture(
    image: KernelImage, pictures: Pictures, search: Search, known: dict[int, PictureOperations], bound: int | None
) -> PictureOperations:
    pixels = pictures[image.index]
    flat = spread(pixels) < FLAT
    if image.parent in known and image.affine is not None:
        assert image.parent is not None
        if _borne_out(image, image.parent, pictures, search, image.affine, flat=flat):
            found = _describe(image, pictures, image.parent, image.affine, known, by="lineage")
            return _from_bound(image, pictures, found, known, bound) or found
    if flat:
        return PictureOperations(image=image.index, parent=image.parent)
    best: PictureOperations | None = None
    for index in _candidates(known, bound):
        same = pictures.images[index].pixel_sha256 == image.pixel_sha256
        place = IDENTITY if same else search.place(image.index, index)
        if place is not None:
            found = _describe(image, pictures, index, place, known, by="pixels")
            if best is None or len(found.applied) < len(best.applied):
                best = found
            if len(best.applied) <= 1:
                break  # it can hardly have come about by less
    return best or PictureOperations(image=image.index)


def _from_bound(
    image: KernelImage,
    pictures: Pictures,
    found: PictureOperations,
    known: Mapping[int, PictureOperations],
    bound: int | None,
) -> PictureOperations | None:
    """The same as made from the picture that the call was bound to, where that takes fewer operations.

    Where the chain was broken, lineage names the latest picture that shows this part, which may not be the one used.
    """
    if bound is None or bound == found.parent or found.to_root is None or bound not in known:
        return None
    used = known[bound]
    back = invert(used.to_root) if used.to_root is not None and used.root == found.root else None
    if back is None:
        return None
    affine = compose(back, found.to_root)
    if covered(affine, image.size, pictures.images[bound].size)[1] < _WHOLE:
        return None
    other = _describe(image, pictures, bound, affine, known, by="lineage")
    return other if len(other.applied) < len(found.applied) else None


def _candidates(known: Mapping[int, PictureOperations], bound: int | None) -> list[int]:
    """Where to search: the picture that the call was bound to, the inputs, the latest."""
    inputs = [index for index in known if known[index].parent is None and known[index].root == index]
    first = [bound] if bound is not None and bound in known else []
    latest: list[int] = sorted(known, reverse=True)
    return list(dict.fromkeys([*first, *inputs, *latest]))[:SEARCHED]


def _borne_out(
    image: KernelImage, parent: int, pictures: Pictures, search: Search, affine: Affine, *, flat: bool
) -> bool:
    if affine == IDENTITY and image.pixel_sha256 == pictures.images[parent].pixel_sha256:
        return True
    if flat:
        return False
    said = judge(pictures[image.index], pictures[parent], affine)
    if said.fit is Fit.CANNOT_TELL and not _turned(affine):
        # a symmetric picture: it lies as its parent does unless somebody turned it to no effect
        return _is_exactly(pictures[image.index], pictures[parent], affine)
    if said.fit is not Fit.BORNE_OUT:
        return False
    if said.likeness < STRICT:  # lines of text are like other lines of text: is there a place that fits better?
        better = search.place(image.index, parent, quick=True)
        return better is None or _near(better, affine, image.size)
    return True


def _near(one: Affine, other: Affine, size: Size) -> bool:
    """Whether two maps take the corners of a picture to the same points, but for 3 pixels."""
    corners = [(x, y) for x in (0, size[0]) for y in (0, size[1])]
    return all(
        abs((p - q) * x + (r - s) * y + t - u) <= 3
        for p, r, t, q, s, u in ((*one[:3], *other[:3]), (*one[3:], *other[3:]))
        for x, y in corners
    )


def _is_exactly(pixels: Pixels, parent: Pixels, affine: Affine) -> bool:
    taken = parts(affine)
    return taken is not None and changes(pixels, parent, affine, taken) is None


def _turned(affine: Affine) -> bool:
    taken = parts(affine)
    return taken is None or taken.orientation is not None


def _describe(
    image: KernelImage,
    pictures: Pictures,
    parent_index: int,
    affine: Affine,
    known: Mapping[int, PictureOperations],
    *,
    by: str,
) -> PictureOperations:
    taken, parent = parts(affine), pictures[parent_index]
    if taken is None:
        return PictureOperations(image=image.index, parent=parent_index)
    size, parent_size = image.size, (parent.shape[1], parent.shape[0])
    applied = [one for one in (taken.orientation,) if one is not None]
    if taken.free:
        applied.append(Applied.FREE_ROTATION)
    cropped, framed = _extent(affine, taken, size, parent_size)
    if cropped:
        applied.append(Applied.CROP)
    if any(abs(scale - 1) > _SCALED for scale in taken.scale):
        applied.append(Applied.RESIZE)
    lossless = image.lossless and pictures.images[parent_index].lossless
    changed = changes(pictures[image.index], parent, affine, taken, lossless=lossless)
    if changed is not None:
        applied.append(changed)
    if framed and Applied.OTHER not in applied:
        applied.append(Applied.OTHER)
    found = PictureOperations(image=image.index, parent=parent_index, applied=tuple(applied), known=True, by=by)
    above = known[parent_index]
    if above.root is None or above.to_root is None:
        return found
    to_root = compose(above.to_root, affine)
    whole = parts(to_root)
    root_size = known[above.root].box
    if whole is None or root_size is None:
        return found
    box, _ = covered(to_root, size, (int(root_size[2]), int(root_size[3])))
    return replace(found, root=above.root, to_root=to_root, lies=whole.orientation, box=box)


def _visible(affine: Affine, size: Size, parent: Size) -> float:
    """The share of the parent that a picture of `size` shows."""
    back = invert(affine)
    if back is None:
        return 0.0
    step = (parent[0] / 64, 0.0, 0.0, 0.0, parent[1] / 64, 0.0)
    return float(within(compose(back, step), (64, 64), size).mean())


def _extent(affine: Affine, taken: Parts, size: Size, parent: Size) -> tuple[bool, bool]:
    """Whether less than the parent is shown, and whether there is a frame around it that was not in the parent."""
    if taken.free:
        # rotating alone loses corners; a crop is what loses more than that
        width, height = float(parent[0]), float(parent[1])
        middle = orientation_map(taken.orientation, parent)
        turned = (height, width) if abs(middle[0]) < 0.5 else (width, height)
        c, s = math.cos(taken.angle), math.sin(taken.angle)
        x, y = turned[0] / 2, turned[1] / 2
        rotation = (c, -s, x - c * x + s * y, s, c, y - s * x - c * y)
        alone = _visible(compose(middle, rotation), (int(turned[0]), int(turned[1])), parent)
        return _visible(affine, size, parent) < min(alone, 1.0) - 0.03, False
    box, inside = covered(affine, size, parent)
    shown = max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
    cropped = shown < _WHOLE * parent[0] * parent[1]
    return cropped, not cropped and inside < _WHOLE
