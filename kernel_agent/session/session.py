"""A managed kernel that holds images: the one executor of live runs, evaluation and replay.

    with Session(["photo.jpg"]) as session:
        cell = session.run("image_0.rotate(90, expand=True)")
        cell.status, cell.images[0].size

Guarantees: a cell that hangs is interrupted (SIGINT; an `await` is cancelled), up to three times within `GRACE_SECONDS`,
and where that fails the kernel is killed, another one started, and the earlier cells that ended by themselves are run
again in an empty folder; every such thing is an event of the cell. So `run` returns within its deadline plus
`GRACE_SECONDS` where the interrupt is heeded (and `SETTLE_SECONDS` for a check of the kernel), else plus
`RECOVERY_SECONDS` and `REPLAY_FACTOR` times what the earlier cells took; when a kernel cannot be had in that time it
raises KernelError (a wait in a pool's queue, before the first cell, is not in this). Images are the same afterwards,
pixel for pixel, also where code run again makes other ones.
Does not guarantee: that code run again does the same (time, random numbers), what an interrupted cell did before a
later kill (the event `cells_replayed` lists such cells), or any isolation beyond the level (`session.isolation`).
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from kernel_agent.blocking import run_blocking
from kernel_agent.errors import KernelError
from kernel_agent.session.cells import cell_source
from kernel_agent.session.channel import KernelChannel
from kernel_agent.session.dialogue import KernelDied
from kernel_agent.session.forking import Forked, Lease, NotForked, attach, fork
from kernel_agent.session.images import (
    LoadedImage,
    ViewBounds,
    load_image,
    make_view,
    normalise,
    pixel_sha256,
)
from kernel_agent.session.images_shown import ShownImages
from kernel_agent.session.ladder import run_cell
from kernel_agent.session.outputs import OutputCollector
from kernel_agent.session.replay import REPLAY_FACTOR, ended_by_itself, replay
from kernel_agent.session.slots import OwnSlot, Slot
from kernel_agent.types import (
    Budget,
    CellResult,
    Event,
    ImageEncoding,
    KernelImage,
    KernelOptions,
    Names,
    Status,
)
from kernel_agent.waiting import through_cancels

if TYPE_CHECKING:
    from PIL import Image

    from kernel_agent.session.pool import KernelPool

RECOVERY_SECONDS = 60.0
"""How long it may take to start a kernel and hand it the images."""
SETTLE_SECONDS = 5.0
"""How long a kernel has to put its images right after it sent some that were refused, before it is killed."""


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
        encoding: of the images that cells show: lossless by default.
        seed: where `random` and `numpy.random` start in the kernel, and again in every one that runs its cells again; drawn
            by chance where None, and then known as `seed`.
        pool: where its kernels come from, in place of `kernel`; it keeps a slot from its start until it is closed.
        image_bytes: how many bytes the images that cells show may hold together here; further ones are refused (see
            `images_refused`). None for no limit but that on their number.

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
        encoding: ImageEncoding = ImageEncoding(),
        seed: int | None = None,
        pool: KernelPool | None = None,
        image_bytes: int | None = None,
    ) -> None:
        self.encoding = encoding
        self.seed = int.from_bytes(os.urandom(4)) if seed is None else seed
        self.names, self.budget, self.max_pixels = names, budget, max_pixels
        self.bounds = bounds or ViewBounds()
        self.kernel = kernel if pool is None else pool.kernel
        self.images: list[KernelImage] = []
        self.cells: list[CellResult] = []
        self.events: list[Event] = []
        self._allow_http = allow_http
        self._pil: dict[int, Image.Image] = {}
        self.image_bytes = image_bytes
        self._shown = ShownImages(
            names=names, encoding=encoding, bounds=self.bounds, max_pixels=max_pixels, image_bytes=image_bytes
        )
        self._channel: KernelChannel | None = None
        self._pool = pool
        self._slot: Slot | None = None
        self._lease: Lease | None = None
        self._lock, self._process = asyncio.Lock(), os.getpid()
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
            self.images.append(self._input(index, item))
            for note in item.notes:
                self.events.append(Event(kind="image_note", time=time.time(), data={"image": index, "note": note}))
        return self.images

    def _input(self, index: int, item: LoadedImage) -> KernelImage:
        view = make_view(item.pil, item.data, item.mime, self.bounds, jpeg=self.encoding.view == "jpeg")
        return KernelImage(
            index=index,
            name=self.names(index),
            data=item.data,
            mime=item.mime,
            size=item.pil.size,
            pixel_sha256=pixel_sha256(item.pil),
            view=view.data,
            view_mime=view.mime,
            view_size=view.size,
            source=item.source,
        )

    # ------------------------------------------------------------------ life

    @property
    def images_refused(self) -> bool:
        """Whether an image was refused because those before it hold `image_bytes` already."""
        return self._shown.room.refused

    @property
    def isolation(self) -> str:
        """Isolation level of the running kernel; "not started" without one."""
        return self._channel.isolation if self._channel else "not started"

    async def astart(self) -> Self:
        """Start the kernel and put the images in. Does nothing where it runs already."""
        self._part_from_parent()
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
        if self._channel is not None and self._channel.broken is not None:  # it died between cells
            self._log("kernel_died", **self._channel.broken.facts)
        await self._drop()
        ran = sum(cell.seconds for cell in self.cells if ended_by_itself(cell))
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
        channel = await slot.kernel()
        self._channel, self._lease = channel, Lease(channel, slot=slot)
        inputs = [image.index for image in self.images if image.origin == "input"]
        self._shown.limit = max(len(inputs) + self.budget.images, len(self.images))
        await self._call(
            "start",
            inputs,
            pattern=self.names.pattern,
            first=self.names.first,
            saved_files=self.names.saved_files,
            max_images=self._shown.limit,
            max_pixels=self.max_pixels,
            output_chars=self.budget.output_chars,
            raw=True,
            seed=self.seed,
        )
        if self.cells:
            await replay(channel, self.cells, len(inputs), collector=self._collector, call=self._call, log=self._log)
            self._shown.exact.clear()
        return channel

    def _part_from_parent(self) -> None:
        """In a fork of the process: the kernel is the parent's; a start here makes our own."""
        if self._process != os.getpid():
            self._lock, self._process = asyncio.Lock(), os.getpid()
            self._channel = self._lease = self._slot = None

    async def _drop(self) -> None:
        """Stop the kernel; cells and images stay, so that the next start brings it back. Branches of it do the same."""
        lease, self._lease, self._channel = self._lease, None, None
        if lease is not None:
            await lease.stop()

    async def _give_back(self) -> None:
        """Let go of the kernel and its slot; they stay until the last branch of it is closed."""
        lease, self._lease, self._channel = self._lease, None, None
        slot, self._slot = self._slot, None
        if lease is not None:
            await lease.release()
        elif slot is not None:
            await slot.close()

    async def _call(self, function: str, images: Sequence[int], **config: Any) -> None:
        """Run a function of `kernel_side` with the given images handed over as raw pixels, over the wire."""
        assert self._channel is not None
        lossy = [self.images[index].name for index in images if not self.images[index].lossless]
        if lossy:
            self._log("restored_with_loss", images=lossy)
        pictures = [self._pil.get(index) or normalise(self.images[index].to_pil()) for index in images]
        items = [{"mode": picture.mode, "size": picture.size} for picture in pictures]
        text = json.dumps({"inputs": items, **config})
        code = f"from kernel_agent.session import kernel_side as _k; _k.{function}({text!r}); del _k"
        pixels = [picture.tobytes() for picture in pictures]
        try:
            async with asyncio.timeout(60):
                reply = await self._channel.execute(code, lambda message: None, silent=True, buffers=pixels)
        except (TimeoutError, KernelDied) as error:
            raise KernelError(f"The kernel could not take the images: {str(error) or 'no answer in 60 s'}.") from error
        if reply["content"]["status"] != "ok":
            raise KernelError(f"The kernel could not be set up: {reply['content'].get('evalue')}.")

    async def aclose(self) -> None:
        """Stop the kernel and remove its folder, once its last branch is closed too.

        Safe to call twice; a cell run later starts a kernel again with this session's state.
        """
        self._part_from_parent()
        await self._give_back()

    def close(self) -> None:
        """`aclose`, waiting."""
        run_blocking(self.aclose())

    async def __aenter__(self) -> Self:
        return await self.astart()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return run_blocking(self.astart())

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ cells

    def run(self, code: str, *, image_index: int | None = None, seconds: float | None = None) -> CellResult:
        """`arun`, waiting."""
        return run_blocking(self.arun(code, image_index=image_index, seconds=seconds))

    async def arun(
        self, code: str, *, image_index: int | None = None, seconds: float | None = None, as_is: bool = False
    ) -> CellResult:
        """Run one cell; starts the kernel where there is none.

        Args:
            code: Python as the model wrote it; `cell_source` says what is added.
            image_index: image to bind to `image`, `img` and `draw`.
            seconds: deadline; the budget's `cell_seconds` by default.
            as_is: whether `code` is a cell's source already, to which nothing is added.

        Never raises for anything the code does. Raises KernelError when no kernel can be had, and CancelledError when
        cancelled (the cell is interrupted first, and kept in `cells`).
        """
        self._part_from_parent()
        async with self._lock:
            source = code if as_is else cell_source(code, image_index)
            cell = await self._run(source, self.budget.cell_seconds if seconds is None else seconds)
            return cell

    async def _run(self, source: str, seconds: float) -> CellResult:
        known = len(self.events)
        channel = await self._start()
        started = time.perf_counter()
        collector = self._collector(len(self.images))
        collector.events += self.events[known:]  # the kernel before had died: this cell meets the state run again
        del self.events[known:]
        ended = await run_cell(channel, source, collector, seconds)
        status, cancelled = ended.status, ended.cancelled
        if status not in (Status.OK, Status.ERROR) or collector.unsettled:  # they have to come back from the images
            collector.images = self._shown.exact.restore(collector.images)
        self._shown.exact.clear()
        self.images += collector.images
        if status is Status.TIMEOUT or (collector.unsettled and status is not Status.KILLED):
            settling = asyncio.ensure_future(self._settle(collector))
            cancelled = await through_cancels(settling) or cancelled
            status = status if settling.result() else Status.KILLED
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
                execution_count=ended.execution_count,
                seconds=time.perf_counter() - started,
                events=tuple(collector.events),
            )
            self.cells.append(cell)
        if cancelled:
            raise asyncio.CancelledError
        return cell

    def _collector(self, next_index: int) -> OutputCollector:
        take = partial(self._shown.take, f"cell {len(self.cells)}")
        return OutputCollector(next_index=next_index, limit=self.budget.output_chars, take_image=take)

    async def _settle(self, collector: OutputCollector) -> bool:
        """Make the kernel hold what was taken in of this cell and nothing else; False where it cannot be brought to."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                anew = collector.images if collector.unsettled else []
                await self._call("settle", [image.index for image in anew], first=len(self.images) - len(anew))
            return True
        except (TimeoutError, KernelError) as error:
            collector.event("kernel_killed", why=f"its images could not be set right ({error or 'no answer'})")
            return False

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

    # ------------------------------------------------------------------ another's state

    def resume_from(self, images: Sequence[KernelImage], cells: Sequence[CellResult]) -> None:
        """Take over what another session held and ran; the start runs the cells again. Only before a start.

        The start then raises KernelError where a cell cannot be run again.
        """
        if self._channel is not None:
            raise KernelError("A session takes over another's state only before it is started.")
        self.images, self.cells = list(images), list(cells)

    async def aamend(self, cell: CellResult, *, restart: bool = False) -> None:
        """Put `cell` in place of the last one, and its images in the kernel: an audit goes on from what was recorded.

        With `restart` the kernel is killed, and the next one runs the good cells again.
        """
        async with self._lock:
            first = len(self.images) - len(self.cells[-1].images)
            self.cells[-1] = cell
            self.images[first:] = cell.images
            if restart:
                await self._drop()
            elif self._channel is not None:
                await self._call("settle", [image.index for image in cell.images], first=first)

    def take_events(self) -> list[Event]:
        """What happened outside cells since the last call: notes on inputs, replays at a start."""
        events, self.events = self.events, []
        return events

    # ------------------------------------------------------------------ branches

    def fork(self, *, cells: int | None = None, reseed: bool = False) -> Session:
        """`afork`, waiting."""
        return run_blocking(self.afork(cells=cells, reseed=reseed))

    async def afork(self, *, cells: int | None = None, reseed: bool = False) -> Session:
        """A second session with the same state, started and independent of this one; close it as any other.

        Args:
            cells: the state after the first so many cells, made by replay; None is the state as it is now.
            reseed: whether `random` and `numpy.random` are seeded anew in the branch. Else a forked branch draws the same
                numbers as this session.

        The state now is had by process fork where that is sound, else by replay: an event "forked" of the branch says
        `how` ("process" or "replay") and `why` it is a replay. Waits for a running cell. A branch shares the
        fate of this session's process until it has been restarted itself: it dies with it, and then recovers by replay.
        Closing this session does it no harm. Raises KernelError when a cell cannot be replayed.
        """
        making = asyncio.ensure_future(self._fork(cells, reseed))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await through_cancels(making)
            if making.exception() is None:
                await making.result().aclose()
            raise

    async def _fork(self, cells: int | None, reseed: bool) -> Session:
        self._part_from_parent()
        forked: Forked | None = None
        why = "a state from before was asked for"
        async with self._lock:
            branch = self._twin(cells)
            if cells is None:
                try:
                    await self._start()
                    assert self._lease is not None
                    forked = await fork(self._lease, reseed=reseed)
                except (NotForked, KernelDied) as error:
                    why = str(error)
        if forked is not None:  # the copy is made: this session may go on
            try:
                branch._lease = await attach(forked)
                branch._channel = branch._lease.channel
                branch._log("forked", how="process", why="", cells=len(branch.cells))
                return branch
            except KernelError as error:
                why = str(error)
        branch._log("forked", how="replay", why=why, cells=len(branch.cells))
        try:
            channel = await branch._start()
            if reseed:
                await channel.execute(
                    "from kernel_agent.session import branch_process as _b; _b.reseed(); del _b", _ignore
                )
        except BaseException:
            await branch.aclose()
            raise
        return branch

    def rewind(self, cells: int) -> None:
        """`arewind`, waiting."""
        run_blocking(self.arewind(cells))

    async def arewind(self, cells: int) -> None:
        """Go back to the state after the first so many cells (undo): a new kernel runs them again; event "rewound".

        Raises KernelError when one of them cannot be run again; then nothing is taken back.
        """
        async with self._lock:
            back = self._twin(cells)
            if len(back.cells) == len(self.cells):
                return
            before = self.images, self.cells
            await self._give_back()
            self.images, self.cells = back.images, back.cells
            self._log("rewound", cells=len(self.cells), taken_back=len(before[1]) - len(self.cells))
            try:
                await self._start()
            except BaseException:
                self.images, self.cells = before
                self.events.pop()
                raise

    def _twin(self, cells: int | None) -> Session:
        """A session like this one without a kernel, holding the first `cells` cells (all for None) and their images."""
        count = len(self.cells) if cells is None else cells
        if not 0 <= count <= len(self.cells):
            raise ValueError(f"There is no state after {count} cells: the session has run {len(self.cells)}.")
        twin = copy.copy(self)
        inputs = [image for image in self.images if image.origin == "input"]
        twin.cells = self.cells[:count]
        later = {image.index for cell in self.cells[count:] for image in cell.images}
        twin.images = inputs + [image for image in self.images[len(inputs) :] if image.index not in later]
        twin.events, twin._pil, twin._lock = [], dict(self._pil), asyncio.Lock()
        twin._channel = twin._lease = twin._slot = None
        twin._shown = replace(self._shown)  # without the pixels it holds
        return twin

    def _log(self, kind: str, **data: Any) -> None:
        self.events.append(Event(kind=kind, time=time.time(), data=data))


def _ignore(message: object) -> None:
    """Nobody reads the output of our own requests."""
