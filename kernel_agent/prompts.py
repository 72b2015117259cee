"""Every word this package says to a model, in one place.

The words are our own. A model trained elsewhere keeps its own format (protocols/ decides the tags and the names of
images); what stands here is what we tell it. Changing a string here changes what the embedded model was trained on:
retrain it, or its answers degrade.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from kernel_agent.types import (
    CellResult,
    ErrorOutput,
    ImageOutput,
    ImagePart,
    Json,
    KernelImage,
    Malformed,
    Part,
    Status,
    StreamOutput,
    TextOutput,
    TextPart,
)

TOOL: dict[str, Json] = {
    "type": "function",
    "function": {
        "name": "code_image_tool",
        "description": (
            "Run Python on one of the images. `image` (also `img`) is a PIL copy of the chosen image and `draw` an "
            "ImageDraw on it; PIL, numpy as np, cv2 and math are imported; earlier variables and every image_0, "
            "image_1, ... stay available. Put the picture you want to see into `result`. Coordinates are pixels of the "
            "chosen image at full size. Typical: image.crop((left, top, right, bottom)), image.rotate(90, expand=True), "
            "ImageOps.mirror(image), ImageOps.flip(image), ImageEnhance.Contrast(image).enhance(1.5)."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "description": "Python that leaves a PIL image in `result`."},
                "description": {"type": "string", "description": "What the code is for, in a few words."},
                "image_index": {"type": "integer", "minimum": 0, "description": "k of image_k to work on."},
            },
            "required": ["code", "description", "image_index"],
        },
    },
}
"""The paper's tool (section 3.3), in OpenAI's schema."""

_TASK = (
    "You answer questions about images. You can run Python in a notebook kernel that holds the images and keeps all "
    "variables between cells. First check how each image is turned: a picture may be rotated by 90, 180 or 270 degrees, "
    "or mirrored; put it upright before you read it. Crop and enlarge small details instead of guessing. Look at what "
    "each cell returns, and correct the code when it was wrong. Use the tool only where it helps."
)

_NATIVE = (
    "\n\nThink inside <think></think> first. Then either call the tool once, or give the final answer inside "
    "<answer></answer>, as short as the question allows.\n\n# Tools\n\n<tools>\n{tool}\n</tools>\n\nCall it like this:\n"
    '<tool_call>\n{{"name": "code_image_tool", "arguments": {{"code": "...", "description": "...", "image_index": 0}}}}'
    "\n</tool_call>"
)

_OPENAI = (
    "\n\nCall `code_image_tool` to run code, one call a message. When you know the answer, reply without a call: the "
    "answer alone, as short as the question allows."
)

_CODE = (
    "\n\nThe images are the PIL variables {first}, ... ; PIL, numpy as np, cv2 and matplotlib.pyplot as plt are imported. "
    "To run code write\n<code>\n```python\n...\n```\n</code>\nand stop; what it prints and shows comes back in "
    "<{tag}></{tag}>. Show pictures by ending the cell with one, or with plt.show() or display(). When you know the answer "
    "write <answer>...</answer>, as short as the question allows."
)

_THYME = (
    "\n\nThe images are the files {first}, ... in the working directory. To run code write\n<code>\n```python\n...\n```\n"
    "</code>\nand stop; what it prints comes back in <{tag}></{tag}>, with every picture it saves. When you know the "
    "answer write <answer>...</answer>, as short as the question allows."
)

_FENCED = (
    "\n\nThe images are the PIL variables image_0, image_1, ... ; PIL, numpy as np, cv2 and matplotlib.pyplot as plt are "
    "imported. To run code write one block\n```python\n...\n```\nin a message and stop; what it prints and shows comes back. "
    "Show a picture by ending the cell with it, or with display() or plt.show(). When you know the answer write "
    "<answer>...</answer>, as short as the question allows."
)

_DIRECT = (
    "You answer questions about images. Look at the image and give the final answer inside <answer></answer>, as short as "
    "the question allows. You may think inside <think></think> first."
)


def direct_system() -> str:
    """System prompt of the control that is given no tools (benchmarks/direct.py)."""
    return _DIRECT


def native_system() -> str:
    """System prompt of the native protocol: the task, the tool's schema, the tags."""
    return _TASK + _NATIVE.format(tool=json.dumps(TOOL))


