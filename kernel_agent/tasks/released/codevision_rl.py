"""The rows of CodeVision-RL (`train_group_1..4.parquet`) and MVToolBench, which share one schema (digest sections 8.2, 8.3).

Taken in every variant seen: `prompt` a list of messages, its JSON, or a bare string, with or without one system message;
images as dicts, bytes or paths; `transform` a list, string, JSON, dict (its keys) or missing; `bbox` or `bbox_2d`, in
`extra_info` or beside it; `ground_truth` a string, number or list of aliases; any column missing but the images, the
question and the truth. Parquet pads the dicts of a column to one set of keys: keys that are None are left out.

What the boxes mean is not known for certain: in MVToolBench they look like boxes of the image as it is given (section 8.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.released.pictures import Picture, read_picture
from kernel_agent.tasks.released.rows import Found, Problem, Row, RowError, read_rows
from kernel_agent.types import Box, Json

ORIENTATIONS: Mapping[str, Orientation] = {
    "rotate_90": Orientation.ROT90,
    "rotate_180": Orientation.ROT180,
    "rotate_270": Orientation.ROT270,
    "flip_horizontal": Orientation.FLIP_H,
    "flip_vertical": Orientation.FLIP_V,
}
"""What the data sets call the transforms that were done to the upright image."""


@dataclass(frozen=True, kw_only=True)
class ReleasedTask:
    """One row.

    Attributes:
        id: the row's own index and where it stands, unique within a folder.
        question: of the user, without image placeholders.
        truths: every answer that counts; `is_list` says that the file had a list (the released judge sees it whole).
        transforms: as named in the file, in its order: orientations and "crop".
        box: as in the file, in pixels; None where there is none.
        system: the data set's system message; the paper's code replaces it.
        style: of `reward_model`: "rule" or "model" (a judge), or "".
        extra: columns and fields that are not read here.
    """

    id: str
    question: str
    images: tuple[Picture, ...]
    truths: tuple[str, ...]
    is_list: bool = False
    transforms: tuple[str, ...] = ()
    box: Box | None = None
    system: str | None = None
    source: str = ""
    style: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def orientation(self) -> Orientation:
        """How the image lies; UPRIGHT where no orientation is named."""
        return next((ORIENTATIONS[name] for name in self.transforms if name in ORIENTATIONS), Orientation.UPRIGHT)


def load(path: Path) -> Iterator[ReleasedTask | Problem]:
    """Every row of a parquet (or JSON) file, or of a folder of them. Raises InputError where there is no such file."""
    for found in read_rows(path):
        if isinstance(found, Problem):
            yield found
            continue
        try:
            yield read_task(found)
        except RowError as error:
            yield found.problem(error)


def read_task(found: Found) -> ReleasedTask:
    """One row as a task. RowError says what cannot be used."""
    row = found.row
    extra = _object(row.get("extra_info"), "extra_info")
    reward = _object(row.get("reward_model"), "reward_model")
    system, question = _prompt(row.get("prompt"), extra.get("question"))
    truth = _first(reward.get("ground_truth"), row.get("ground_truth"), extra.get("answer"))
    truths = _truths(truth)
    images = _sequence(_first(row.get("images"), row.get("image")))
    if not images:
        raise RowError("no images")
    number = _first(extra.get("index"), row.get("index"), found.index)
    box = _first(extra.get("bbox"), extra.get("bbox_2d"), row.get("bbox"), row.get("bbox_2d"))
    known = {"extra_info", "reward_model", "prompt", "images", "image", "data_source"}
    return ReleasedTask(
        id=f"{found.file.stem}-{found.index}-{number}" if number != found.index else f"{found.file.stem}-{found.index}",
        question=question,
        images=tuple(read_picture(image, folder=found.file.parent) for image in images),
        truths=truths,
        is_list=not isinstance(truth, str | int | float),
        transforms=_transforms(_first(extra.get("transform"), row.get("transform"))),
        box=_box(box),
        system=system,
        source=str(_first(row.get("data_source"), extra.get("dataset_name"), "")),
        style=str(reward.get("style") or ""),
        extra={**{key: value for key, value in row.items() if key not in known}, "extra_info": extra},
    )


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _parsed(value: Any) -> Any:
    """JSON text as what it says; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value.tolist() if hasattr(value, "tolist") else value


def _object(value: Any, name: str) -> Row:
    value = _parsed(value)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError(f"{name} is a {type(value).__name__}, not an object")
    return value


def _sequence(value: Any) -> Sequence[Any]:
    value = _parsed(value)
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _prompt(value: Any, fallback: Any) -> tuple[str | None, str]:
    """(system, question)."""
    value = _parsed(value)
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    system: list[str] = []
    user: list[str] = []
    for message in value or ():
        if not isinstance(message, Mapping) or message.get("role") not in ("system", "user"):
            raise RowError(f"a prompt message that is neither of the system nor of the user: {message!r:.80}")
        (system if message["role"] == "system" else user).append(_text(message.get("content")))
    if len(system) > 1 or len(user) > 1:
        raise RowError(
            f"a prompt of {len(system)} system and {len(user)} user messages: at most one of each is allowed"
        )
    question = (user[0] if user else str(fallback or "")).replace("<image>", "").strip()
    if not question:
        raise RowError("no question, neither in prompt nor in extra_info.question")
    return (system[0] if system else None), question


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part.get("text") or "" for part in content or () if isinstance(part, Mapping)]
    return "\n".join(filter(None, parts))


def _truths(value: Any) -> tuple[str, ...]:
    """A string is one answer, whatever it looks like; so is a number. A list is aliases."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    values = value if isinstance(value, list | tuple) else (value,)
    found = tuple(str(item) for item in values if item is not None and str(item).strip())
    if not found:
        raise RowError("no ground truth, neither in reward_model.ground_truth nor in extra_info.answer")
    return found


def _transforms(value: Any) -> tuple[str, ...]:
    value = _parsed(value)
    if isinstance(value, Mapping):
        value = [key for key, inner in value.items() if inner is not None]
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if value is not None and not isinstance(value, list | tuple):
        raise RowError(f"transform is a {type(value).__name__}: a list, string, object or nothing is known")
    names = tuple(str(item).strip() for item in value or () if item is not None)
    return tuple(name for name in names if name and name.lower() != "none")


def _box(value: Any) -> Box | None:
    value = _parsed(value)
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    try:
        x0, y0, x1, y1 = map(float, value)
    except (TypeError, ValueError) as error:
        raise RowError(f"a box that is not four numbers: {value!r:.60}") from error
    if not (x0 < x1 and y0 < y1):
        raise RowError(f"a box without area: {value!r:.60} (left, top, right, bottom is expected)")
    return (x0, y0, x1, y1)
