"""Re-execution: run a trajectory's cells again in a fresh isolated kernel and compare all that they show.

Guarantees: the same order, the failed cells too; the kernel's `random` and `numpy.random` start where they started; a cell that
was interrupted is interrupted after the same time, one that killed its kernel is followed by a kernel that ran the good cells
again, as it was then. No model is asked. Every cell gets a verdict whatever the others do, within a bounded time. Nothing of the
record is run outside isolation unless the auditor says so in as many words (`unsafe`).
Does not guarantee: that code which forges its own outputs does not forge them again; that a cell gives the same where it depends
on a clock, on chance from the system or on when it was interrupted: then the verdict is "not replayable", with the reason, and
so it is for later cells that do not give the recorded result and share a name with such a cell.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kernel_agent.audit.compare_images import compare_image, compare_input, compare_lineage, compare_view
from kernel_agent.audit.compare_text import compare_outputs
from kernel_agent.audit.sources import Source, drawn_on, shared, sources, words_of, written
from kernel_agent.audit.verdicts import CellVerdict, Comparison, Rerun, Verdict, worst
from kernel_agent.environment import environment
from kernel_agent.errors import ImageError, InputError, KernelError, TrajectoryError
from kernel_agent.session import Session
from kernel_agent.session.images import LoadedImage, ViewBounds, decode_output, encode_png, load_image
from kernel_agent.trajectory.codec import decode, encode
from kernel_agent.types import (
    Budget,
    CellResult,
    Event,
    Isolation,
    Json,
    KernelImage,
    KernelOptions,
    Names,
    Status,
    Step,
)

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool
    from kernel_agent.trajectory import Trajectory

_WHOLE = ViewBounds(min_pixels=1, max_pixels=2**40, max_side=2**31)  # nobody looks at the views: they cost nothing then
_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}\{i\}[A-Za-z0-9_]{0,20}")
_MOST_IMAGES = 10_000
_MOST_CHARS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class RerunOptions:
    """How to run again.

    Attributes:
        tolerance: how far numbers in text may be apart, absolute or relative; 0 for not at all.
        pixel_tolerance: the largest difference of a colour channel (of 255) that is let through.
        kernel: of the audit's kernel; not used with a pool.
        unsafe: whether a kernel without isolation may be used.
        cell_seconds: longest deadline of one cell; it gets three times what it took and 10 s.
        seconds: longest time of all cells together.
        max_pixels: largest image, in pixels.
        pictures: whether pictures of differences are made.
        code: whether the cells are run at all; else only the inputs are compared.
    """

    tolerance: float = 0.0
    pixel_tolerance: int = 0
    kernel: KernelOptions = KernelOptions()
    unsafe: bool = False
    cell_seconds: float = 600.0
    seconds: float = 3600.0
    max_pixels: int = 100_000_000
    pictures: bool = True
    code: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.tolerance < 1 and 0 <= self.pixel_tolerance <= 255):
            raise InputError(
                f"tolerance {self.tolerance}, pixel tolerance {self.pixel_tolerance}: give a number from 0 up to 1, and one from"
                " 0 to 255"
            )


async def rerun(
    trajectory: Trajectory, options: RerunOptions = RerunOptions(), *, pool: KernelPool | None = None
) -> Rerun:
    """Run all cells again and compare.

    Raises InputError where the kernel would not be isolated and `options.unsafe` is not set, TrajectoryError where the
    record's inputs or names cannot be used at all. A kernel that cannot be had makes cells "not replayable".
    """
    check_isolation(options.kernel if pool is None else pool.kernel, unsafe=options.unsafe or not options.code)
    began = time.perf_counter()
    steps = [(step, step.cell) for step in trajectory.steps if step.cell is not None and options.code]
    inputs, loaded = _inputs(trajectory, options)
    cells: list[CellVerdict] = []
    isolation = "not started"
    if steps:
        session = _session(trajectory, loaded, options, pool)
        try:
            run = _Run(trajectory, session, options, began)
            for step, cell in steps:
                cells.append(await run.cell(step, cell))
                isolation = session.isolation if session.isolation != "not started" else isolation
        finally:
            await session.aclose()
    return Rerun(
        inputs=tuple(inputs),
        cells=tuple(cells),
        isolation=isolation,
        environment=environment_changes(trajectory.header),
        seconds=time.perf_counter() - began,
    )


def check_isolation(kernel: KernelOptions, *, unsafe: bool) -> None:
    """InputError for a kernel that keeps nothing in, unless that is what the auditor wants."""
    if unsafe:
        return
    if kernel.isolation is Isolation.NONE or kernel.provisioner != "codevision":
        raise InputError(
            "An audit runs code that nobody has vouched for, so it runs in isolation only. Take isolation auto, strong, medium"
            " or container; or, if the code is your own, say so with --unsafe-no-sandbox."
        )


def environment_changes(header: Mapping[str, Json]) -> dict[str, tuple[str, str]]:
    """Versions that are not as recorded: name -> (recorded, here)."""
    then, now = header.get("environment"), environment()
    if not isinstance(then, Mapping):
        return {"environment": ("not recorded", str(now["python"]))}
    found = {
        name: (str(then.get(name)), str(now[name])) for name in ("python", "platform") if then.get(name) != now[name]
    }
    packages = then.get("packages")
    old: Mapping[str, Json] = packages if isinstance(packages, Mapping) else {}
    new: Mapping[str, str] = now["packages"]
    for name in sorted({*old, *new}, key=str):
        if old.get(name) != new.get(name):
            found[str(name)[:80]] = (str(old.get(name, "none"))[:80], new.get(name, "none"))
    return found


def _inputs(trajectory: Trajectory, options: RerunOptions) -> tuple[list[Comparison], list[LoadedImage]]:
    """The images that no step made, decoded under limits and compared with their hashes."""
    made = {image.index for step in trajectory.steps for image in step.images}
    compared: list[Comparison] = []
    loaded: list[LoadedImage] = []
    for image in trajectory.images:
        if image.index in made:
            continue
        if image.index != len(loaded):
            raise TrajectoryError(
                f"the input images are not counted from 0: image {image.index} comes as number {len(loaded)}"
            )
        try:
            loaded.append(load_image(image.data, max_pixels=options.max_pixels))
        except ImageError as error:
            raise TrajectoryError(f"the input {image.name} cannot be opened: {error}") from error
        compared.append(compare_input(image, loaded[-1].pil))
    return compared, loaded


def _session(
    trajectory: Trajectory, inputs: Sequence[LoadedImage], options: RerunOptions, pool: KernelPool | None
) -> Session:
    """A session as the run had it; what a file says is held within bounds."""
    header = trajectory.header
    names = decode(Names, encode(header["names"]), where="header.names") if "names" in header else Names()
    if not _PATTERN.fullmatch(names.pattern):
        raise TrajectoryError(
            f"header.names.pattern {names.pattern!r:.80} is none that names images: letters and one {{i}}"
        )
    recorded = header.get("budget")
    budget: Mapping[str, Json] = recorded if isinstance(recorded, Mapping) else {}
    made = sum(len(step.images) for step in trajectory.steps)
    usual = Budget()
    return Session(
        inputs,
        names=names,
        budget=Budget(
            images=min(max(_whole(budget.get("images"), usual.images), made), _MOST_IMAGES),
            output_chars=min(_whole(budget.get("output_chars"), usual.output_chars), _MOST_CHARS),
        ),
        bounds=_WHOLE,
        max_pixels=min(_whole(header.get("max_pixels"), options.max_pixels), options.max_pixels),
        kernel=options.kernel,
        seed=_whole(header.get("kernel_seed"), 0) % 2**32,
        pool=pool,
    )


def _whole(value: Json, usual: int) -> int:
    return value if isinstance(value, int) and value > 0 else usual


class _Run:
    """The cells run again so far, and what later ones can no longer be held to."""

    def __init__(self, trajectory: Trajectory, session: Session, options: RerunOptions, began: float) -> None:
        self.header, self.session, self.options = trajectory.header, session, options
        self.deadline = began + options.seconds
        self.events = sorted(event.time for event in trajectory.events if event.kind == "cells_replayed")
        self.before: Step | None = None
        self.lost: dict[str, str] = {}  # name -> why a cell that uses it may give something else
        self.stopped = ""  # why no further cell is run
        self.interrupted = False

    async def cell(self, step: Step, cell: CellResult) -> CellVerdict:
        """Run one cell and compare it."""
        words = words_of(cell.source)
        found = sources(drawn_on(cell.source), self.header)
        base = CellVerdict(
            step=step.index,
            verdict=Verdict.NOT_REPLAYABLE,
            recorded=cell.status,
            replayed=None,
            sources=found,
            seconds=(cell.seconds, 0.0),
            source=cell.source,
        )
        if not self.stopped and time.perf_counter() >= self.deadline:
            self.stopped = f"the audit's {self.options.seconds:g} s were up"
        if self.stopped:
            return replace(base, why=self.stopped)
        began = time.perf_counter()
        try:
            if self._was_restarted(step, cell):
                await self.session.aamend(self.session.cells[-1], restart=True)
            again = await self.session.arun(cell.source, seconds=self._seconds(cell), as_is=True)
            took = time.perf_counter() - began
            compared = self._compare(cell, again, found)
            verdict, why = self._judge(step.index, cell, again, compared, words, found)
            await self._go_on(cell, again)
        except KernelError as error:
            self.stopped = f"no kernel since step {step.index + 1}"
            return replace(base, why=f"no kernel: {error}")
        self.before = step
        return replace(
            base,
            verdict=verdict,
            why=why,
            replayed=again.status,
            comparisons=tuple(item for item in compared if item.verdict is not Verdict.IDENTICAL),
            compared=len(compared),
            seconds=(cell.seconds, took),
        )

    def _was_restarted(self, step: Step, cell: CellResult) -> bool:
        """Whether this cell met a kernel in which the good cells had been run again. It matters only after an interrupted one."""
        if not self.interrupted or not self.session.cells or self.before is None:
            return False
        if cell.status is not Status.KILLED and any(event.kind == "cells_replayed" for event in cell.events):
            return True
        ended = self.before.started + self.before.seconds
        return any(ended <= moment <= step.started + step.seconds for moment in self.events)

    def _seconds(self, cell: CellResult) -> float:
        """The deadline: where the cell was interrupted, the moment that happened; else enough."""
        event = _event(cell, "interrupted")
        after = took = cell.seconds if 0 <= cell.seconds < 1e9 else 0.0
        if (
            event is not None
            and event.data.get("why") == "timeout"
            and isinstance(event.data.get("after"), (int, float))
        ):
            after = float(event.data["after"])
        wanted = after if event is not None else 10 + 3 * took
        left = self.deadline - time.perf_counter()
        return max(0.05, min(wanted, self.options.cell_seconds, left))

    def _compare(self, cell: CellResult, again: CellResult, found: Sequence[Source]) -> list[Comparison]:
        """Everything: how it ended, what it wrote, its images and where they came from."""
        options, used = self.options, frozenset(source.name for source in found)
        compared = [_status(cell, again)]
        compared += compare_outputs(cell.outputs, again.outputs, used=used, tolerance=options.tolerance)
        for old, new in zip(cell.images, again.images, strict=False):
            compared.append(
                compare_image(
                    old,
                    new,
                    max_pixels=options.max_pixels,
                    tolerance=options.pixel_tolerance,
                    pictures=options.pictures,
                )
            )
            compared.append(compare_lineage(old, new))
            if not old.lossless and old.view != old.data and old.pixel_sha256 == new.pixel_sha256:
                compared.append(compare_view(old, new, self.header, max_pixels=options.max_pixels))
        for image in cell.images[len(again.images) :]:
            how = "the record has it, the code does not show it"
            compared.append(Comparison(what=image.name, verdict=Verdict.MISSING, how=how))
        for image in again.images[len(cell.images) :]:
            how = "the code shows it, the record lacks it"
            compared.append(Comparison(what=image.name, verdict=Verdict.MISSING, how=how))
        return compared

    def _judge(
        self,
        index: int,
        cell: CellResult,
        again: CellResult,
        compared: Sequence[Comparison],
        words: frozenset[str],
        found: Sequence[Source],
    ) -> tuple[Verdict, str]:
        """The cell's verdict, and why it is not replayable; keeps the names that later cells cannot be held to."""
        verdict = worst(item.verdict for item in compared)
        holds, at = verdict.holds, f"step {index + 1}"
        free = [source for source in found if not source.pinned]
        names = shared(words)
        why = ""
        if cell.status in (Status.TIMEOUT, Status.KILLED):
            stop = "interrupted by the clock" if cell.status is Status.TIMEOUT else "stopped with its kernel"
            if cell.status is Status.TIMEOUT:  # else what it did is gone with its kernel
                self._lose(names, f"{at} was {stop}")
            if not holds:
                why = f"{stop}: how far it had come is not the code's to say"
        elif again.status in (Status.TIMEOUT, Status.KILLED):
            why = _ended(again)
            self._lose(names, f"{at} could not be run again ({why})")
        elif not holds:
            touched = sorted(names & self.lost.keys())
            if free:
                told = "; ".join(f"{source.name} ({', '.join(source.words)}): {source.how}" for source in free)
                why = f"not pinned: {told}"
            elif touched:
                why = f"{self.lost[touched[0]]}, and both use {', '.join(touched[:5])}"
            if why:
                self._lose(written(cell.source), f"{at} was not replayable")
        if free and not why:  # what it drew may come to light later
            self._lose(written(cell.source), f"{at} drew on " + ", ".join(source.name for source in free))
        return (Verdict.NOT_REPLAYABLE if why else verdict), why[:600]

    def _lose(self, names: frozenset[str], why: str) -> None:
        if why:
            for name in names:
                self.lost.setdefault(name, why[:300])

    async def _go_on(self, cell: CellResult, again: CellResult) -> None:
        """Let the kernel go on from what was recorded where this cell's end cannot be had again, or names would move."""
        self.interrupted |= cell.status is Status.TIMEOUT
        good = (Status.OK, Status.ERROR)
        stopped = cell.status not in good or again.status not in good
        same = [image.pixel_sha256 for image in cell.images] == [image.pixel_sha256 for image in again.images]
        if (cell.status is again.status and same) or (not stopped and len(cell.images) == len(again.images)):
            return
        kept = () if stopped else again.images[: len(cell.images)]
        images = [*kept, *(self._held(image, again) for image in cell.images[len(kept) :])]
        status = cell.status if cell.status not in good else again.status
        restart = cell.status is Status.KILLED and again.status is not Status.KILLED
        count = cell.execution_count if stopped else again.execution_count
        await self.session.aamend(
            replace(again, images=tuple(images), status=status, execution_count=count), restart=restart
        )

    def _held(self, image: KernelImage, again: CellResult) -> KernelImage:
        """An image of the record, as our own file."""
        try:
            pixels = decode_output(image.data, self.options.max_pixels)
        except ImageError as error:
            raise KernelError(f"{image.name} of the record cannot be put back: {error}") from error
        data = encode_png(pixels)
        return replace(image, data=data, view=data, mime="image/png", view_mime="image/png", size=pixels.size)


def _status(cell: CellResult, again: CellResult) -> Comparison:
    told = (str(cell.status), str(again.status))
    verdict = Verdict.IDENTICAL if cell.status is again.status else Verdict.DIFFERS
    return Comparison(what="status", verdict=verdict, texts=told)


def _event(cell: CellResult, kind: str) -> Event | None:
    return next((event for event in cell.events if event.kind == kind), None)


def _ended(again: CellResult) -> str:
    """Why a cell that once ended by itself did not do so now."""
    if (event := _event(again, "interrupted")) is not None:
        return f"it did not end within {event.data.get('after')} s here"
    event = _event(again, "kernel_died")
    facts = ", ".join(f"{key} {value}" for key, value in event.data.items()) if event is not None else ""
    return f"its kernel died here ({facts or 'unknown why'})"