def openai_system() -> str:
    """System prompt where the server is given the tool's schema."""
    return _TASK + _OPENAI


def code_system(*, first: str, tag: str, files: bool) -> str:
    """System prompt of the `<code>` protocols. `first` names the first image, `tag` encloses results."""
    return _TASK + (_THYME if files else _CODE).format(first=first, tag=tag)


def fenced_system() -> str:
    """System prompt for any chat model: one fenced block a message."""
    return _TASK + _FENCED


def image_label(image: KernelImage) -> str:
    """`image_3: 640x480 px`, and the size of the view where the model sees a resized one."""
    width, height = image.size
    if image.view_size == image.size:
        return f"{image.name}: {width}x{height} px\n"
    return f"{image.name}: {width}x{height} px, shown at {image.view_size[0]}x{image.view_size[1]}\n"


def question(text: str, images: Iterable[KernelImage]) -> tuple[Part, ...]:
    """The user's turn: each new image with its label, then the question."""
    return (*_labelled(images), TextPart(text=text))


def _labelled(images: Iterable[KernelImage]) -> list[Part]:
    parts: list[Part] = []
    for image in images:
        parts += [ImagePart(image=image), TextPart(text=image_label(image))]
    return parts


NO_NEW_IMAGE = "This cell showed no new image. Put a picture into `result`, or end the cell with it.\n"


def cell_report(cell: CellResult, known: Sequence[KernelImage]) -> tuple[Part, ...]:
    """What a cell showed, in order: images with labels, text, errors; then what the model should know about it.

    `known` are the images from before this cell: a picture equal to one of them, pixel for pixel, is said to be.
    """
    by_index = {image.index: image for image in cell.images}
    seen = {image.pixel_sha256: image.name for image in reversed(known)}
    parts: list[Part] = []
    fresh = 0
    for output in cell.outputs:
        if isinstance(output, ImageOutput):
            image = by_index[output.index]
            parts += _labelled([image])
            if image.pixel_sha256 in seen:
                parts.append(TextPart(text=f"{image.name} has the same pixels as {seen[image.pixel_sha256]}.\n"))
            else:
                fresh += 1
                seen[image.pixel_sha256] = image.name
        elif isinstance(output, StreamOutput):
            parts.append(TextPart(text=f"{output.name}:\n{_line(output.text)}"))
        elif isinstance(output, TextOutput):
            parts.append(TextPart(text=_line(output.text)))
        elif isinstance(output, ErrorOutput):
            parts.append(TextPart(text="Error:\n" + _line("\n".join(output.traceback))))
    if cell.status is Status.TIMEOUT:
        parts.append(TextPart(text="The cell was interrupted: it ran longer than allowed. Variables are kept.\n"))
    elif cell.status is Status.KILLED:
        parts.append(
            TextPart(
                text="The kernel died or had to be killed in this cell. It was restarted and the earlier cells that "
                "worked were run again: their variables are back, this cell's are not.\n"
            )
        )
    if not fresh:
        parts.append(TextPart(text=NO_NEW_IMAGE))
    return tuple(parts)


def malformed_report(action: Malformed) -> tuple[Part, ...]:
    """What is wrong with the message and how to write it."""
    return (TextPart(text=f"Nothing was run: {action.problem} {action.remedy}\n"),)


def refused_report(reason: str) -> tuple[Part, ...]:
    """A person did not let the code run."""
    why = f" They say: {reason.strip()}" if reason.strip() else ""
    return (TextPart(text=f"Nothing was run: the user did not allow this code.{why} Try another way, or answer.\n"),)


def edited_report(code: str, edited: bool) -> tuple[Part, ...]:
    """What ran in place of the model's code, where a person changed it."""
    if not edited:
        return ()
    return (
        TextPart(text=f"The user changed your code before it ran. This is what ran:\n```python\n{_line(code)}```\n"),
    )


LAST_MESSAGE = "This is your last message: answer now, without running more code.\n"
"""Said when a limit is near, so that the model answers instead of being cut."""


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
