"""Frozen dataclasses of `kernel_agent.types` to JSON and back, exactly.

Guarantees: what `decode` returns equals what `encode` was given; the JSON holds no lone surrogate (Python could not write
it as UTF-8), no NaN and no integer above 2**53 (JavaScript would round it), so the values outlive JupyterLab. Such
values are written as one-key objects (`{"$text": ...}`). Not guaranteed: inside a free `Json` field tuples come back
as lists and keys that are not strings as strings.

A class that is one arm of a union carries its name in `TAGS` under "type". A `KernelImage` is never encoded here: the
caller passes `refer` and `resolve` (see records.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from kernel_agent import types as t
from kernel_agent.errors import TrajectoryError
from kernel_agent.types import Json, KernelImage

T = TypeVar("T")
Refer = Callable[[KernelImage], Json]
Resolve = Callable[[Json], KernelImage]

TAGS: dict[type, str] = {
    t.RunCode: "run_code",
    t.Answer: "answer",
    t.Malformed: "malformed",
    t.StreamOutput: "stream",
    t.TextOutput: "text",
    t.ImageOutput: "image",
    t.ErrorOutput: "error",
    t.TextPart: "text",
    t.ImagePart: "image",
}
_EXACT = 2**53


def no_image(_: Any) -> Any:
    """The `refer` and `resolve` of values that hold no image."""
    raise TrajectoryError("an image stands where none can")


def encode(value: Any, refer: Refer = no_image) -> Json:
    """JSON for a dataclass of `kernel_agent.types`, or for anything `json.dumps` takes."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, str):
        return str(value) if _is_text(value) else {"$text": value.encode("unicode_escape").decode("ascii")}
    if isinstance(value, int):
        return int(value) if -_EXACT <= value <= _EXACT else {"$int": str(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, KernelImage):
        return refer(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = TAGS.get(type(value))
        out: dict[str, Json] = {} if tag is None else {"type": tag}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if not _is_empty_default(field, item):
                out[field.name] = encode(item, refer)
        return out
    if isinstance(value, Mapping):
        return {text(str(key)): encode(item, refer) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item, refer) for item in value]
    raise TypeError(f"{type(value).__name__} is no JSON value: {value!r:.80}")


def decode(kind: type[T], value: Json, resolve: Resolve = no_image, where: str = "record") -> T:
    """The dataclass `kind` that `encode` wrote. TrajectoryError, naming the place, for anything else."""
    result: T = _decode(kind, value, resolve, where)
    return result


def plain(value: Json) -> Json:
    """A free JSON value as `encode` wrote it, with its exact numbers and texts back."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        key, item = next(iter(value.items()))
        try:
            if key == "$text" and isinstance(item, str):
                return item.encode("ascii").decode("unicode_escape")
            if key in ("$int", "$float"):
                return int(item) if key == "$int" else float(item)
        except (TypeError, ValueError):
            pass  # somebody's own object that only looks like one of ours
    return {key: plain(item) for key, item in value.items()}


def text(value: str) -> str:
    """`value` with lone surrogates replaced, for places where a person reads it."""
    return value if _is_text(value) else value.encode("utf-8", "replace").decode("utf-8")


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_empty_default(field: dataclasses.Field[Any], item: Any) -> bool:
    """Only empty defaults are left out: any other may change in a later version, and the record must not."""
    if field.default_factory is dict:
        return bool(item == {})
    return (item is None and field.default is None) or (item in ((), "") and item == field.default)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Json, resolve: Resolve, where: str) -> Any:
    if kind is Any:
        return plain(value)
    if kind is KernelImage:
        return resolve(value)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(args, value, resolve, where)
    if origin is Literal:
        return value if value in args else _fail(where, f"one of {args}", value)
    if origin is tuple:
        if not isinstance(value, list):
            _fail(where, "a list", value)
        each = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(each) != len(value):
            _fail(where, f"{len(each)} items", value)
        return tuple(_decode(k, v, resolve, f"{where}[{i}]") for i, (k, v) in enumerate(zip(each, value, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        whole = plain(value)
        return whole if isinstance(whole, dict) else _fail(where, "an object", value)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, resolve, where)
    return _decode_scalar(kind, value, where)


def _decode_union(args: tuple[Any, ...], value: Json, resolve: Resolve, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    arms = [arm for arm in args if arm is not type(None)]
    if len(arms) == 1:
        return _decode(arms[0], value, resolve, where)
    tag = value.get("type") if isinstance(value, dict) else None
    for arm in arms:
        if TAGS.get(arm) == tag:
            return _decode(arm, value, resolve, where)
    return _fail(where, "one of " + ", ".join(TAGS[arm] for arm in arms), tag)


def _decode_dataclass(kind: Any, value: Json, resolve: Resolve, where: str) -> Any:
    if not isinstance(value, dict):
        _fail(where, f"an object ({kind.__name__})", value)
    given = {key: item for key, item in value.items() if not (key == "type" and kind in TAGS)}
    hints = _hints(kind)
    if unknown := sorted(given.keys() - hints.keys()):
        raise TrajectoryError(f"{where} has the unknown field {unknown[0]!r}: written by another version?")
    items = {key: _decode(hints[key], item, resolve, f"{where}.{key}") for key, item in given.items()}
    try:
        return kind(**items)
    except TypeError as error:  # a field is missing
        raise TrajectoryError(f"{where} is incomplete: {error}") from error


def _decode_scalar(kind: Any, value: Json, where: str) -> Any:
    value = plain(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)  # JavaScript writes 1.0 as 1
        except OverflowError:
            return _fail(where, "a number that a float can hold", value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError:
            return _fail(where, f"one of {', '.join(kind)}", value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    return _fail(where, getattr(kind, "__name__", str(kind)), value)


def _fail(where: str, expected: str, found: Json) -> typing.NoReturn:
    raise TrajectoryError(f"{where}: expected {expected}, found {found!r:.80}")
