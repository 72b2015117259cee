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

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_agent.audit.compare_images import compare_image, compare_lineage, compare_view
from kernel_agent.audit.compare_text import begin_alike, compare_outputs
from kernel_agent.audit.flow import Drawn, Flow
from kernel_agent.audit.rerun_setup import (
    RerunOptions,
    check_isolation,
    environment_changes,
    inputs_of,
    session_for,
)
from kernel_agent.audit.sanitisers import Known, spelled
from kernel_agent.audit.verdicts import CellVerdict, Comparison, Rerun, Verdict, worst
from kernel_agent.errors import ImageError, KernelError
from kernel_agent.session import Session
from kernel_agent.session.images import decode_output, encode_png
from kernel_agent.types import (
    CellResult,
    Event,
    Json,
    KernelImage,
    Status,
    Step,
)

if TYPE_CHECKING:
    from kernel_agent.session import KernelPool
    from kernel_agent.trajectory import Trajectory

_ENDED = (Status.OK, Status.ERROR)
_FASTER = 10
"""How many times faster than where it was recorded a cell may run here."""
_SHORTEST = 0.5
"""Seconds that a cell's deadline counts as at least: code that ends at once was never interrupted."""


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
    inputs, loaded = inputs_of(trajectory, options)
    cells: list[CellVerdict] = []
    isolation = "not started"
    if steps:
        session = session_for(trajectory, loaded, options, pool)
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


