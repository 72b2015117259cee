"""Runs with one thing forged, consistently: every hash in the record fits what was put in."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from kernel_agent import Agent, Budget, KernelPool, Task
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.prompts import cell_report
from kernel_agent.protocols import get_protocol
from kernel_agent.session.images import pixel_sha256
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import CellResult, Event, ImageEncoding, KernelImage


async def record(
    codes: list[str],
    picture: Image.Image,
    *,
    path: Path | None = None,
    cell_seconds: float = 30.0,
    jpeg: bool = False,
    pool: KernelPool | None = None,
    images: int = 32,
) -> Trajectory:
    """An honest run of these cells."""
    replies = [f"I look.\n```python\n{code}\n```" for code in codes]
    agent = Agent(
        ScriptedModel([*replies, "The answer is 7."]),
        protocol="fenced",
        budget=Budget(steps=len(codes) + 1, cell_seconds=cell_seconds, images=images),
        encoding=ImageEncoding(notebook="jpeg" if jpeg else "png"),
        pool=pool,
    )
    return await agent.arun(Task(question="How many?", images=(picture,)), save_to=path)


def forge(run: Trajectory, step: int, change: Callable[[CellResult], CellResult], **header: object) -> Trajectory:
    """The run with one cell changed, as a record without contradictions."""
    other = Trajectory.start(
        images=[image for image in run.images if image.origin == "input"], header={**run.header, **header}
    )
    other.begin_turn("How many?")
    protocol, known, before = get_protocol(str(run.header["protocol"])), list(other.images), None
    for old in run.steps:
        new = replace(old, cell=change(old.cell) if old.index == step and old.cell is not None else old.cell)
        if new.cell is not None and old.observation is not None:
            content = (*cell_report(new.cell, known), *old.observation.content[len(cell_report(old.cell, known)) :])
            new = replace(new, observation=replace(old.observation, status=new.cell.status, content=content))
        if before is not None:
            told = protocol.observe(before.completion, before.observation.content)
            new = replace(new, new_messages=(protocol.reply(before.completion), *told))
        other.add_step(new)
        known += new.images
        before = new
    for event in run.events:
        other.add_event(event)
    other.end_turn(run.answer, run.stop_reason)
    return other


def repaint(image: KernelImage, change: Callable[[np.ndarray], None], *, level: int = 6) -> KernelImage:
    """The image with other pixels, as a PNG that Pillow wrote, and the hash that fits them."""
    pixels = np.array(image.to_pil())
    change(pixels)
    picture, out = Image.fromarray(pixels), io.BytesIO()
    picture.save(out, "PNG", compress_level=level)
    data = out.getvalue()
    return replace(
        image, data=data, view=data, view_mime="image/png", view_size=image.size, pixel_sha256=pixel_sha256(picture)
    )


def with_image(change: Callable[[np.ndarray], None]) -> Callable[[CellResult], CellResult]:
    """Change the pixels of a cell's first image."""
    return lambda cell: replace(cell, images=(repaint(cell.images[0], change), *cell.images[1:]))


def event(kind: str, **data: object) -> Event:
    return Event(kind=kind, time=1.0, data=data)
