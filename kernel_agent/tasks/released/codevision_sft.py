"""CodeVision-SFT: `codevision_sft.json` and the unpacked `codevision_images/` beside it (digest section 8.4).

A conversation is taken when its turns alternate as the format says (human, then gpt and tool in turn, gpt last), every
call can be read, and the image placeholders of the text are as many as the images. Calls whose JSON is not strict are read
by JSON5 where that is installed (`kernel-agent[eval]`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from kernel_agent.tasks.released.pictures import Picture, read_picture
from kernel_agent.tasks.released.rows import Found, Problem, RowError, read_rows
from kernel_agent.types import Json

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of `code_image_tool`; `image_index` counts the images so far, inputs first."""

    code: str
    description: str
    image_index: int


@dataclass(frozen=True, kw_only=True)
class SFTTurn:
    """What the teacher wrote and, for a call, what the tool said; `text` is as written.

    Attributes:
        call, answer: exactly one is given, or neither in a turn that only thinks.
        response: of the tool, without its image placeholder; None where no tool was called.
        image: index of the picture that came back, or None (an error, an answer).
    """

    text: str
    thought: str
    call: Call | None = None
    answer: str | None = None
    response: str | None = None
    image: int | None = None


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One supervised trajectory; `images` are the inputs, then each tool image in order."""

    id: str
    system: str
    question: str
    images: tuple[Picture, ...]
    inputs: int
    turns: tuple[SFTTurn, ...]
    metadata: Mapping[str, Json] = field(default_factory=dict)


def load(path: Path) -> Iterator[Conversation | Problem]:
    """Every conversation of `codevision_sft.json` (or a folder that holds it). Raises InputError."""
    for found in read_rows(path, suffixes=(".json", ".jsonl")):
        if isinstance(found, Problem):
            yield found
            continue
        try:
            yield read_conversation(found)
        except RowError as error:
            yield found.problem(error)


def read_conversation(found: Found) -> Conversation:
    """One entry. RowError says what is wrong with it."""
    row = found.row
    said = row.get("conversations")
    if not isinstance(said, list) or len(said) < 2:
        raise RowError("no conversations, or one without a reply")
    speakers = [turn.get("from") if isinstance(turn, Mapping) else None for turn in said]
    expected = ["human", *("gpt" if k % 2 == 0 else "tool" for k in range(len(said) - 1))]
    if speakers != expected or speakers[-1] != "gpt":
        raise RowError(
            f"its speakers are {speakers}: human, then gpt and tool in turn, with gpt at the end, is expected"
        )
    texts = [str(turn.get("value") or "") for turn in said]
    inputs = texts[0].count("<image>")
    paths = row.get("images") or []
    shown = inputs + sum(text.count("<image>") for text, who in zip(texts, speakers, strict=True) if who == "tool")
    if not inputs or shown != len(paths):
        raise RowError(f"{shown} image placeholders (of these {inputs} in the question) for {len(paths)} images")
    turns: list[SFTTurn] = []
    have = inputs
    for index in range(1, len(texts), 2):
        response = texts[index + 1] if index + 1 < len(texts) else None
        turn = _turn(texts[index], response, have)
        have += turn.image is not None
        turns.append(turn)
    return Conversation(
        id=str(row.get("id") or f"{found.file.stem}-{found.index}"),
        system=str(row.get("system") or ""),
        question=texts[0].replace("<image>", "").strip(),
        images=tuple(read_picture(image, folder=found.file.parent) for image in paths),
        inputs=inputs,
        turns=tuple(turns),
        metadata=_metadata(row.get("metadata")),
    )


def _turn(text: str, response: str | None, have: int) -> SFTTurn:
    thought = "\n".join(match.strip() for match in _THINK.findall(text))
    rest = _THINK.sub("", text)
    calls, answers = _CALL.findall(rest), _ANSWER.findall(rest)
    if len(calls) > 1 or (calls and answers):
        raise RowError(f"a message with {len(calls)} calls and {len(answers)} answers: one of the two is allowed")
    if bool(calls) != (response is not None):
        raise RowError("a call without a tool's response" if calls else "a tool's response without a call")
    shows = response is not None and "<image>" in response
    if shows and response is not None and response.count("<image>") > 1:
        raise RowError("a tool's response with several images: one is expected")
    return SFTTurn(
        text=text,
        thought=thought,
        call=read_call(calls[0], images=have) if calls else None,
        answer=answers[-1].strip() if answers else None,
        response=response.replace("<image>", "").strip() if response is not None else None,
        image=have if shows else None,
    )


def read_call(text: str, *, images: int) -> Call:
    """The JSON of a call. An index that does not exist is kept: such conversations teach recovery."""
    value = _lenient(text)
    arguments = value.get("arguments") if isinstance(value, Mapping) else None
    if isinstance(arguments, str):
        arguments = _lenient(arguments)
    if not isinstance(arguments, Mapping) or value.get("name") != "code_image_tool":
        raise RowError(f"a call that is not of code_image_tool with arguments: {text.strip()!r:.80}")
    index = arguments.get("image_index", 0)
    if not isinstance(index, int | str) or not str(index).lstrip("-").isdigit():
        raise RowError(f"a call with image_index {index!r} ({images} images so far)")
    return Call(
        code=str(arguments.get("code") or ""),
        description=str(arguments.get("description") or ""),
        image_index=int(index),
    )


def _lenient(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except ValueError as strict:
        try:
            import json5
        except ImportError:
            raise RowError(f"a call whose JSON is not strict ({strict}): json5 may read it") from strict
        try:
            return json5.loads(text)
        except ValueError as error:
            raise RowError(f"a call whose JSON cannot be read ({error})") from error


def _metadata(value: Any) -> Mapping[str, Json]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {"text": value}
    return value if isinstance(value, Mapping) else {}