class _Run:
    """The cells run again so far, and what later ones can no longer be held to."""

    def __init__(self, trajectory: Trajectory, session: Session, options: RerunOptions, began: float) -> None:
        self.header, self.session, self.options = trajectory.header, session, options
        self.deadline = began + options.seconds
        self.events = sorted(event.time for event in trajectory.events if event.kind == "cells_replayed")
        self.before: Step | None = None
        self.flow = Flow(header=trajectory.header)
        self.spelled: frozenset[str] = frozenset()
        self.stopped = ""  # why no further cell is run
        self.interrupted = False

    async def cell(self, step: Step, cell: CellResult) -> CellVerdict:
        """Run one cell and compare it."""
        drawn = self.flow.cell(step.index, cell.source)
        self.spelled |= spelled(cell.source)
        base = CellVerdict(
            step=step.index,
            verdict=Verdict.NOT_REPLAYABLE,
            recorded=cell.status,
            replayed=None,
            sources=drawn.sources,
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
            if self.session.images_refused:
                limit = f"the {self.session.image_bytes:,} bytes that this audit takes of this run (RerunOptions.image_bytes)"
                self.stopped = f"the pictures up to step {step.index + 1} hold more than {limit}"
                return self._flooded(replace(base, replayed=again.status, seconds=(cell.seconds, took)), cell, again)
            compared = self._compare(cell, again)
            verdict, why = self._judge(step.index, cell, again, compared, drawn)
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

    def _flooded(self, base: CellVerdict, cell: CellResult, again: CellResult) -> CellVerdict:
        """The verdict of a cell whose pictures are too much: it differs where it shows some that the record lacks."""
        if len(again.images) <= len(cell.images):
            return replace(base, why=self.stopped)
        how = f"{len(cell.images)} in the record, {len(again.images)} and more in the replay: {self.stopped}"
        found = Comparison(what="images", verdict=Verdict.MISSING, how=how)
        return replace(base, verdict=Verdict.MISSING, comparisons=(found,), compared=1)

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
        took = cell.seconds if 0 <= cell.seconds < 1e9 else 0.0
        after = _after(cell)
        wanted = 10 + 3 * took if after is None else after
        left = self.deadline - time.perf_counter()
        return max(0.05, min(wanted, self.options.cell_seconds, left))

    def _compare(self, cell: CellResult, again: CellResult) -> list[Comparison]:
        """Everything: how it ended, what it wrote, its images and where they came from."""
        options = self.options
        compared = [_status(cell, again)]
        compared += compare_outputs(
            cell.outputs, again.outputs, known=self._known(cell, again), tolerance=options.tolerance
        )
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

    def _known(self, cell: CellResult, again: CellResult) -> Known:
        return Known(spelled=self.spelled, seconds=(cell.seconds, again.seconds))

    def _judge(
        self, index: int, cell: CellResult, again: CellResult, compared: Sequence[Comparison], drawn: Drawn
    ) -> tuple[Verdict, str]:
        """The cell's verdict, and why it is not replayable; keeps the names that later cells cannot be held to."""
        verdict, at = worst(item.verdict for item in compared), f"step {index + 1}"
        if cell.status is Status.TIMEOUT:  # what a killed one did is gone with its kernel
            self.flow.lose(drawn.writes, f"{at} was interrupted by the clock")
        elif cell.status in _ENDED and again.status not in _ENDED:
            self.flow.lose(drawn.writes, f"{at} could not be run again ({_ended(again)})")
        if verdict.holds:
            return verdict, ""
        if verdict.holds is None:
            why = next(f"{item.what}: {item.how}" for item in compared if item.verdict is verdict)
        else:
            why = drawn.excuse(compared) or self._stopped(cell, again, compared, drawn)
        if why and cell.status is not again.status:  # it went another way
            self.flow.lose(drawn.writes, f"{at} was not replayable")
        if why and (wrong := _pictures(cell, compared)):
            self.flow.lose([*wrong, "images"], f"{at} made another picture")
        return (Verdict.NOT_REPLAYABLE if why else verdict), why[:600]

    def _stopped(self, cell: CellResult, again: CellResult, compared: Sequence[Comparison], drawn: Drawn) -> str:
        """Why a cell that was stopped, there or here, cannot be compared; "" where that is no reason for what differs."""
        if cell.status in _ENDED and again.status in _ENDED:
            return ""
        wrong = _pictures(cell, [item for item in compared if item.verdict is Verdict.DIFFERS])
        if wrong or not begin_alike(cell.outputs, again.outputs, known=self._known(cell, again)):
            return ""  # it was stopped, but not on the way to this
        if cell.status in _ENDED:
            own = again.status is Status.KILLED and drawn.ends
            return "" if own else _ended(again)
        stop = "interrupted by the clock" if cell.status is Status.TIMEOUT else "stopped with its kernel"
        if again.status not in _ENDED:
            return f"{stop}: how far it had come is not the code's to say"
        after = _after(cell)
        if after is None:
            there, here = self._memory(), self.session.kernel.memory_mb
            return f"{stop}, which had {there} MiB of memory; here it has {here}" if there != here else ""
        late = again.seconds * _FASTER >= max(after, _SHORTEST)
        return f"{stop} after {after:g} s; here it ended after {again.seconds:.3g} s" if late else ""

    def _memory(self) -> Json:
        """MiB that the run's kernel had, as recorded."""
        kernel = self.header.get("kernel")
        return kernel.get("memory_mb") if isinstance(kernel, Mapping) else None

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


def _pictures(cell: CellResult, compared: Sequence[Comparison]) -> list[str]:
    """The names of the cell's pictures that do not hold."""
    wrong = {item.what.split()[-1] for item in compared if not item.verdict.holds}
    return [image.name for image in cell.images if image.name in wrong]


def _after(cell: CellResult) -> float | None:
    """Seconds after which a cell was interrupted, by the clock or by hand; None for one that ended or died by itself."""
    event = _event(cell, "interrupted")
    if event is None or cell.status in _ENDED:
        return None
    after = event.data.get("after") if event.data.get("why") == "timeout" else cell.seconds
    return float(after) if isinstance(after, (int, float)) and 0 <= after < 1e9 else 0.0


def _event(cell: CellResult, kind: str) -> Event | None:
    return next((event for event in cell.events if event.kind == kind), None)


def _ended(again: CellResult) -> str:
    """Why a cell that once ended by itself did not do so now."""
    if (event := _event(again, "interrupted")) is not None:
        return f"it did not end within {event.data.get('after')} s here"
    event = _event(again, "kernel_died")
    facts = ", ".join(f"{key} {value}" for key, value in event.data.items()) if event is not None else ""
    return f"its kernel died here ({facts or 'unknown why'})"
