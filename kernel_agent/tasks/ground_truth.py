"""`GroundTruth`: one question about one picture and everything that is known of its right answer.

Written and read as a JSON object. Reading is strict: an unknown key, a missing one, or a value of the wrong form is an
InputError that names the field and the remedy, so that a file from somewhere else is never half understood.

Frames. The *shown* frame is the picture as the model gets it; the *canonical* one is the picture upright and undamaged.
Boxes are (left, top, right, bottom) in pixels of their frame. What is not here: pixels (see `dataset`), how an answer
is compared (rewards and benchmarks do that), and what the model did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from kernel_agent.errors import InputError
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.types import Box, Json, Size

_E = TypeVar("_E", bound=StrEnum)


class Kind(StrEnum):
    """What a question asks for. The first three are those of MVToolBench (paper, section 5)."""

    RECOGNITION = "recognition"  # the text of a line or paragraph named by how it starts or ends
    COUNTING = "counting"  # how often a word appears in it
    RETRIEVAL = "retrieval"  # something looked up in it: its shortest word, how many words it has
    READING = "reading"  # a field of a document, sign or label
    TABLE = "table"
    CHART = "chart"
    DIAL = "dial"
    GEOMETRY = "geometry"
    ORIENTATION = "orientation"  # how the picture is turned
    CHOICE = "choice"  # one of `choices`
    OTHER = "other"


class AnswerType(StrEnum):
    """How an answer is meant to be compared."""

    TEXT = "text"
    NUMBER = "number"
    CHOICE = "choice"  # a letter: A is the first of `choices`
    LIST = "list"


class Operation(StrEnum):
    """What can be done to a picture to answer: the paper's must-use tools (section 5).

    They name what is *applied to the shown picture*. Rotations are counter-clockwise, as `PIL.Image.rotate` counts.
    """

    ROTATE90 = "rotate90"
    ROTATE180 = "rotate180"
    ROTATE270 = "rotate270"
    FLIP_HORIZONTAL = "flip-horizontal"  # left and right change places
    FLIP_VERTICAL = "flip-vertical"
    CROP = "crop"


_OPERATION_OF = {
    Orientation.ROT90: Operation.ROTATE90,
    Orientation.ROT180: Operation.ROTATE180,
    Orientation.ROT270: Operation.ROTATE270,
    Orientation.FLIP_H: Operation.FLIP_HORIZONTAL,
    Orientation.FLIP_V: Operation.FLIP_VERTICAL,
}


def effect(operation: Operation) -> Orientation:
    """What an operation other than a crop does to an upright picture. Raises KeyError for a crop.

    >>> effect(Operation.ROTATE90)
    <Orientation.ROT90: 'rot90'>
    """
    return {done: orientation for orientation, done in _OPERATION_OF.items()}[operation]


def correction(orientation: Orientation) -> Operation | None:
    """The operation that puts a picture lying in `orientation` upright; None where it is upright.

    >>> correction(Orientation.ROT90)
    <Operation.ROTATE270: 'rotate270'>
    """
    return _OPERATION_OF.get(orientation.inverse)


class CorruptionKind(StrEnum):
    """Damage beyond the paper's orientations; `corruptions` applies it."""

    SKEW = "skew"
    PERSPECTIVE = "perspective"
    BLUR = "blur"
    NOISE = "noise"
    JPEG = "jpeg"
    LOW_LIGHT = "low-light"
    LOW_CONTRAST = "low-contrast"
    OCCLUSION = "occlusion"


