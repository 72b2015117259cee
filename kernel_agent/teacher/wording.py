"""What the teacher says: short thoughts that name what can be seen and what is done about it, and the message's tags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from kernel_agent.tasks.ground_truth import GroundTruth, Kind, Operation
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.vocabulary import choose

_LIES: Mapping[Orientation, Sequence[str]] = {
    Orientation.UPRIGHT: ("The picture is upright.", "Everything stands as it should."),
    Orientation.ROT90: (
        "The text runs upwards: the picture lies on its left side.",
        "Lines read from bottom to top, so the picture was turned a quarter to the left.",
    ),
    Orientation.ROT180: (
        "The text is upside down, and reads from right to left: the picture was turned half round.",
        "Everything stands on its head, and nothing is mirrored.",
    ),
    Orientation.ROT270: (
        "The text runs downwards: the picture lies on its right side.",
        "Lines read from top to bottom, so the picture was turned a quarter to the right.",
    ),
    Orientation.FLIP_H: (
        "The letters are mirrored, left and right have changed places.",
        "Lines start at the right and every letter is back to front: a mirror image.",
    ),
    Orientation.FLIP_V: (
        "The letters stand on their heads but still read from left to right: the picture is flipped top to bottom.",
        "It looks like a reflection in water: flipped top to bottom.",
    ),
}
_DO: Mapping[Operation, Sequence[str]] = {
    Operation.ROTATE90: ("A quarter turn to the left puts it upright.", "I rotate it by 90 degrees counter-clockwise."),
    Operation.ROTATE180: ("Half a turn puts it upright.", "I rotate it by 180 degrees."),
    Operation.ROTATE270: (
        "A quarter turn to the right puts it upright.",
        "I rotate it by 270 degrees counter-clockwise.",
    ),
    Operation.FLIP_HORIZONTAL: ("Mirroring it puts that right.", "I mirror it left to right."),
    Operation.FLIP_VERTICAL: ("Flipping it top to bottom puts that right.", "I flip it upside down again."),
}
_DESCRIBED: Mapping[str, Sequence[str]] = {
    Operation.ROTATE90: ("rotate by 90 degrees", "turn a quarter to the left"),
    Operation.ROTATE180: ("rotate by 180 degrees", "turn upside down"),
    Operation.ROTATE270: ("rotate by 270 degrees", "turn a quarter to the right"),
    Operation.FLIP_HORIZONTAL: ("mirror", "flip left to right"),
    Operation.FLIP_VERTICAL: ("flip top to bottom", "flip vertically"),
    Operation.CROP: ("crop to the detail", "look closer"),
    "autocontrast": ("stretch the contrast", "more contrast"),
}


def call(thought: str, code: str, description: str, image_index: int) -> str:
    """A message of the native protocol with one call."""
    arguments = {"code": code, "description": description, "image_index": image_index}
    body = json.dumps({"name": "code_image_tool", "arguments": arguments}, ensure_ascii=False)
    return f"<think>{thought}</think>\n<tool_call>\n{body}\n</tool_call>"


def answer(thought: str, text: str) -> str:
    """The last message of the native protocol."""
    return f"<think>{thought}</think>\n<answer>{text}</answer>"


def described(rng: np.random.Generator, tool: str) -> str:
    """A few words for the call's description."""
    return choose(rng, _DESCRIBED[tool])


def lies(rng: np.random.Generator, orientation: Orientation) -> str:
    """How the picture lies."""
    return choose(rng, _LIES[orientation])


def put_right(rng: np.random.Generator, operation: Operation) -> str:
    """What is done about it."""
    return choose(rng, _DO[operation])


def closer(rng: np.random.Generator, *, enlarge: bool, narrower: bool) -> str:
    """Why a crop."""
    if narrower:
        first = choose(rng, ("The part I need is in here, still small.", "That is the right place; I narrow it down."))
    else:
        first = choose(rng, ("What I need is small print.", "The place is clear, but it is too small to be sure."))
    then = ("I crop to it and enlarge it.", "I cut it out, larger.") if enlarge else ("I crop to it.", "I look closer.")
    return f"{first} {choose(rng, then)}"


def read(rng: np.random.Generator, task: GroundTruth, seen: str | None) -> str:
    """How the answer comes about. `seen` is the text at the place, where that is known."""
    shown = task.answers[0]
    if seen and task.kind in (Kind.RECOGNITION, Kind.COUNTING, Kind.RETRIEVAL):
        end = {
            Kind.RECOGNITION: "That is the whole of it.",
            Kind.COUNTING: f"Counting gives {shown}.",
            Kind.RETRIEVAL: f"So the answer is {shown}.",
        }[task.kind]
        return f'It reads: "{seen}" {end}'
    if task.kind is Kind.READING and seen:
        return choose(rng, (f'It says "{seen}".', f'Now it can be read: "{seen}".'))
    return choose(rng, (f"I read it off: {shown}.", f"Working it out from what is shown gives {shown}."))


_AGAIN: Mapping[str, Sequence[str]] = {
    "wrong-turn": (
        "That was not it: the text still cannot be read. I go back to the first picture.",
        "No, this is wrong as well. I start again from the original.",
    ),
    "code-error": (
        "That call failed; the message says why. I write it again.",
        "My code was wrong. Once more, properly.",
    ),
    "missed-crop": (
        "That window missed it: the text I need is not in it.",
        "What I need is outside this crop. I move it.",
    ),
    "bad-call": ("There is no such image. I count again.", "I named an image that does not exist."),
}


def again(rng: np.random.Generator, mistake: str) -> str:
    """What is said after a mistake was seen."""
    return choose(rng, _AGAIN[mistake])
