"""What the events of a live run hold, as JSON.

===========  =====================================================================================================
run          id, parent {run, steps} or null, model, protocol, isolation, path, images; always first, and again when
             something of it has changed
turn         turn, question, budget {steps, seconds, tokens, images}, first_step
writing      step, text: what the model wrote more; with whole=true, all it has written of this step
action       step, thought, action, approval (true: it waits to be approved or refused)
running      step, code, edited: a cell has begun
step         see `step`: the step is over and saved
budget       left and limit {steps, seconds, tokens, images}
state        state: running, paused, waiting (for approval), idle (the turn is over), closed; approve_each
answer       turn, answer, stop_reason, failure: the turn is over
branch       run, steps, why (rewind, edit, fork): a branch of this run was made
===========  =====================================================================================================

Text is as the model and its code wrote it: a face shows it as text, never as markup.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernel_agent.errors import LineageError
from kernel_agent.trajectory import Trajectory, geometry
from kernel_agent.types import (
    Action,
    Answer,
    Budget,
    ErrorOutput,
    Event,
    ImageOutput,
    Json,
    KernelImage,
    Output,
    RunCode,
    Step,
    StreamOutput,
)


def image(item: KernelImage, images: Mapping[int, KernelImage]) -> Json:
    """An image without its bytes; `outline`: its corners on the input `root`, in that one's pixels, clockwise from top left."""
    outline, root = None, None
    try:
        root = geometry.lineage(images, item.index)[-1].index
        a, b, c, d, e, f = geometry.to_root(images, item.index)
        width, height = item.size
        corners = ((0, 0), (width, 0), (width, height), (0, height))
        outline = [[a * x + b * y + c, d * x + e * y + f] for x, y in corners]
    except LineageError:
        pass
    return {
        "index": item.index,
        "name": item.name,
        "size": list(item.size),
        "view_size": list(item.view_size),
        "mime": item.mime,
        "view_mime": item.view_mime,
        "pixel_sha256": item.pixel_sha256,
        "lossless": item.lossless,
        "parent": item.parent,
        "origin": item.origin,
        "source": item.source,
        "root": root,
        "outline": outline,
    }


def action(value: Action) -> Json:
    """What the model wants."""
    if isinstance(value, RunCode):
        return {
            "kind": "code",
            "code": value.code,
            "description": value.description,
            "image_index": value.image_index,
        }
    if isinstance(value, Answer):
        return {"kind": "answer", "text": value.text}
    return {"kind": "malformed", "problem": value.problem, "remedy": value.remedy}


def output(value: Output) -> Json:
    """One output of a cell; an image by its index."""
    if isinstance(value, StreamOutput):
        return {"kind": "stream", "name": value.name, "text": value.text, "dropped": value.dropped}
    if isinstance(value, ImageOutput):
        return {"kind": "image", "index": value.index, "is_result": value.is_result}
    if isinstance(value, ErrorOutput):
        return {
            "kind": "error",
            "ename": value.ename,
            "evalue": value.evalue,
            "traceback": list(value.traceback),
        }
    return {"kind": "text", "text": value.text, "is_result": value.is_result, "dropped": value.dropped}


def step(value: Step, trajectory: Trajectory) -> Json:
    """A whole step. `edited` says that a person changed its code."""
    cell, known = value.cell, {item.index: item for item in trajectory.images}
    status = cell.status if cell is not None else value.observation.status if value.observation else None
    happened: list[Event] = [*value.completion.events, *value.events, *(cell.events if cell else ())]
    return {
        "step": value.index,
        "thought": value.thought,
        "action": action(value.action),
        "status": status and str(status),
        "edited": any(
            event.kind == "code_edited" and event.data.get("step") == value.index for event in trajectory.events
        ),
        "seconds": round(value.seconds, 3),
        "tokens": value.completion.usage.completion_tokens,
        "outputs": [output(item) for item in cell.outputs] if cell else [],
        "images": [image(item, known) for item in value.images],
        "events": [{"kind": event.kind, "data": dict(event.data)} for event in happened],
    }


def limits(budget: Budget) -> Json:
    """A turn's budget."""
    return {"steps": budget.steps, "seconds": budget.seconds, "tokens": budget.tokens, "images": budget.images}
