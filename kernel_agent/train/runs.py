"""Runs to learn from, out of what they are kept in: supervised runs (JSON) and saved notebooks.

A `Run` is what an agent of ours sent and got: the messages each request added, and what was written. Rows of `codevision data sft`
hold that word for word. Rows of CodeVision-SFT as it was released are retold: our system prompt, our labels under the images
(the released tool's sentence is left out), the errors in the released words. A row or a file that cannot be used is a `Problem` with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kernel_agent import prompts
from kernel_agent.errors import CodeVisionError, InputError
from kernel_agent.protocols import Protocol, get_protocol
from kernel_agent.session.images import ViewBounds, load_image, make_view
from kernel_agent.tasks.released.codevision_sft import Conversation, read_conversation
from kernel_agent.tasks.released.pictures import Picture
from kernel_agent.tasks.released.rows import Found, Problem, RowError, data_files, read_rows
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, ImagePart, KernelImage, Message, Part, Status, TextPart

NOTEBOOK = "notebook"
"""Kind of a run that says none."""
_ROWS = (".json", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One model call: the messages that its request added, and what was written.

    `mistake`: it went wrong, on purpose or not.
    """

    messages: tuple[Message, ...]
    completion: Completion
    mistake: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run `index` of a file. `kind` is the supervised run's type; `again` reads it anew, so that nobody need hold its images."""

    file: str
    index: int
    kind: str
    protocol: Protocol
    exchanges: tuple[Exchange, ...]
    again: Callable[[], Run]

    def problem(self, reason: str) -> Problem:
        """Why something of this run is left out."""
        return Problem(file=self.file, index=self.index, reason=reason)


def files_of(sources: Iterable[Path]) -> list[Path]:
    """The files meant: JSON, notebooks, or what a folder has of them (of both, the JSON). InputError where there is none."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            ours = source / "sft.jsonl"
            notebooks = sorted(source.rglob("*.ipynb"))
            rows = [ours] if ours.is_file() else [] if notebooks else data_files(source, _ROWS)
            found += rows or notebooks
        elif source.suffix.lower() == ".ipynb" and source.is_file():
            found.append(source)
        else:
            found += data_files(source, (*_ROWS, ".ipynb"))
    return list(dict.fromkeys(found))


def places(files: Iterable[Path]) -> Iterator[Path | Found | Problem]:
    """Where each run stands: a notebook, a row; and what is neither."""
    for file in files:
        if file.suffix.lower() == ".ipynb":
            yield file
        else:
            yield from read_rows(file, _ROWS)


def read_run(place: Path | Found | Problem) -> Run | Problem:
    """The run that stands there, or why it cannot be used."""
    try:
        if isinstance(place, Found):
            return read_row(place)
        return read_notebook(place) if isinstance(place, Path) else place
    except (RowError, CodeVisionError) as error:
        return (
            place.problem(error) if isinstance(place, Found) else Problem(file=str(place), index=0, reason=str(error))
        )


def read_notebook(path: Path) -> Run:
    """A saved run, all its turns. Raises TrajectoryError; InputError where the model wrote nothing."""
    trajectory = Trajectory.load(path)
    if not trajectory.steps:
        raise InputError("a run without a step: there is nothing to learn")
    exchanges = tuple(
        Exchange(
            messages=step.new_messages,
            completion=step.completion,
            mistake=step.observation is not None and step.observation.status is not Status.OK,
        )
        for step in trajectory.steps
    )
    protocol = get_protocol(str(trajectory.header.get("protocol", "native")))
    return Run(
        file=str(path),
        index=0,
        kind=NOTEBOOK,
        protocol=protocol,
        exchanges=exchanges,
        again=partial(read_notebook, path),
    )


def read_row(found: Found) -> Run:
    """A row of supervised runs. RowError and ImageError say what is wrong with it."""
    row, protocol = read_conversation(found), get_protocol("native")
    said = [str(turn.get("value") or "") for turn in found.row["conversations"]]
    ours = said[0].startswith(f"<image>{protocol.names(0)}: ")
    images = [_image(index, picture, retold=not ours) for index, picture in enumerate(row.images)]
    waiting = iter(images)
    told = [
        _parts(text, waiting) if ours else _retold(text, waiting, index > 0) for index, text in enumerate(said[::2])
    ]
    mistakes = row.metadata.get("mistakes")
    exchanges: list[Exchange] = []
    new: tuple[Message, ...] = (
        Message(role="system", content=(TextPart(text=protocol.system()),)),
        Message(role="user", content=told[0]),
    )
    for index, text in enumerate(said[1::2]):
        completion = Completion(text=text)
        wrong = isinstance(mistakes, dict) and str(index) in mistakes
        exchanges.append(Exchange(messages=new, completion=completion, mistake=wrong))
        if index + 1 < len(told):
            new = (protocol.reply(completion), *protocol.observe(completion, told[index + 1]))
    return Run(
        file=str(found.file),
        index=found.index,
        kind=_kind(row),
        protocol=protocol,
        exchanges=tuple(exchanges),
        again=partial(read_row, found),
    )


def _kind(row: Conversation) -> str:
    if given := row.metadata.get("type"):
        return str(given)
    return "tool" if any(turn.call for turn in row.turns) else "no-tool"


def _parts(text: str, images: Iterator[KernelImage]) -> tuple[Part, ...]:
    """A text with placeholders, as the parts it was made of."""
    before, *after = text.split("<image>")
    parts: list[Part] = [TextPart(text=before)]
    for piece in after:
        parts += [ImagePart(image=next(images)), TextPart(text=piece)]
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)


def _retold(text: str, images: Iterator[KernelImage], report: bool) -> tuple[Part, ...]:
    """The released question or report in our words."""
    shown = [next(images) for _ in range(text.count("<image>"))]
    rest = text.replace("<image>", "").strip()
    if not report:
        return prompts.question(rest, shown)
    return prompts.question("", shown)[:-1] if shown else (TextPart(text=f"{rest}\n"),)


def _image(index: int, picture: Picture, *, retold: bool) -> KernelImage:
    """An image of a row, read when it is looked at. What is kept of our own runs is what the model saw; others are scaled to that."""
    name = f"image_{index}"
    if not retold:
        return KernelImage.later(partial(_view, picture), index=index, name=name, mime="", size=(0, 0), pixel_sha256="",
                                 view_mime="", view_size=(0, 0))  # fmt: skip
    loaded = load_image(picture)
    view = make_view(loaded.pil, loaded.data, loaded.mime, ViewBounds())
    return KernelImage(index=index, name=name, data=b"", mime=loaded.mime, size=loaded.pil.size, pixel_sha256="",
                       view=view.data, view_mime=view.mime, view_size=view.size)  # fmt: skip


def _view(picture: Picture, _: str) -> dict[str, Any]:
    return {"view": picture if isinstance(picture, bytes) else picture.read_bytes()}
