"""What a run says of its pictures, checked without running any code: labels, sizes, files, and the views that the model was shown.

Guarantees: pure; whatever sizes and names the header asks for, no picture over `max_pixels` and no long name is made. An image is named as the run names its images; its file holds what the record says, and an output's file nothing
by which a viewer could show something else (`session.images_plain`); it is kept with loss, and made smaller for the model, exactly as the
header's encoding and view bounds have it; the view is the scaled image (`compare_images.check_view`). An input's file is one that `load_image`
keeps. Images of a follow-up question are "unchecked" where they fit no header: it may have been asked under other options, which a run does
not record. Not covered: the colour profile or gamma of an input's own file, which viewers may heed and models do not; the view of a
lossy image, for which code has to run (`compare_images.compare_view`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from kernel_agent.audit.compare_images import check_view
from kernel_agent.audit.finding import Finding, Outcome
from kernel_agent.errors import ImageError, InputError, TrajectoryError
from kernel_agent.session.images import LoadedImage, ViewBounds, load_image, shown_as_is, view_size
from kernel_agent.session.images_plain import has_alpha, not_plain
from kernel_agent.trajectory.codec import decode, encode
from kernel_agent.types import ImageEncoding, Json, KernelImage, Names

if TYPE_CHECKING:
    from PIL import Image

    from kernel_agent.trajectory import Trajectory

_Wrong: TypeAlias = tuple[str, str]
"""A field, and what is the matter with it."""

T = TypeVar("T")
CHECK = "what the model saw and said"
SECONDS = 300.0
"""How long the pictures of a run may take; those that are left are unchecked."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What a header says of pictures; `bounds` is None where it says nothing."""

    names: Names
    encoding: ImageEncoding
    bounds: ViewBounds | None


def names_of(header: Mapping[str, Json]) -> Names:
    """How the run names its images. TrajectoryError where the header says nothing sensible of it."""
    try:
        return _read(Names, header, "names") or Names()
    except InputError as error:
        raise TrajectoryError(f"header.{error}") from error


def check_pictures(trajectory: Trajectory, *, max_pixels: int, seconds: float = SECONDS) -> Iterator[Finding]:
    """All that is wrong with the pictures."""
    header = trajectory.header
    options = _Options(
        names=names_of(header),
        encoding=_read(ImageEncoding, header, "image_encoding") or ImageEncoding(),
        bounds=_read(ViewBounds, header, "view_bounds"),
    )
    if options.bounds is not None and options.bounds.min_pixels > max_pixels:
        asked = f"min_pixels={options.bounds.min_pixels!s:.20} asks for larger views"
        yield finding("run", "view_bounds", f"{asked} than the {max_pixels:,} pixels that an audit takes (max_pixels)")
    made = {image.index: step.index for step in trajectory.steps for image in step.images}
    later = trajectory.turns[1].first_step if len(trajectory.turns) > 1 else len(trajectory.steps)
    deadline = time.monotonic() + seconds
    for count, image in enumerate(trajectory.images):
        if time.monotonic() > deadline:
            left = f"{len(trajectory.images) - count} of {len(trajectory.images)} were not looked at: {seconds:g} s were up"
            yield finding("run", "images", left, "")
            return
        step = made.get(image.index)
        where = "input" if step is None else f"step {step + 1}"
        for field, message in _by_options(image, options, step is None):
            follows = step is not None and step >= later
            yield finding(where, field, message, " (its question may have had options of its own)" if follows else None)
        if options.bounds is None and image.view_size != image.size:
            message = "the run records no view bounds, so its size cannot be checked"
            yield finding(where, f"view of {image.name}", message, "")
        wrong, whole = _input(image, options, max_pixels) if step is None else _output(image, max_pixels)
        for field, message in wrong:
            yield finding(where, field, message)
        if whole is not None:
            seen = check_view(image, whole, header, max_pixels=max_pixels)
            if not seen.verdict.holds:
                yield finding(where, seen.what, seen.how, None if seen.verdict.holds is False else "")


def finding(cell: str, field: str, message: str, doubt: str | None = None) -> Finding:
    """One that fails; with a doubt, which follows the message, it is unchecked."""
    outcome = Outcome.FAILS if doubt is None else Outcome.UNCHECKED
    return Finding(check=CHECK, outcome=outcome, cell=cell, field=field, message=message + (doubt or ""))


