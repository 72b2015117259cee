"""What the embedded model is taught to say: the teacher's messages, in the native protocol.

Three looks. The whole picture: crop the text (and turn it by a quarter where it runs up or down). The
crop: put it the right way round and crop it closer. The close crop: read. Which message is right depends
on the last picture alone, so a wrong step is mended by the next. Boxes are given in 64ths of the picture's
sides, which the squared view keeps whatever the picture's size.
"""

from __future__ import annotations

import json

from kernel_agent.tasks.orientation import Orientation

GRID = 64
"""Boxes are whole numbers of 64ths of the width and height."""
UNREADABLE = "unreadable"
"""The answer to a picture without text."""

GridBox = tuple[int, int, int, int]

_FIRST = (
    "from PIL import Image, ImageOps\n"
    "import numpy as np\n"
    "w, h = image.size\n"
    "crop = image.crop((w*{0}//64, h*{1}//64, w*{2}//64, h*{3}//64)){4}\n"
    "grey = ImageOps.autocontrast(crop.convert('L'), 1)\n"
    "result = ImageOps.invert(grey) if np.median(grey) < 128 else grey"
)
_CLOSER = (
    "w, h = image.size\n"
    "crop = image.crop((w*{0}//64, h*{1}//64, w*{2}//64, h*{3}//64)){4}\n"
    "result = ImageOps.autocontrast(crop, 1)"
)
_QUARTER = ".transpose(Image.Transpose.ROTATE_90)"
_MENDS = {
    Orientation.UPRIGHT: ("It is upright. I crop it closer.", "crop closer", ""),
    Orientation.ROT180: (
        "It is upside down. I turn it round and crop it closer.",
        "turn by 180 degrees and crop closer",
        ".transpose(Image.Transpose.ROTATE_180)",
    ),
    Orientation.FLIP_H: (
        "It is mirrored. I mirror it back and crop it closer.",
        "mirror and crop closer",
        ".transpose(Image.Transpose.FLIP_LEFT_RIGHT)",
    ),
    Orientation.FLIP_V: (
        "It is flipped top to bottom. I flip it back and crop it closer.",
        "flip and crop closer",
        ".transpose(Image.Transpose.FLIP_TOP_BOTTOM)",
    ),
}


def first_crop(box: GridBox, *, vertical: bool) -> str:
    """The message at the first look: crop `box`, grey and stretched, lying horizontally."""
    code = _FIRST.format(*box, _QUARTER if vertical else "")
    if vertical:
        return _call("The text runs up or down. I crop it and turn it by a quarter.", code, "crop and turn the text", 0)
    return _call("The text runs across. I crop it.", code, "crop the text", 0)


def closer_crop(box: GridBox, lies: Orientation, image_index: int) -> str:
    """The message at a crop that lies like `lies`: crop `box` of it and put it upright."""
    thought, description, operation = _MENDS[lies]
    return _call(thought, _CLOSER.format(*box, operation), description, image_index)


def answer(text: str) -> str:
    """The message at a close crop that is upright."""
    return f"<think>It is upright and close. I read it.</think><answer>{text}</answer>"


def give_up() -> str:
    """The message at a picture without anything to read."""
    return f"<think>This picture shows no text.</think><answer>{UNREADABLE}</answer>"


def guess(text: str) -> str:
    """The message where there is no time to look closer."""
    return f"<think>I can look no closer. I guess.</think><answer>{text}</answer>"


def grid_box(box: tuple[float, float, float, float], size: tuple[int, int], pad: float, more: int = 0) -> GridBox:
    """`box` (px) of an image of `size` (w, h), grown by `pad` px, then outwards to whole 64ths and `more` of them."""
    (x0, y0, x1, y1), (w, h) = box, size
    low = [max(0, int((v - pad) * GRID // side) - more) for v, side in ((x0, w), (y0, h))]
    high = [min(GRID, int(-(-(v + pad) * GRID // side)) + more) for v, side in ((x1, w), (y1, h))]
    return low[0], low[1], max(low[0] + 1, high[0]), max(low[1] + 1, high[1])


def _call(thought: str, code: str, description: str, image_index: int) -> str:
    arguments = {"code": code, "description": description, "image_index": image_index}
    call = json.dumps({"name": "code_image_tool", "arguments": arguments})
    return f"<think>{thought}</think><tool_call>{call}</tool_call>"
