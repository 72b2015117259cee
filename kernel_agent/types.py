"""The values that pass between the rooms of this package: frozen, keyword-only, without behaviour.

A `Task` (question and images) goes to the agent. Each `Step` holds the request that was new, the `Completion` as written,
the `Action` read out of it, the `CellResult` of the kernel and the `Observation` the model got back. What is *not*
here: how any of it is stored (trajectory/), sent (models/), parsed (protocols/) or run (session/).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kernel_agent.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Json: TypeAlias = Any
"""A value that `json.dumps` takes."""

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; (0, 0) is the outer corner of the top-left pixel, as in `PIL.Image.crop`."""

Affine: TypeAlias = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): a point (x, y) of an image lies at (a x + b y + c, d x + e y + f) of its parent, both in pixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO", "TGA", "JPEG2000")
"""The image formats, as Pillow names them, whose decoders may see a file that somebody else made: none runs a program (EPS does)."""


class Status(StrEnum):
    """How an action ended. Decided by the session and the protocol, never by searching text."""

    OK = "ok"
    ERROR = "error"  # the code raised
    TIMEOUT = "timeout"  # the cell ran past its deadline and was interrupted; state kept
    KILLED = "killed"  # the kernel died or had to be killed; good cells were replayed
    MALFORMED = "malformed"  # the model's message could not be read as one action; nothing ran
    REFUSED = "refused"  # a person did not let the code run


class StopReason(StrEnum):
    """Why a turn ended."""

    ANSWER = "answer"
    STEP_LIMIT = "step_limit"
    TIME_LIMIT = "time_limit"
    TOKEN_LIMIT = "token_limit"
    IMAGE_LIMIT = "image_limit"
    PIXEL_LIMIT = "pixel_limit"
    MALFORMED = "malformed"  # too many malformed messages in a row
    INTERRUPTED = "interrupted"  # Ctrl-C or cancel
    MODEL_ERROR = "model_error"
    KERNEL_ERROR = "kernel_error"
    CRASHED = "crashed"  # set by recovery: the process went away in the middle


