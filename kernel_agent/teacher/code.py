"""Python for a tool, in the several styles that people write it; all of a tool's styles give the very same pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from kernel_agent.tasks.ground_truth import Operation, effect
from kernel_agent.tasks.vocabulary import choose

Window = tuple[int, int, int, int]
"""Left, top, right, bottom: whole pixels of the picture that is cropped."""

_TURNS: Mapping[Operation, Sequence[str]] = {
    Operation.ROTATE90: (
        "result = image.rotate(90, expand=True)",
        "result = image.transpose(Image.Transpose.ROTATE_90)",
        "result = Image.fromarray(np.rot90(np.array(image)))",
        "result = Image.fromarray(cv2.rotate(np.array(image), cv2.ROTATE_90_COUNTERCLOCKWISE))",
    ),
    Operation.ROTATE180: (
        "result = image.rotate(180, expand=True)",
        "result = image.transpose(Image.Transpose.ROTATE_180)",
        "result = Image.fromarray(np.rot90(np.array(image), 2))",
        "result = Image.fromarray(cv2.rotate(np.array(image), cv2.ROTATE_180))",
    ),
    Operation.ROTATE270: (
        "result = image.rotate(270, expand=True)",
        "result = image.rotate(-90, expand=True)",
        "result = image.transpose(Image.Transpose.ROTATE_270)",
        "result = Image.fromarray(cv2.rotate(np.array(image), cv2.ROTATE_90_CLOCKWISE))",
    ),
    Operation.FLIP_HORIZONTAL: (
        "result = ImageOps.mirror(image)",
        "result = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)",
        "result = Image.fromarray(np.fliplr(np.array(image)))",
        "result = Image.fromarray(cv2.flip(np.array(image), 1))",
    ),
    Operation.FLIP_VERTICAL: (
        "result = ImageOps.flip(image)",
        "result = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)",
        "result = Image.fromarray(np.flipud(np.array(image)))",
        "result = Image.fromarray(cv2.flip(np.array(image), 0))",
    ),
}


def turning(rng: np.random.Generator, operation: Operation) -> str:
    """Code for a rotation or flip."""
    return choose(rng, _TURNS[operation])


def turned(operation: Operation, image: Image.Image) -> Image.Image:
    """What that code gives."""
    return effect(operation).apply(image)


def cropping(rng: np.random.Generator, window: Window, enlarge: int) -> str:
    """Code for a crop, the result `enlarge` times as large (1 leaves it)."""
    x0, y0, x1, y1 = window
    forms = [f"result = image.crop({window})", f"box = {window}\nresult = image.crop(box)"]
    if enlarge == 1:
        forms.append(f"result = Image.fromarray(np.array(image)[{y0}:{y1}, {x0}:{x1}])")
        return choose(rng, forms)
    larger = (
        f"result = result.resize((result.width * {enlarge}, result.height * {enlarge}), Image.Resampling.LANCZOS)",
        f"result = result.resize({((x1 - x0) * enlarge, (y1 - y0) * enlarge)}, Image.Resampling.LANCZOS)",
    )
    return f"{choose(rng, forms)}\n{choose(rng, larger)}"


def cropped(window: Window, enlarge: int, image: Image.Image) -> Image.Image:
    """What that code gives."""
    out = image.crop(window)
    return out if enlarge == 1 else out.resize((out.width * enlarge, out.height * enlarge), Image.Resampling.LANCZOS)


def enhancing() -> str:
    """Code for stretching the contrast."""
    return "result = ImageOps.autocontrast(image, cutoff=1)"


def enhanced(image: Image.Image) -> Image.Image:
    """What that code gives."""
    return ImageOps.autocontrast(image, cutoff=1)


def failing(rng: np.random.Generator, operation: Operation, window: Window | None) -> str:
    """Code that is meant for `operation` and raises, whatever the picture."""
    if operation is Operation.CROP and window is not None:
        x0, y0, x1, y1 = window
        forms = [
            f"result = image.crop(({x1}, {y0}, {x0}, {y1}))",  # right is less than left
            f"result = image.crop({x0}, {y0}, {x1}, {y1})",
            f"result = image.cropped({window})",
        ]
    elif operation in (Operation.FLIP_HORIZONTAL, Operation.FLIP_VERTICAL):
        forms = ["result = image.flip()", "result = ImageOps.flip_image(image)", "result = image.mirror(axis=1)"]
    else:
        degrees = operation.removeprefix("rotate")
        forms = [
            f"result = image.rotate{degrees}()",
            f'result = image.rotate("{degrees}")',
            f"result = rotate(image, {degrees})",
        ]
    return choose(rng, forms)