@dataclass(frozen=True, kw_only=True, slots=True)
class Corruption:
    """One kind of damage, 1 (slight) to 5 (heavy), drawn from `seed`. Applied to the picture before its orientation."""

    kind: CorruptionKind
    severity: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.severity <= 5:
            raise InputError(f"corruption severity {self.severity}: give 1 (slight) to 5 (heavy)")


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundTruth:
    """A question with its answer.

    Attributes:
        id: unique in its dataset; letters, digits, `-`, `_` and `.`, so that it can name a file.
        question: as the model is asked, choices included where there are some.
        answers: every text that is right; the first is the one to show. Never empty.
        image: path of the picture. In a file relative to that file; `dataset` returns it absolute. None where the
            picture travels otherwise.
        size: (width, height) of the shown picture.
        orientation: what was done to the canonical picture.
        corruptions: what was done to it before that, in order.
        target: where the answer is, in the shown frame; None where a place makes no sense or is not known.
        canonical_target: the same in the canonical frame. Under a skew or perspective `target` is the bounding box
            of where it comes to lie.
        required: operations without which the question cannot be answered, in the order of the paper: orientation, crop.
        suggested: operations that may help.
        choices: texts of a multiple choice, without letters.
        source: where it comes from ("generator:receipt", "hiertext:<image id>", "ocrbench").
        split: "train", "test", ...
        category: subset as its source names it.
        extra: what a source's own scorer needs besides. Nothing else reads it.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    kind: Kind = Kind.OTHER
    answer_type: AnswerType = AnswerType.TEXT
    image: str | None = None
    size: Size | None = None
    orientation: Orientation = Orientation.UPRIGHT
    corruptions: tuple[Corruption, ...] = ()
    target: Box | None = None
    canonical_target: Box | None = None
    required: tuple[Operation, ...] = ()
    suggested: tuple[Operation, ...] = ()
    choices: tuple[str, ...] = ()
    source: str = ""
    split: str = "train"
    category: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id or not all(c.isalnum() or c in "-_." for c in self.id) or self.id.startswith("."):
            raise _wrong("id", self.id, "give a name of letters, digits, '-', '_' and '.', not starting with '.'")
        if not self.question.strip():
            raise _wrong("question", self.question, "give a text")
        if not self.answers:
            raise _wrong("answers", self.answers, "give at least one right answer")
        if self.size is not None and min(self.size) < 1:
            raise _wrong("size", self.size, "give width and height in pixels, or leave it out")
        for name in ("target", "canonical_target"):
            box = getattr(self, name)
            if box is not None and not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
                raise _wrong(name, box, "give left < right and top < bottom in pixels, or leave it out")
        for name in ("required", "suggested"):
            operations = getattr(self, name)
            if len(set(operations)) != len(operations):
                raise _wrong(name, operations, "name each operation once")

    def to_json(self) -> dict[str, Json]:
        """A JSON object; fields that have their default are left out."""
        out: dict[str, Json] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("id", "question", "answers") and value in (item.default, {}):
                continue
            if item.name == "corruptions":
                value = [{"kind": str(c.kind), "severity": c.severity, "seed": c.seed} for c in value]
            elif isinstance(value, StrEnum):
                value = str(value)
            elif isinstance(value, tuple):
                value = [str(v) if isinstance(v, StrEnum) else v for v in value]
            elif isinstance(value, Mapping):
                value = dict(value)
            out[item.name] = value
        return out

    @classmethod
    def from_json(cls, given: str | Mapping[str, Json]) -> GroundTruth:
        """The inverse of `to_json`; takes the object or its text. Raises InputError that names the field."""
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except json.JSONDecodeError as error:
                raise InputError(f"a task that is no JSON ({error}): give one JSON object") from None
        if not isinstance(given, Mapping):
            raise InputError(f"a task that is a {type(given).__name__}: give a JSON object")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise InputError(
                f"task field {unknown[0]!r} is unknown: leave it out or put it into extra ({sorted(known)})"
            )
        if missing := sorted({"id", "question", "answers"} - set(given)):
            raise InputError(f"task field {missing[0]!r} is missing: every task has an id, a question and answers")
        read: dict[str, Any] = {name: _READERS[name](name, value) for name, value in given.items()}
        return cls(**read)


def _wrong(name: str, value: object, remedy: str) -> InputError:
    return InputError(f"task field {name}={value!r:.200}: {remedy}")


def _text(name: str, value: Json) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "give a text")
    return value


def _path(name: str, value: Json) -> str | None:
    return None if value is None else _text(name, value)


def _texts(name: str, value: Json) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise _wrong(name, value, "give a list of texts")
    return tuple(value)


def _numbers(name: str, value: Json, count: int) -> tuple[float, ...]:
    good = isinstance(value, list | tuple) and len(value) == count
    if not good or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise _wrong(name, value, f"give a list of {count} numbers, or leave it out")
    return tuple(value)


def _box(name: str, value: Json) -> tuple[float, ...] | None:
    return None if value is None else _numbers(name, value, 4)


def _size(name: str, value: Json) -> tuple[int, int] | None:
    if value is None:
        return None
    width, height = _numbers(name, value, 2)
    return int(width), int(height)


def _member(kind: type[_E], name: str, value: Json) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise _wrong(name, value, f"give one of {', '.join(kind)}") from None


def _operations(name: str, value: Json) -> tuple[Operation, ...]:
    return tuple(_member(Operation, name, item) for item in _texts(name, value))


def _corruptions(name: str, value: Json) -> tuple[Corruption, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, "give a list of objects with kind, severity and seed")
    out = []
    for item in value:
        if not isinstance(item, Mapping) or set(item) != {"kind", "severity", "seed"}:
            raise _wrong(name, item, "give an object with kind, severity and seed")
        if not all(isinstance(item[key], int) for key in ("severity", "seed")):
            raise _wrong(name, item, "severity and seed are whole numbers")
        out.append(
            Corruption(kind=_member(CorruptionKind, name, item["kind"]), severity=item["severity"], seed=item["seed"])
        )
    return tuple(out)


def _extra(name: str, value: Json) -> dict[str, Json]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "give an object")
    return dict(value)


_READERS: dict[str, Any] = {
    "id": _text,
    "question": _text,
    "answers": _texts,
    "kind": lambda name, value: _member(Kind, name, value),
    "answer_type": lambda name, value: _member(AnswerType, name, value),
    "image": _path,
    "size": _size,
    "orientation": lambda name, value: _member(Orientation, name, value),
    "corruptions": _corruptions,
    "target": _box,
    "canonical_target": _box,
    "required": _operations,
    "suggested": _operations,
    "choices": _texts,
    "source": _text,
    "split": _text,
    "category": _text,
    "extra": _extra,
}
