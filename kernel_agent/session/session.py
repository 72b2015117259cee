"""A managed kernel that holds images: the one executor of live runs, evaluation and replay.

    with Session(["photo.jpg"]) as session:
        cell = session.run("image_0.rotate(90, expand=True)")
        cell.status, cell.images[0].size

Guarantees: a cell that hangs is interrupted (SIGINT; an `await` is cancelled), up to three times within `GRACE_SECONDS`,
and where that fails the kernel is killed, another one started, and the earlier cells that ended by themselves are run
again in an empty folder; every such thing is an event of the cell. So `run` returns within its deadline plus
`GRACE_SECONDS` where the interrupt is heeded (and as long again for a check of the kernel), else plus
`RECOVERY_SECONDS` and `REPLAY_FACTOR` times what the earlier cells took; when a kernel cannot be had in that time it
raises KernelError (a wait in a pool's queue, before the first cell, is not in this). Images are the same afterwards, pixel for pixel, also where code run again makes other ones.
Does not guarantee: that code run again does the same (time, random numbers), what an interrupted cell did before a
later kill (the event `cells_replayed` lists such cells), or any isolation beyond the level (`session.isolation`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kernel_agent.blocking import run_blocking
from kernel_agent.errors import ImageError, KernelError
from kernel_agent.session.cells import cell_source
from kernel_agent.session.channel import KernelChannel, KernelDied
from kernel_agent.session.images import (
    LoadedImage,
    ViewBounds,
    decode_output_png,
    load_image,
    make_view,
    normalise,
    pixel_sha256,
)
from kernel_agent.session.outputs import OutputCollector
from kernel_agent.session.slots import OwnSlot, Slot
from kernel_agent.types import Affine, Budget, CellResult, Event, KernelImage, KernelOptions, Names, Status

if TYPE_CHECKING:
    from PIL import Image

    from kernel_agent.session.pool import KernelPool

GRACE_SECONDS = 2.0
"""How long an interrupted cell has to end before the kernel is killed."""
RECOVERY_SECONDS = 60.0
"""How long it may take to start a kernel and hand it the images."""
REPLAY_FACTOR = 3.0
"""How many times longer than at first the cells run again may take."""


class Session:
    """One kernel, its images and the cells it ran.

    Args:
        images: inputs, as `load_image` takes them.
        names: how images are called.
        budget: `cell_seconds`, `images`, `output_chars` are used here.
        bounds: pixel bounds of the views shown to the model.
        max_pixels: largest input or output image, in pixels.
        allow_http: whether http(s) image URLs are fetched.
        kernel: how its kernels come to life.
        pool: where its kernels come from, in place of `kernel`; it keeps a slot from its start until it is closed.

    Raises ImageError for an image that cannot be taken, before any kernel is started.
    """

    def __init__(
        self,
        images: Sequence[Any] = (),
        *,
        names: Names = Names(),
        budget: Budget = Budget(),
        bounds: ViewBounds | None = None,
        max_pixels: int = 100_000_000,
        allow_http: bool = False,
        kernel: KernelOptions = KernelOptions(),
        pool: KernelPool | None = None,
    ) -> None:
        self.names, self.budget, self.max_pixels = names, budget, max_pixels
        self.bounds = bounds or ViewBounds()
        self.kernel = kernel if pool is None else pool.kernel
        self.images: list[KernelImage] = []
        self.cells: list[CellResult] = []
        self.events: list[Event] = []
        self._allow_http = allow_http
        self._pil: dict[int, Image.Image] = {}
        self._channel: KernelChannel | None = None
        self._pool = pool
        self._slot: Slot | None = None
        self._folder: Path | None = None
        self._lock = asyncio.Lock()
        self.add_images(images)

    # ------------------------------------------------------------------ images

    def add_images(self, sources: Sequence[Any]) -> list[KernelImage]:
        """Take inputs in; only before the kernel is started. Returns them as named images."""
        if self._channel is not None:
            raise KernelError("Images can be added only before the session is started.")
        loaded = [
            source
            if isinstance(source, LoadedImage)
            else load_image(source, max_pixels=self.max_pixels, allow_http=self._allow_http)
            for source in sources
        ]
        for item in loaded:
            index = len(self.images)
            self._pil[index] = item.pil
            self.images.append(self._image(index, item.pil, item.data, item.mime, origin="input", source=item.source))
            for note in item.notes:
                self.events.append(Event(kind="image_note", time=time.time(), data={"image": index, "note": note}))
        return self.images

    def _image(
        self,
        index: int,
        pil: Image.Image,
        data: bytes,
        mime: str,
        *,
        origin: str,
        source: str = "",
        parent: int | None = None,
        affine: Affine | None = None,
    ) -> KernelImage:
        view = make_view(pil, data, mime, self.bounds)
        return KernelImage(
            index=index,
            name=self.names(index),
            data=data,
            mime=mime,
            size=pil.size,
            pixel_sha256=pixel_sha256(pil),
            view=view.data,
            view_mime=view.mime,
            view_size=view.size,
            parent=parent,
            affine=affine,
            origin=origin,
            source=source,
        )

    # ------------------------------------------------------------------ life

    @property
    def isolation(self) -> str:
        """Isolation level of the running kernel; "not started" without one."""
        return self._channel.isolation if self._channel else "not started"

    async def astart(self) -> Self:
        """Start the kernel and put the images in. Does nothing where it runs already."""
        async with self._lock:
            await self._start()
        return self

    async def areserve(self) -> None:
        """Wait for the pool's next free slot; the start then has no queue before it. Does nothing without a pool.

        Raises KernelError where the pool refuses.
        """
        async with self._lock:
            await self._reserve()

    async def _reserve(self) -> Slot:
        if self._slot is None:
            self._slot = OwnSlot(self.kernel) if self._pool is None else await self._pool.lease()
        return self._slot

    async def _start(self) -> KernelChannel:
        """The running kernel; a new one with the images and the state of all cells so far where none runs."""
        if self._channel is not None and self._channel.alive:
            return self._channel
        await self._drop()  # it died between cells
        ran = sum(cell.seconds for cell in self.cells if _good(cell))
        seconds = RECOVERY_SECONDS + REPLAY_FACTOR * ran
        slot = await self._reserve()
        try:
            async with asyncio.timeout(seconds):
                return await self._bring_up(slot)
        except TimeoutError as error:
            await self._give_back()
            raise KernelError(
                f"No kernel with the session's state could be had within {seconds:.0f} s ({RECOVERY_SECONDS:.0f} s and "
                f"{REPLAY_FACTOR:g} times the {ran:.1f} s its cells took). Run another cell to try again, or start a new "
                "session from the images."
            ) from error
        except BaseException:  # half a state is worse than none: the next start begins anew
            await self._give_back()
            raise

    async def _bring_up(self, slot: Slot) -> KernelChannel:
        """A kernel from the slot, with the images and the state of all cells so far."""
        self._channel = channel = await slot.kernel()
        self._folder = channel.folder
        inputs = [image.index for image in self.images if image.origin == "input"]
        await self._call(
            "start",
            inputs,
            pattern=self.names.pattern,
            first=self.names.first,
            saved_files=self.names.saved_files,
            max_images=max(len(inputs) + self.budget.images, len(self.images)),
            max_pixels=self.max_pixels,
            output_chars=self.budget.output_chars,
        )
        if self.cells:
            await self._replay()
        return channel

    async def _drop(self) -> None:
        """Stop the kernel; cells and images stay, so that the next start brings it back."""
        self._channel = self._folder = None
        if self._slot is not None:
            await self._slot.drop()

    async def _give_back(self) -> None:
        """Stop the kernel for good."""
        slot, self._slot = self._slot, None
        self._channel = self._folder = None
        if slot is not None:
            await slot.close()

    async def _call(self, function: str, images: Sequence[int], **config: Any) -> None:
        """Run a function of `kernel_side` with the given images handed over as raw pixels in files."""
        assert self._channel is not None
        assert self._folder is not None
        items: list[dict[str, Any]] = []
        for index in images:
            pil = self._pil.get(index) or normalise(self.images[index].to_pil())
            path = self._folder / f"input-{index}.raw"
            path.write_bytes(pil.tobytes())
            items.append({"file": path.name, "mode": pil.mode, "size": pil.size})
        text = json.dumps({"folder": str(self._folder), "inputs": items, **config})
        code = f"from kernel_agent.session import kernel_side as _k; _k.{function}({text!r}); del _k"
        try:
            async with asyncio.timeout(60):
                reply = await self._channel.execute(code, lambda message: None, silent=True)
        except (TimeoutError, KernelDied) as error:
            raise KernelError(f"The kernel could not take the images: {error or 'no answer in 60 s'}.") from error
        finally:
            for item in items:
                (self._folder / item["file"]).unlink(missing_ok=True)
        if reply["content"]["status"] != "ok":
            raise KernelError(f"The kernel could not be set up: {reply['content'].get('evalue')}.")

    async def aclose(self) -> None:
        """Stop the kernel and remove its folder. Safe to call twice; a cell run later starts it again with its state."""
        await self._give_back()

    async def __aenter__(self) -> Self:
        return await self.astart()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return run_blocking(self.astart())

    def __exit__(self, *_: object) -> None:
        run_blocking(self.aclose())

    # ------------------------------------------------------------------ cells

    def run(self, code: str, *, image_index: int | None = None, seconds: float | None = None) -> CellResult:
        """`arun`, waiting."""
        return run_blocking(self.arun(code, image_index=image_index, seconds=seconds))

    async def arun(self, code: str, *, image_index: int | None = None, seconds: float | None = None) -> CellResult:
        """Run one cell; starts the kernel where there is none.

        Args:
            code: Python as the model wrote it; `cell_source` says what is added.
            image_index: image to bind to `image`, `img` and `draw`.
            seconds: deadline; the budget's `cell_seconds` by default.

        Never raises for anything the code does. Raises KernelError when no kernel can be had, and CancelledError when
        cancelled (the cell is interrupted first, and kept in `cells`).
        """
        async with self._lock:
            source = cell_source(code, image_index)
            cell = await self._run(source, self.budget.cell_seconds if seconds is None else seconds)
            return cell

    async def _run(self, source: str, seconds: float) -> CellResult:
        channel = await self._start()
        started = time.perf_counter()
        collector = OutputCollector(
            next_index=len(self.images), limit=self.budget.output_chars, take_image=self._take_output
        )
        status = Status.OK
        count: int | None = None
        cancelled = False
        running = asyncio.ensure_future(channel.execute(source, collector))
        running.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may end when nobody waits
        try:
            async with asyncio.timeout(seconds):
                reply = await asyncio.shield(running)
            count = reply["content"].get("execution_count")
            status = Status.ERROR if reply["content"].get("status") != "ok" or collector.failed else Status.OK
        except (TimeoutError, asyncio.CancelledError) as stop:
            cancelled = isinstance(stop, asyncio.CancelledError)
            collector.event("interrupted", why="cancelled" if cancelled else "timeout", after=round(seconds, 3))
            stopping = asyncio.ensure_future(self._stop_cell(channel, running, collector))
            cancelled = await _through_cancels(stopping) or cancelled
            status = stopping.result()
            if status is Status.TIMEOUT:
                count = running.result()["content"].get("execution_count")
        except KernelDied as died:
            collector.event("kernel_died", reason=str(died))
            status = Status.KILLED
        self.images += collector.images
        try:
            if status is Status.KILLED:
                await self._drop()
                if not cancelled:  # else nobody waits: the next start brings the state back
                    await self._recover(collector)
        finally:
            cell = CellResult(
                source=source,
                status=status,
                outputs=collector.outputs(),
                images=tuple(collector.images),
                execution_count=count,
                seconds=time.perf_counter() - started,
                events=tuple(collector.events),
            )
            self.cells.append(cell)
        if cancelled:
            raise asyncio.CancelledError
        return cell

    async def _stop_cell(
        self, channel: KernelChannel, running: asyncio.Future[Any], collector: OutputCollector
    ) -> Status:
        """SIGINT, more of them where the cell goes on. TIMEOUT where it ended, KILLED where the kernel has to go.

        One alone may be lost: just before the code begins, or in a callback of the garbage collector.
        """
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(collector.begun.wait(), GRACE_SECONDS / 4)
                await channel.interrupt()
                for part in (1 / 2, 1 / 4):
                    if (await asyncio.wait([running], timeout=GRACE_SECONDS * part))[0]:
                        break
                    collector.event("interrupted_again")
                    await channel.interrupt()
                await asyncio.shield(running)
        except TimeoutError:
            collector.event("kernel_killed", why=f"the cell did not end within {GRACE_SECONDS} s of the interrupt")
            return Status.KILLED
        except KernelDied as died:
            collector.event("kernel_died", reason=str(died))
            return Status.KILLED
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._call("settle", [], count=len(self.images) + len(collector.images))
        except (TimeoutError, KernelError) as error:
            why = f"it was not usable after the interrupt: {error or f'no answer in {GRACE_SECONDS} s'}"
            collector.event("kernel_killed", why=why)
            return Status.KILLED
        return Status.TIMEOUT

    def _take_output(self, data: bytes, index: int, parent: int | None, affine: Affine | None) -> KernelImage:
        try:
            pil = decode_output_png(data, max_pixels=self.max_pixels)
        except ImageError as error:
            raise ValueError(str(error)) from error
        return self._image(
            index, pil, data, "image/png", origin=f"cell {len(self.cells)}", parent=parent, affine=affine
        )

    # ------------------------------------------------------------------ recovery and replay

    def resume_from(self, images: Sequence[KernelImage], cells: Sequence[CellResult]) -> None:
        """Take over what another session held and ran; the start runs the cells again. Only before a start.

        The start then raises KernelError where a cell cannot be run again.
        """
        if self._channel is not None:
            raise KernelError("A session takes over another's state only before it is started.")
        self.images, self.cells = list(images), list(cells)

    def take_events(self) -> list[Event]:
        """What happened outside cells since the last call: notes on inputs, replays at a start."""
        events, self.events = self.events, []
        return events

    async def _recover(self, collector: OutputCollector) -> None:
        """Start anew with the state from before this cell, then give back the pictures this cell has shown."""
        known = len(self.events)
        await self._start()
        collector.event("kernel_restarted")
        collector.events += self.events[known:]
        del self.events[known:]  # they belong to the cell
        if collector.images:
            try:
                await self._call("restore", [image.index for image in collector.images])
            except BaseException:
                await self._drop()
                raise

    async def _replay(self) -> None:
        """Run again every cell that ended by itself; give back the images of those that did not."""
        count = sum(image.origin == "input" for image in self.images)
        for number, cell in enumerate(self.cells):
            if _good(cell):
                await self._run_again(number, cell, count)
            elif cell.images:
                await self._call("restore", [image.index for image in cell.images])
            if not _good(cell) and cell.execution_count is not None:
                await self._call("skip", [], count=cell.execution_count, source=cell.source)
            count += len(cell.images)
        left_out = [number for number, cell in enumerate(self.cells) if cell.status is Status.TIMEOUT]
        self._log(
            "cells_replayed", count=sum(map(_good, self.cells)), **({"interrupted": left_out} if left_out else {})
        )

    async def _run_again(self, number: int, cell: CellResult, count: int) -> None:
        """Run a good cell again in a kernel that holds `count` images; then it holds those the cell made at first."""
        assert self._channel is not None
        again = OutputCollector(next_index=count, limit=self.budget.output_chars, take_image=self._take_output)
        try:
            async with asyncio.timeout(10 + REPLAY_FACTOR * cell.seconds):
                await self._channel.execute(cell.source, again)
        except (TimeoutError, KernelDied) as error:
            raise KernelError(
                f"The kernel's state could not be brought back: cell {number} did not run again "
                f"({error or f'it took {cell.seconds:.1f} s at first and {REPLAY_FACTOR:g} times that and 10 s now'}). "
                "Start a new session from the images."
            ) from error
        pairs = zip(cell.images, again.images, strict=False)
        differing = [old.name for old, new in pairs if old.pixel_sha256 != new.pixel_sha256]
        if differing or len(again.images) != len(cell.images):
            self._log("replay_differs", cell=number, images=differing, count=len(again.images))
            await self._call("settle", [], count=count)
            if cell.images:
                await self._call("restore", [image.index for image in cell.images])

    def _log(self, kind: str, **data: Any) -> None:
        self.events.append(Event(kind=kind, time=time.time(), data=data))


def _good(cell: CellResult) -> bool:
    """Whether a cell ended by itself, so that it can be run again."""
    return cell.status in (Status.OK, Status.ERROR)


async def _through_cancels(work: asyncio.Future[Any]) -> bool:
    """Wait for work that is short and must end; returns whether somebody cancelled meanwhile."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
