"""What a notebook and a journal say about a trajectory, as JSON: the one schema, with its version.

Image bytes are not in here: a record names them by SHA-256, and the notebook (attachments, outputs, views) or the
journal (blobs) holds them once. Messages refer to images by index and view hash, so that no request repeats bytes. Only
an image that was shown under a known label but with other bytes (a counterfactual) carries them along.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kernel_agent.errors import TrajectoryError
from kernel_agent.redact import redact, redact_text
from kernel_agent.trajectory.codec import decode, encode
from kernel_agent.types import Event, ImageOutput, Json, KernelImage, Step, StopReason

SCHEMA = 1
"""Version of everything under the metadata key `codevision` and of the journal's records."""

Fetch = Callable[[str], bytes]
"""Bytes for a SHA-256; TrajectoryError where there are none."""

_BYTES = ("data", "view")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and what came of it: the steps from `first_step` up to the next turn's.

    `answer` and `stop_reason` are None while the turn is open; `started` is in seconds since the epoch.
    """

    question: str
    first_step: int
    answer: str | None = None
    stop_reason: StopReason | None = None
    started: float = 0.0
    seconds: float = 0.0


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def to_base64(data: bytes) -> str:
    """Base64 as JSON text."""
    return base64.b64encode(data).decode("ascii")


class Images(Mapping[int, KernelImage]):
    """All images of a trajectory by index, with the hashes of their bytes (computed once)."""

    def __init__(self) -> None:
        self._images: dict[int, KernelImage] = {}
        self._hashes: dict[int, tuple[str, str]] = {}
        self.aliases: dict[str, str] = {}
        """Recorded hash to actual one, for files that were encoded anew with the same pixels (a notebook run again)."""
        self.exact_again: set[int] = set()
        """Images that were recorded with loss, and that the same notebook, run again, holds without."""

    def __getitem__(self, index: int) -> KernelImage:
        return self._images[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: KernelImage) -> None:
        """Take in a new image, without credentials in its source. ValueError where the label is taken by another one or is no plain word."""
        image = clean_image(image)
        if not _NAME.fullmatch(image.name):
            raise ValueError(f"image {image.index} is named {image.name[:80]!r}: a name is a plain word, as in image_0")
        if image.index in self._images:
            if self._images[image.index] != image:
                raise ValueError(f"image {image.index} is there already: every image has its own index")
            return
        data = sha256(image.data)
        self._hashes[image.index] = (data, data if image.view is image.data else sha256(image.view))
        self._images[image.index] = image

    def hashes(self, index: int) -> tuple[str, str]:
        """SHA-256 of data and of view."""
        return self._hashes[index]

    def index_of(self, image: int | str) -> int:
        """The index of an image given by index or name. LookupError where there is none."""
        for index, known in self._images.items():
            if image in (index, known.name):
                return index
        names = ", ".join(known.name for known in self._images.values()) or "none"
        raise LookupError(f"there is no image {image!r} in this run; it has {names}")

    def record(self, image: KernelImage) -> Json:
        """All about a known image but its bytes."""
        data, view = self._hashes[image.index]
        return _describe(self._images[image.index], data, view)

    def refer(self, image: KernelImage) -> Json:
        """A reference for messages; with the bytes where they are not those known under this index."""
        image = clean_image(image)
        known = self._images.get(image.index)
        if known is image or known == image:
            return {"index": image.index, "view_sha256": self._hashes[image.index][1]}
        record = _describe(image, sha256(image.data), sha256(image.view))
        return record | {"data": to_base64(image.data), "view": to_base64(image.view)}

    def resolve(self, reference: Json) -> KernelImage:
        """The image that `refer` wrote about."""
        if not isinstance(reference, dict) or not isinstance(index := reference.get("index"), int):
            raise TrajectoryError(f"{reference!r:.80} is no reference to an image")
        if "data" in reference:
            return _read_carried(reference)
        digest = str(reference.get("view_sha256"))
        if index not in self._images or self._hashes[index][1] != self.aliases.get(digest, digest):
            raise TrajectoryError(f"a message shows image {index}, which the record does not have in that form")
        return self._images[index]


def read_image(record: Json, fetch: Fetch) -> KernelImage:
    """The image of a record, its bytes by hash."""
    if not isinstance(record, dict):
        raise TrajectoryError(f"{record!r:.80} is no record of an image")
    rest = {key: value for key, value in record.items() if not key.endswith("data_sha256") and key != "view_sha256"}
    hints = {field.name for field in fields(KernelImage)} - set(_BYTES)
    if unknown := sorted(rest.keys() - hints):
        raise TrajectoryError(f"image {record.get('index')} has the unknown field {unknown[0]!r}")
    try:
        data = fetch(record["data_sha256"])
        view = data if record["view_sha256"] == record["data_sha256"] else fetch(record["view_sha256"])
        bare = decode(_ImageRecord, rest, where=f"image {record.get('index')}")
    except KeyError as error:
        raise TrajectoryError(f"image {record.get('index')} lacks the field {error}") from error
    return KernelImage(data=data, view=view, **{field.name: getattr(bare, field.name) for field in fields(bare)})


def write_step(step: Step, images: Images) -> Json:
    """`{"images": records of the new ones, "step": ...}`; the images are known to `images` already."""
    return {"images": [images.record(image) for image in step.images], "step": encode(step, images.refer)}


def read_step(record: Json, images: Images, fetch: Fetch, where: str) -> Step:
    """The step that `write_step` wrote; its images are added to `images`."""
    if not isinstance(record, dict) or not isinstance(new := record.get("images"), list):
        raise TrajectoryError(f"{where} holds no step")
    add_images(new, images, fetch, where)
    step = decode(Step, record.get("step"), images.resolve, where)
    for output in step.cell.outputs if step.cell is not None else ():
        if isinstance(output, ImageOutput) and output.index not in images:
            raise TrajectoryError(f"{where} shows image {output.index}, which the record does not have"[:300])
    return step


def add_images(records: Iterable[Json], images: Images, fetch: Fetch, where: str) -> None:
    """Take in the images of these records. TrajectoryError, naming the place, where one cannot be."""
    for item in records:
        image = read_image(item, fetch)
        try:
            images.add(image)
        except ValueError as error:
            raise TrajectoryError(f"{where}: {error}") from error


def clean_image(image: KernelImage) -> KernelImage:
    """The image without credentials in its source."""
    source = redact_text(image.source)
    return image if source == image.source else replace(image, source=source)


def clean_event(event: Event) -> Event:
    """The event without secrets."""
    data = redact(event.data)
    return event if data == event.data else replace(event, data=data)


def clean_step(step: Step) -> Step:
    """The step with no secrets in its events and in what the server says of itself; what the model and the code wrote stays."""
    events = _clean_events(step.events)
    completion, cell = step.completion, step.cell
    said: dict[str, Any] = {
        name: getattr(completion, name) for name in ("response_id", "model", "finish_reason", "system_fingerprint")
    }
    clean: dict[str, Any] = {name: redact_text(text) for name, text in said.items()}
    if clean != said:
        completion = replace(completion, **clean)
    if (cleaned := _clean_events(completion.events)) != completion.events:
        completion = replace(completion, events=cleaned)
    if cell is not None and (cleaned := _clean_events(cell.events)) != cell.events:
        cell = replace(cell, events=cleaned)
    if events == step.events and completion is step.completion and cell is step.cell:
        return step
    return replace(step, events=events, completion=completion, cell=cell)


def _clean_events(events: Iterable[Event]) -> tuple[Event, ...]:
    return tuple(clean_event(event) for event in events)


@dataclass(frozen=True, kw_only=True)
class _ImageRecord:
    index: int
    name: str
    mime: str
    size: tuple[int, int]
    pixel_sha256: str
    view_mime: str
    view_size: tuple[int, int]
    parent: int | None = None
    affine: tuple[float, float, float, float, float, float] | None = None
    origin: str = "input"
    source: str = ""
    lossless: bool = True


def _describe(image: KernelImage, data_sha256: str, view_sha256: str) -> dict[str, Json]:
    names = [field.name for field in fields(KernelImage) if field.name not in _BYTES]
    if image.lossless:  # said only where it is not so, as versions that knew nothing else wrote it
        names.remove("lossless")
    record = {name: encode(getattr(image, name)) for name in names}
    return record | {"data_sha256": data_sha256, "view_sha256": view_sha256}


def _read_carried(record: dict[str, Json]) -> KernelImage:
    try:
        blobs = {sha256(blob): blob for blob in (base64.b64decode(record[key], validate=True) for key in _BYTES)}
        return read_image({key: value for key, value in record.items() if key not in _BYTES}, blobs.__getitem__)
    except (KeyError, TypeError, ValueError) as error:
        raise TrajectoryError(f"the bytes carried along with image {record.get('index')} are damaged") from error