@dataclass(frozen=True, kw_only=True)
class KernelImage:
    """One image that the kernel holds, the notebook shows and the prompt names, under one label.

    Attributes:
        index: position in the kernel's `images`.
        name: the one label: variable in the kernel, name in prompt and notebook (`image_0`, ...).
        data: the image at full size as a file: the given bytes for an input; for an output a PNG, or a JPEG where
            `ImageEncoding.notebook` asks for it.
        mime: media type of `data`.
        lossless: whether `data` has the very pixels that the kernel held; where not, only `pixel_sha256` speaks of those.
        size: full size after normalisation (EXIF orientation applied).
        pixel_sha256: SHA-256 over mode, size and raw pixels (`session.images.pixel_sha256`).
        view: what the model was shown, as a PNG or JPEG file; the same object as `data` where nothing was resized.
        view_mime, view_size: of `view`.
        parent: index of the image this one was made from, or None (an input, or unknown).
        affine: maps this image's coordinates to the parent's; None where unknown.
        origin: "input", or the step that made it ("step 2").
        source: for an input, what the user gave (file name or "PIL image"); never a secret.

    An image from a kernel holds its pixels and makes `data` and `view` when they are first asked for: most originals that
    were scaled down for the model, and all of a replay, never are. Nobody but `later` can tell the difference.
    """

    index: int
    name: str
    data: bytes = field(repr=False)
    mime: str
    size: Size
    pixel_sha256: str
    view: bytes = field(repr=False)
    view_mime: str
    view_size: Size
    parent: int | None = None
    affine: Affine | None = None
    origin: str = "input"
    source: str = ""
    lossless: bool = True

    @classmethod
    def later(cls, make: Callable[[str], Mapping[str, bytes]], **facts: Any) -> KernelImage:
        """An image whose `data` and `view` `make` gives by name, each alone or both at once."""
        image = cls(data=b"", view=b"", **facts)
        del image.__dict__["data"], image.__dict__["view"]
        image.__dict__["_make"] = make
        return image

    if not TYPE_CHECKING:  # only attributes that are missing come here

        def __getattr__(self, name: str) -> bytes:
            make = self.__dict__.get("_make")
            if make is None or name not in ("data", "view"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.__dict__.update(make(name))
            if {"data", "view"} <= self.__dict__.keys():
                self.__dict__.pop("_make", None)  # and with it the pixels
            return self.__dict__[name]

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to_pil(self) -> Image.Image:
        """Decode the full-size image (RGB, RGBA or L; EXIF orientation applied).

        Where `lossless` is False these are not the kernel's pixels, and their hash is not `pixel_sha256`.
        """
        from PIL import Image, ImageOps

        image = Image.open(io.BytesIO(self.data), formats=FORMATS)
        image.load()
        return ImageOps.exif_transpose(image)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {self.view_mime: self.view, "text/plain": repr(self)}


class Isolation(StrEnum):
    """How far the model's code is kept from the machine, strongest first.

    STRONG: namespaces of its own (files, processes, network, IPC, host name), Landlock, seccomp, limits. No file of the
    host but the read-only interpreter and libraries, no socket of the host, no process of the host, no network.
    Not contained: faults of the Linux kernel itself, and time: CPU is shared.

    MEDIUM: Landlock, seccomp and limits, without namespaces. No file outside the readable set, no network, no connection,
    no signal to and no tracing of other processes. Not contained: names and attributes of the host's files can be seen
    (stat, not read), its process ids too; a fork bomb is stopped by the host's watchdog, not by a limit, where the kernel
    runs as an ordinary user; processes that leave the kernel's process group outlive it. What fails there though it is
    harmless: multiprocessing pools and managers (they need /dev/shm and sockets), chmod and utime (which do nothing).

    CONTAINER: whatever Docker or Podman contains, with no network, no capability and a read-only image.

    NONE: an ordinary process.
    """

    STRONG = "strong"
    MEDIUM = "medium"
    CONTAINER = "container"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """How kernels come to life.

    Attributes:
        isolation: level the kernel must have; "auto" is the best that works here, never `none`.
        namespaces: who makes those of the level `strong`: the kernel's own process, or bubblewrap; "auto" is whoever can.
        fork: fork kernels from a warm parent where that can be had, else start each as a new process.
        memory_mb: memory of a kernel and all its processes, in MiB.
        provisioner: entry-point name of a `jupyter_client` kernel provisioner; the others apply to "codevision" only.
    """

    isolation: Isolation | Literal["auto"] = "auto"
    namespaces: Literal["auto", "own", "bubblewrap"] = "auto"
    fork: bool = True
    memory_mb: int = 4096
    provisioner: str = "codevision"


@dataclass(frozen=True, kw_only=True)
class ImageEncoding:
    """How the images that cells show are encoded. JPEG (quality 90) is lossy: a smaller notebook, less time, no exact pixels.

    Attributes:
        notebook: of `KernelImage.data`. With "jpeg", images with alpha stay PNG, and so do those of a cell that was
            interrupted or killed its kernel: it is not run again, so the kernel's state comes back from them.
        view: of what the model is shown of them, and of inputs that had to be resized.
    """

    notebook: Literal["png", "jpeg"] = "png"
    view: Literal["png", "jpeg"] = "png"

    def __post_init__(self) -> None:
        for name in ("notebook", "view"):
            if getattr(self, name) not in ("png", "jpeg"):
                raise InputError(f"image encoding {name}={getattr(self, name)!r}: take png or jpeg")


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}\{i\}[A-Za-z0-9_]{0,20}")
_LAST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a protocol names the images: `pattern` with `{i}` counted from `first`; a name is one that Python can have.

    `saved_files` are the styles that hand images over as files: every input is written to `<name>.png` in the kernel's
    folder and every picture the code saves counts as shown.
    """

    pattern: str = "image_{i}"
    first: int = 0
    saved_files: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.pattern):
            raise InputError(
                f"names.pattern {self.pattern[:80]!r} is none that names images: give letters, digits and _ around one {{i}},"
                " which comes after a letter"
            )
        if not 0 <= self.first <= _LAST:
            raise InputError(f"names.first={self.first!s:.20} is no number to count from: give one from 0 to {_LAST:,}")

    def __call__(self, index: int) -> str:
        """The label of image `index` (counted from 0)."""
        return self.pattern.replace("{i}", str(index + self.first))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question about images. `images` are what a user gives: paths, bytes, PIL images, arrays, data or http URIs."""

    question: str
    images: tuple[Any, ...]
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """Text of a message."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """An image of a message; `image.view` is what is sent."""

    image: KernelImage


Part: TypeAlias = TextPart | ImagePart
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool call as an OpenAI-compatible server reports it; `arguments` is the model's JSON text, unparsed."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One chat message. `tool_calls` on assistant messages and `tool_call_id` on tool messages, as in OpenAI's API."""

    role: Role
    content: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample. None means the server's own default. `max_tokens` caps one turn."""

    temperature: float | None = 0.0
    top_p: float | None = None
    max_tokens: int = 2048
    seed: int | None = 0
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens spent; `cached_tokens` are those of the prompt that the server had in its prefix cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a model is asked: the whole conversation, the tools it may call (OpenAI schema) and how to sample."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Json], ...] = ()
    sampling: Sampling = Sampling()


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """One sampled token and its natural-log probability."""

    token: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class RenderedPrompt:
    """The prompt as the model got it: what chat template, tokenizer and processor made of the request.

    Attributes:
        tokens: how many; each image counts with all the places that stand for it. What is in the images is not in here.
        tokens_sha256: SHA-256 over the token ids, each as four bytes, little-endian.
        text_sha256: SHA-256 over the chat template's text as UTF-8, images as the template marks them; "" where not told.
    """

    tokens: int
    tokens_sha256: str
    text_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What the model wrote.

    Attributes:
        text: as written, only lone surrogates replaced (then `raw_json` has the original as an ASCII JSON string).
        finish_reason: "stop", "length", "tool_calls", ... as the server says.
        model: the model's name as the server reports it.
        alternatives: texts of the other choices where `sampling.n` > 1.
        events: retries, re-uploads, truncations that happened on the way.
        seconds: wall time; `first_token_seconds` where streamed.
        uploaded_bytes: size of the request body(ies) sent for this completion.
        prompt: what the request was rendered to; None where the server does not tell.
        token_ids: the sampled tokens' ids in decimal, spaces between; "" where the server does not tell. What ended the
            text (an end token, a stop string) is among them.
        system_fingerprint: as OpenAI's API has it; of vLLM its version and a hash of its configuration.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""
    response_id: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    alternatives: tuple[str, ...] = ()
    raw_json: str | None = None
    events: tuple[Event, ...] = ()
    seconds: float = 0.0
    first_token_seconds: float | None = None
    uploaded_bytes: int = 0
    prompt: RenderedPrompt | None = None
    token_ids: str = ""
    system_fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened beside the plain course: a cut, a retry, an interrupt, a restart, a replay.

    `kind` is a short snake_case word, `time` seconds since the epoch, `data` what a reader needs to understand it.
    """

    kind: str
    time: float
    data: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunCode:
    """The model wants this Python run. `image_index` binds `image`/`img`/`draw` (native protocol); None binds nothing."""

    code: str
    description: str = ""
    image_index: int | None = None
    call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The model is done."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """The message is no single action. `problem` says what is wrong and `remedy` what to write instead."""

    problem: str
    remedy: str
    call_id: str | None = None


Action: TypeAlias = RunCode | Answer | Malformed


@dataclass(frozen=True, kw_only=True)
class StreamOutput:
    """Text a cell wrote; `dropped` characters were cut out of the middle."""

    name: Literal["stdout", "stderr"]
    text: str
    dropped: int = 0


@dataclass(frozen=True, kw_only=True)
class TextOutput:
    """text/plain of a last expression (`is_result`) or of display()."""

    text: str
    is_result: bool = False
    dropped: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageOutput:
    """An image a cell showed: index into the trajectory's images."""

    index: int
    is_result: bool = False