def _read(kind: type[T], header: Mapping[str, Json], name: str) -> T | None:
    return decode(kind, encode(header[name]), where=f"header.{name}") if name in header else None


def _by_options(image: KernelImage, options: _Options, given: bool) -> Iterator[_Wrong]:
    """What does not fit the header."""
    if image.name != (name := options.names(image.index)):
        yield image.name, f"image {image.index} of this run is called {name:.80}"
    if not given and not image.lossless and options.encoding.notebook != "jpeg":
        yield image.name, "it is kept with loss, and the run keeps its images without"
    wanted = view_size(image.size, options.bounds) if options.bounds else image.view_size
    if image.view_size != wanted:
        shown = f"{image.view_size[0]}x{image.view_size[1]}"
        yield f"view of {image.name}", f"it is {shown} px, and the run's bounds give {wanted[0]}x{wanted[1]} px"
    if image.view != image.data and image.view_mime != f"image/{options.encoding.view}":
        yield (
            f"view of {image.name}",
            f"it is {image.view_mime[:40]}, and the run shows {options.encoding.view.upper()}",
        )


def _input(image: KernelImage, options: _Options, max_pixels: int) -> tuple[list[_Wrong], Image.Image | None]:
    """Of an image that was given: what is wrong, and its pixels where the view has to be made of them."""
    wrong: list[_Wrong] = []
    if image.origin != "input" or not image.lossless or image.parent is not None or image.affine is not None:
        wrong.append((image.name, "an input comes from no cell and no other image, and is kept without loss"))
    try:
        loaded = load_image(image.data, max_pixels=max_pixels)
    except ImageError as error:
        return [*wrong, (image.name, f"it cannot be opened: {error}")], None
    if loaded.data != image.data or loaded.mime != image.mime:
        wrong.append(
            (
                image.name,
                "no run keeps such a file: it is animated, of another kind than it says, of a rare one, or turned where not every viewer turns it",
            )
        )
    if loaded.pil.size != image.size:
        size = f"{loaded.pil.width}x{loaded.pil.height}"
        wrong.append((image.name, f"it is {size} px, the record says {image.size[0]}x{image.size[1]}"))
    if image.view != image.data:
        return [*wrong, *_view(image)], loaded.pil
    if image.view_mime != image.mime or not _as_it_is(loaded, options.bounds or ViewBounds()):
        wrong.append((f"view of {image.name}", "this file cannot be shown to the model as it is"))
    return wrong, None


def _as_it_is(loaded: LoadedImage, bounds: ViewBounds) -> bool:
    return shown_as_is(loaded.pil, loaded.data, loaded.mime, bounds)


def _output(image: KernelImage, max_pixels: int) -> tuple[list[_Wrong], Image.Image | None]:
    """The same of an image that a cell showed."""
    wrong: list[_Wrong] = []
    if image.origin == "input":
        wrong.append((image.name, "a cell made it, and it is said to be an input"))
    if image.parent is not None and not 0 <= image.parent < image.index:
        told = f"it is said to be made from image {image.parent}, which was not there yet"
        wrong.append((f"lineage of {image.name}", told))
    if not all(map(math.isfinite, image.affine or ())):
        wrong.append((f"lineage of {image.name}", f"it is said to lie at {image.affine}, which is no place"))
    if image.mime != ("image/png" if image.lossless else "image/jpeg"):
        return [
            *wrong,
            (image.name, f"it is {image.mime[:40]}, kept {'without' if image.lossless else 'with'} loss"),
        ], None
    if (problem := not_plain(image.data, image.mime, image.size)) is not None:
        return [*wrong, (image.name, f"its file is not one that every viewer shows alike: {problem}")], None
    if image.view == image.data:
        if image.view_mime != image.mime or (image.lossless and has_alpha(image.data)):
            wrong.append((f"view of {image.name}", "this file cannot be shown to the model as it is"))
        return wrong, None
    wrong += _view(image)
    if not image.lossless:
        return wrong, None
    try:
        return wrong, load_image(image.data, max_pixels=max_pixels).pil
    except ImageError as error:
        return [*wrong, (image.name, f"it cannot be opened: {error}")], None


def _view(image: KernelImage) -> Iterator[_Wrong]:
    if (problem := not_plain(image.view, image.view_mime, image.view_size)) is not None:
        yield f"view of {image.name}", f"its file is not one that every reader decodes alike: {problem}"
