"""The part of a session that lives inside the kernel: images by name, and what the code shows.

Every picture a cell shows (last expression, display(), plt.show(), Image.show(), several in one cell) is appended to
`images`, bound to its name (`image_3`) and published with name, size and lineage: as raw pixels beside the message to a host of
ours, which encodes them once, and as a lossless PNG to any other. `start` sets this up in a kernel of ours;
`open_notebook` does the same in any Python kernel that re-runs a saved notebook. The names are bound anew before every cell, so code that deletes or overwrites them harms only its own cell.

Nothing here is trusted by the host: code in the kernel can change all of it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_agent.session import interrupts, lineage

if TYPE_CHECKING:
    from PIL import Image

MIME_NOTE = "application/vnd.codevision.note+json"
"""Published once at the end of a cell for the host alone: what was left out."""

MIME_PICTURE = "application/vnd.codevision.picture"
"""In this process only: a `Picture` on its way to the kernel's session, which puts its pixels into a message's buffers."""

IMPORTS = {
    "PIL": "PIL",
    **{name: f"PIL.{name}" for name in ("Image", "ImageChops", "ImageColor", "ImageDraw", "ImageEnhance")},
    **{name: f"PIL.{name}" for name in ("ImageFilter", "ImageFont", "ImageOps", "ImageStat")},
    "np": "numpy",
    "numpy": "numpy",
    "math": "math",
    "cv2": "cv2",
    "plt": "matplotlib.pyplot",
    "matplotlib": "matplotlib",
}
KEPT_RESULTS = 32
"""How many of the latest results stay in `Out`: IPython keeps 1000, which may be pictures."""
_WORD = re.compile(r"[A-Za-z_]\w*")


class Kernel:
    """The images of one kernel and the hooks that keep them named.

    `max_images` counts the inputs too; `output_chars` limits what each cell may write to stdout and to stderr
    (None: no limit); a picture over `max_pixels` is refused with a ValueError in the cell. With `raw`, pictures leave as
    pixels to a host that takes them, where the kernel's session can send them (`kernel_app.PictureSession`). `seed` is where
    `random` and `numpy.random` start (None: anywhere).
    """

    def __init__(
        self,
        shell: Any,
        *,
        pattern: str = "image_{i}",
        first: int = 0,
        saved_files: bool = False,
        max_images: int = 10_000,
        max_pixels: int = 100_000_000,
        output_chars: int | None = None,
        raw: bool = False,
        seed: int | None = None,
    ) -> None:
        self.shell = shell
        session = getattr(shell.display_pub, "session", None)
        self.raw = raw and getattr(session, "takes_pictures", False)
        self.held: list[Image.Image] = []
        self.skipped: dict[int, Image.Image] = {}  # pictures of cells that are not run again, held in their turn
        self.pattern, self.first, self.saved_files = pattern, first, saved_files
        self.max_images, self.max_pixels, self.output_chars = max_images, max_pixels, output_chars
        self.refused = self.depth = self.cancelled = 0
        self.saved: list[Path] = []
        lineage.install()
        self._format = shell.display_formatter.format
        shell.display_formatter.format = self.format
        self._publish = shell.display_pub.publish
        shell.display_pub.publish = self.publish
        shell.events.register("pre_run_cell", self.before_cell)
        shell.events.register("post_run_cell", self.after_cell)
        self.streams: list[CappedStream] = []
        self._show_traceback = shell.showtraceback
        shell.showtraceback = self.show_traceback
        self._patch_pillow()
        if seed is not None:
            random.seed(seed)
            numpy: Any = importlib.import_module("numpy")  # lineage has loaded it
            numpy.random.seed(seed)

    def name(self, index: int) -> str:
        """Label of image `index`."""
        return self.pattern.format(i=index + self.first)

    def hold(self, image: Image.Image) -> int:
        """Append an image under the next name; returns its index."""
        index = len(self.held)
        self.held.append(image)
        lineage.register(image, index)
        if self.saved_files:
            from kernel_agent.session.images_view import encode_png

            Path(f"{self.name(index)}.png").write_bytes(encode_png(image))
        if index + 1 in self.skipped:
            self.hold(self.skipped.pop(index + 1))
        self.bind()
        return index

    def bind(self) -> None:
        """(Re)bind `images` and every name."""
        namespace = self.shell.user_ns
        namespace["images"] = list(self.held)
        namespace.update({self.name(index): image for index, image in enumerate(self.held)})

    def before_cell(self, info: Any) -> None:
        """Bind names, import what the cell mentions and has not defined, start counting output."""
        self.depth += 1
        if self.depth > 1:  # code that runs cells itself: one cell to us
            return
        self.bind()
        namespace = self.shell.user_ns
        for word in set(_WORD.findall(info.raw_cell or "")) & IMPORTS.keys():
            if word not in namespace:
                try:
                    namespace[word] = importlib.import_module(IMPORTS[word])
                except ImportError:
                    continue
        self.refused = self.cancelled = 0
        self.saved.clear()
        if self.output_chars is not None:
            self.streams = [CappedStream(stream, self.output_chars) for stream in (sys.stdout, sys.stderr)]

    def after_cell(self, result: Any) -> None:
        """Show saved files, write the kept tails of long output, tell the host what was left out."""
        self.depth = max(0, self.depth - 1)  # the cell that set us up began without us
        if self.depth:
            return
        from IPython.display import display
        from PIL import Image

        for path in list(self.saved):
            if path.is_file():
                with Image.open(path) as image:
                    display(image.copy())
        self.saved.clear()
        self.forget_results()
        dropped = {stream.name: count for stream in self.streams if (count := stream.finish())}
        self.streams = []
        if dropped or self.refused or self.cancelled:
            note = {"dropped": dropped, "refused": self.refused, "cancelled": self.cancelled}
            self.shell.display_pub.publish(data={MIME_NOTE: note})

    def forget_results(self) -> None:
        """Keep the latest results only; those bound to a name of the user's stay there."""
        shell = self.shell
        with contextlib.suppress(AttributeError):  # IPython 9 keeps all that was ever shown
            shell.history_manager.outputs.clear()
        results = shell.user_ns.get("_oh")
        numbers = sorted(key for key in results if isinstance(key, int)) if isinstance(results, dict) else []
        for number in numbers[:-KEPT_RESULTS]:
            del results[number]
            for names in (shell.user_ns, shell.user_ns_hidden):  # IPython's own culling forgets the second
                names.pop(f"_{number}", None)

    def settle(self, count: int) -> None:
        """Undo what an interrupt left half done: hold `count` images, those the host has, and begin no cell inside another."""
        for index in range(count, len(self.held)):
            if self.shell.user_ns.get(self.name(index)) is self.held[index]:
                del self.shell.user_ns[self.name(index)]
        del self.held[count:]
        for stream in self.streams:
            stream.finish()
        self.streams, self.depth = [], 0
        self.saved.clear()
        self.bind()

    def count_cancelled(self) -> None:
        """A cell that was awaiting something has been cancelled."""
        self.cancelled += 1

    def format(self, obj: Any, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What IPython publishes for `obj`: ours for pictures, IPython's own for the rest."""
        pictures = _pictures(obj)
        if pictures is not None:
            from IPython.display import display

            for picture in pictures:
                display(picture)
            return {}, {}
        picture = as_picture(obj)
        if picture is not None:
            return self.show(picture, obj)
        data, metadata = self._format(obj, include=include, exclude=exclude)
        encoded = data.get("image/png") or data.get("image/jpeg")
        if encoded is None:
            return data, metadata
        return self.show(_decode(encoded), None)

    def publish(self, data: Any, metadata: Any = None, **options: Any) -> None:
        """IPython's own; a picture in a bundle that nobody formatted (`display(..., raw=True)`) is shown as ours."""
        if isinstance(data, dict) and "codevision" not in (metadata or {}):
            encoded = data.get("image/png") or data.get("image/jpeg")
            if encoded is not None:
                data, metadata = self.show(_decode(encoded), None)
                if not data:
                    return
        self._publish(data=data, metadata=metadata, **options)

    def show_traceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """IPython's own, with the lineage wrappers off the end of the traceback."""
        error = exc_tuple[1] if exc_tuple is not None else sys.exc_info()[1]
        if isinstance(error, BaseException):
            lineage.trim(error)
        self._show_traceback(exc_tuple, *args, **kwargs)

    def show(self, picture: Image.Image, obj: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is published for a picture: it takes its place among the images when it leaves, or at once as a PNG."""
        from kernel_agent.session.images_view import encode_png, normalise

        width, height = picture.size
        if width * height > self.max_pixels:
            raise ValueError(
                f"A picture of {width}x{height} pixels is over the limit of {self.max_pixels} pixels: crop or resize it."
            )
        if not width or not height:
            raise ValueError(f"A picture of {width}x{height} pixels cannot be shown: check the crop box.")
        shown = Picture(self, normalise(picture), obj, lineage.origin(obj) if obj is not None else None)
        if self.raw:
            return {MIME_PICTURE: shown, "text/plain": f"image: {width}x{height} px"}, {}
        record = shown.take()
        if record is None:
            return {}, {}
        data = {"image/png": encode_png(shown.image), "text/plain": shown.text}
        return data, {"codevision": record}

    def _patch_pillow(self) -> None:
        from PIL import Image

        def show(image: Image.Image, *_: Any, **__: Any) -> None:
            from IPython.display import display

            display(image)

        Image.Image.show = show  # type: ignore[assignment,method-assign]
        if self.saved_files:
            save = Image.Image.save

            def record(image: Image.Image, fp: Any, format: str | None = None, **params: Any) -> None:
                save(image, fp, format, **params)
                if isinstance(fp, (str, Path)):
                    self.saved.append(Path(fp))

            Image.Image.save = record  # type: ignore[assignment,method-assign]


class Picture:
    """A normalised picture that a cell shows."""

    def __init__(self, kernel: Kernel, image: Image.Image, obj: Any, origin: tuple[int, lineage.Affine] | None) -> None:
        self.kernel, self.image, self.obj, self.origin = kernel, image, obj, origin
        self.text = ""

    def take(self) -> dict[str, Any] | None:
        """Hold it under the next name; returns its record, or None where the limit on images is reached."""
        kernel = self.kernel
        if len(kernel.held) >= kernel.max_images:
            kernel.refused += 1
            return None
        index = kernel.hold(self.image)
        if self.obj is not None:
            lineage.register(self.obj, index)
            self.obj = None
        name, (width, height) = kernel.name(index), self.image.size
        self.text = f"{name}: {width}x{height} px"
        record: dict[str, Any] = {"index": index, "name": name, "mode": self.image.mode, "size": [width, height]}
        if self.origin is not None:
            record["parent"], record["affine"] = self.origin[0], list(self.origin[1])
        return record

    def send(self) -> tuple[dict[str, Any], dict[str, Any], bytes] | None:
        """Data, metadata and pixels of the message that shows it; None where it is refused."""
        record = self.take()
        if record is None:
            return None
        return {"text/plain": self.text}, {"codevision": record}, self.image.tobytes()


class CappedStream:
    """Lets the first half of `limit` characters of a cell's stream through and keeps the last half for the end."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.stream, self.name = stream, stream.name.strip("<>")
        self.half = max(1, limit // 2)
        self.passed = 0
        self.tail = ""
        self.total = 0
        self._write: Callable[[str], int] = type(stream).write.__get__(stream)
        stream.write = self.write

    def write(self, text: str) -> int:
        """As a text stream's `write`."""
        if not isinstance(text, str):
            return self._write(text)  # raises the stream's own TypeError
        self.total += len(text)
        head = text[: max(0, self.half - self.passed)]
        if head:
            self.passed += len(head)
            self._write(head)
        if len(head) < len(text):
            self.tail = (self.tail + text[max(len(head), len(text) - self.half) :])[-self.half :]
        return len(text)

    def finish(self) -> int:
        """Undo the wrapping, write the tail; returns how many characters were left out."""
        self.stream.__dict__.pop("write", None)
        dropped = self.total - self.passed - len(self.tail)
        if dropped:
            self._write(f"\n[... {dropped} characters left out ...]\n")
        if self.tail:
            self._write(self.tail)
        return dropped


def as_picture(obj: Any) -> Image.Image | None:
    """A PIL image, or a NumPy array that is clearly one (uint8 or bool, HxW or HxWx3/4, each side at least 8)."""
    from PIL import Image

    if isinstance(obj, Image.Image):
        return obj
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(obj, numpy.ndarray) or obj.dtype not in (numpy.uint8, numpy.bool_):
        return None
    if obj.ndim not in (2, 3) or (obj.ndim == 3 and obj.shape[2] not in (3, 4)) or min(obj.shape[:2]) < 8:
        return None
    if obj.dtype == numpy.bool_:
        obj = obj.astype(numpy.uint8) * 255
    return Image.fromarray(numpy.ascontiguousarray(obj))


def _pictures(obj: Any) -> list[Any] | None:
    """The pictures of a list, tuple or dict that holds nothing else; None otherwise."""
    items: Iterable[Any]
    if isinstance(obj, dict):
        items = obj.values()
    elif isinstance(obj, (list, tuple)):
        items = obj
    else:
        return None
    found = list(items)
    if not found or any(as_picture(item) is None for item in found):
        return None
    return found


def _decode(encoded: bytes | str) -> Image.Image:
    import base64

    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(encoded) if isinstance(encoded, str) else encoded))
    image.load()
    return image


_kernel: Kernel | None = None


def start(config: str) -> None:
    """Set up a kernel of ours. `config` is JSON: `inputs` and `Kernel`'s options.

    Each input is {"mode", "size"}; its raw pixels are a buffer of the request that runs this.
    """
    from IPython.core.getipython import get_ipython

    global _kernel
    options: dict[str, Any] = json.loads(config)
    inputs = options.pop("inputs")
    shell: Any = get_ipython()
    _kernel = Kernel(shell, **options)
    interrupts.install(shell.kernel, _kernel.count_cancelled)
    _hold(inputs)


def restore(config: str) -> None:
    """Hold pictures again that a cell made which cannot be run again (it was interrupted or killed the kernel)."""
    _hold(json.loads(config)["inputs"])


def settle(config: str) -> None:
    """After an interrupt, or where the two did not agree: hold what the host has, anew from image `first` on."""
    assert _kernel is not None
    options = json.loads(config)
    _kernel.settle(options["first"])
    _hold(options["inputs"])


def skip(config: str) -> None:
    """Take a cell that is not run again as number `count`, so that `In` and `Out` of those after it keep theirs."""
    assert _kernel is not None
    options = json.loads(config)
    _kernel.shell.history_manager.store_inputs(options["count"], options["source"])
    _kernel.shell.execution_count = options["count"] + 1


def _hold(inputs: list[Mapping[str, Any]]) -> None:
    """Hold the pictures whose raw pixels came with the running request."""
    from PIL import Image

    assert _kernel is not None
    if not inputs:
        return
    request = _kernel.shell.kernel.get_parent("shell")
    for item, pixels in zip(inputs, request["buffers"], strict=True):
        width, height = item["size"]
        _kernel.hold(Image.frombytes(item["mode"], (width, height), pixels))
    request["buffers"] = []  # the kernel keeps the request until the next one


def open_notebook(run_id: str, *, folder: str = ".", **options: Any) -> list[Image.Image]:
    """Set up any Python kernel to re-run a saved notebook: show its input images, and return them.

    The inputs come from the notebook with this run id in `folder`. Raises TrajectoryError where there is none.
    `options` are `Kernel`'s (image names of the protocol).
    """
    from IPython.core.getipython import get_ipython

    from kernel_agent.session.images import load_image
    from kernel_agent.trajectory.inputs import find_inputs, find_skipped, find_views

    global _kernel
    shell = get_ipython()
    if shell is None:
        raise RuntimeError("open_notebook works in a Jupyter kernel or in IPython only.")
    _kernel = Kernel(shell, **options)
    skipped = find_skipped(run_id, Path(folder))
    _kernel.skipped = {index: load_image(data).pil for index, data in skipped.items()}
    for data in find_inputs(run_id, Path(folder)):
        _kernel.hold(load_image(data).pil)
    for shown, metadata in find_views(run_id, Path(folder)):
        _kernel.publish(shown, metadata)
    return list(_kernel.held)