@dataclass(frozen=True, kw_only=True)
class ErrorOutput:
    """An exception; `traceback` is whole, one frame or more an item, without ANSI codes."""

    ename: str
    evalue: str
    traceback: tuple[str, ...]


Output: TypeAlias = StreamOutput | TextOutput | ImageOutput | ErrorOutput


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What running one cell gave.

    Attributes:
        source: the cell as it ran (the model's code, with the binding line the protocol put before it, if any).
        outputs: in the order shown; images by index.
        images: the new images, in order of index.
        seconds: from request to idle, recovery included.
        events: truncation, interrupt, kill, restart, replay.
    """

    source: str
    status: Status
    outputs: tuple[Output, ...] = ()
    images: tuple[KernelImage, ...] = ()
    execution_count: int | None = None
    seconds: float = 0.0
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What goes back to the model after an action: exactly these parts, in this order."""

    status: Status
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, images left out."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One model call and what came of it.

    Attributes:
        index: position in the trajectory, over all turns.
        new_messages: the messages of this request that the previous request did not have. Requests only ever grow, so
            the exact request is the concatenation up to here.
        thought: the completion without its action.
        action: as it was carried out: of code that a person changed, what ran.
        cell: None where nothing ran (an answer, a malformed message, a refusal).
        observation: None for an answer.
        seconds: whole step; `overhead_seconds` without model and cell.
    """

    index: int
    new_messages: tuple[Message, ...]
    completion: Completion
    thought: str
    action: Action
    cell: CellResult | None = None
    observation: Observation | None = None
    sampling: Sampling = Sampling()
    started: float = 0.0
    seconds: float = 0.0
    events: tuple[Event, ...] = ()

    @property
    def images(self) -> Sequence[KernelImage]:
        """The images this step made."""
        return self.cell.images if self.cell else ()


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of one turn (a question and its steps); `images` of the whole run. Each cut is logged in the trajectory.

    Attributes:
        steps: model calls.
        seconds: wall time of the turn.
        cell_seconds: wall time of one cell before it is interrupted.
        tokens: completion tokens over all steps.
        images: images made by the run, over all its turns.
        pixels: pixels shown to the model over all steps (views, not originals).
        output_chars: characters of one cell's text output kept for model and notebook (head and tail).
        malformed: malformed messages in a row before the turn ends.
    """

    steps: int = 12
    seconds: float = 600.0
    cell_seconds: float = 60.0
    tokens: int = 16_384
    images: int = 32
    pixels: int = 40_000_000
    output_chars: int = 10_000
    malformed: int = 3
