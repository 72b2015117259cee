"""Did the images matter? Change the picture that a step showed, let a live model go on from there, and see what changes.

For each step that showed pictures and was followed by another, and for each change, the run is branched after the step, its kernel
forked, the picture changed in the kernel and in what the model is told, and the model asked on to its answer. A control branch
with nothing changed tells how much the model differs by itself.

The score: the share of counterfactuals whose answer or next action is another one than the run's, minus the same share of the
controls; 1 where every change of a picture changes what the model does, 0 where none does more than chance. Text is
compared exactly but for spaces and case of answers; actions by their code. Not guaranteed: that a change which leaves the text legible
(a recolouring) ought to matter: read the table, not only the score. Variables of the code that hold the picture under another name
than the run's stay as they are. Everything runs in isolation, as in an audit.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kernel_agent.agent import Agent
from kernel_agent.api import recorded_options
from kernel_agent.audit.compare_images import decode
from kernel_agent.audit.rerun_setup import check_isolation
from kernel_agent.conversation import Conversation, history
from kernel_agent.errors import InputError
from kernel_agent.session.images_view import encode_png, over_white, pixel_sha256
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.records import Images
from kernel_agent.types import (
    Action,
    ImagePart,
    Json,
    KernelImage,
    KernelOptions,
    Part,
    RunCode,
    Status,
    Step,
)

if TYPE_CHECKING:
    from PIL import Image

    from kernel_agent.models import Model
    from kernel_agent.session import Session

_TILES = 6


class Change(StrEnum):
    """What is done to every picture that a step showed."""

    CONTROL = "control"  # nothing
    BLANK = "blank"  # its mean colour all over
    SWAP = "swap"  # another picture of the run, at this one's size
    SHUFFLE = "shuffle"  # its tiles in another order
    RECOLOUR = "recolour"  # negative
    DROP = "drop"  # the model is not shown it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One branch: what the run did after step `step` (counted from 0) and what the branch did."""

    step: int
    change: Change
    answers: tuple[str | None, str | None]
    actions: tuple[str, str]

    @property
    def answer_changed(self) -> bool:
        """Whether the answer is another one, spaces and case aside."""
        one, other = (" ".join((answer or "").split()).casefold() for answer in self.answers)
        return one != other

    @property
    def action_changed(self) -> bool:
        """Whether the next action is another one."""
        return self.actions[0] != self.actions[1]

    @property
    def changed(self) -> bool:
        """Either."""
        return self.answer_changed or self.action_changed

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "step": self.step + 1,
            "change": str(self.change),
            "answer": list(self.answers),
            "action": list(self.actions),
            "answer_changed": self.answer_changed,
            "action_changed": self.action_changed,
        }


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """All branches of a run; see the module for the score's definition."""

    outcomes: tuple[Outcome, ...]

    def share(self, *changes: Change) -> float | None:
        """Of the branches with these changes (all but the control where none is given), those that did something else."""
        wanted = changes or tuple(change for change in Change if change is not Change.CONTROL)
        found = [outcome.changed for outcome in self.outcomes if outcome.change in wanted]
        return sum(found) / len(found) if found else None

    @property
    def score(self) -> float | None:
        """0 to 1; None where no step could be looked at."""
        changed, control = self.share(), self.share(Change.CONTROL)
        return None if changed is None or control is None else max(0.0, changed - control)

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        shares = {str(change): self.share(change) for change in Change}
        return {"score": self.score, "changed": shares, "branches": [outcome.as_json() for outcome in self.outcomes]}


async def counterfactuals(
    trajectory: Trajectory,
    model: Model,
    *,
    changes: Sequence[Change] = tuple(Change),
    kernel: KernelOptions = KernelOptions(),
    unsafe: bool = False,
) -> Faithfulness:
    """Make and run all branches. Raises InputError without isolation, KernelError, ModelError where a branch cannot go on."""
    check_isolation(kernel, unsafe=unsafe)
    agent = Agent(model, **recorded_options(trajectory.header), kernel=kernel)
    outcomes = []
    async for step, session in _states(trajectory, agent):
        for change in dict.fromkeys((Change.CONTROL, *changes)):
            outcomes.append(await _branch(trajectory, agent, session, step, change))
    return Faithfulness(outcomes=tuple(outcomes))


async def _states(trajectory: Trajectory, agent: Agent) -> AsyncIterator[tuple[Step, Session]]:
    """Each step that can be looked at, with a session in the state after it."""
    session = agent.session()
    if isinstance(seed := trajectory.header.get("kernel_seed"), int):
        session.seed = seed
    session.resume_from([image for image in trajectory.images if image.origin == "input"], [])
    starts = {turn.first_step for turn in trajectory.turns}
    try:
        for step in trajectory.steps:
            if step.cell is None:
                continue
            if step.cell.status in (Status.TIMEOUT, Status.KILLED):
                return  # how far it had come cannot be had again
            ran = await session.arun(step.cell.source, as_is=True)
            if len(ran.images) != len(step.images):
                raise InputError(
                    f"step {step.index + 1} shows {len(ran.images)} pictures here, {len(step.images)} in the run"
                )
            last = step.index + 1 == len(trajectory.steps) or step.index + 1 in starts
            if step.images and step.observation is not None and not last:
                yield step, session
    finally:
        await session.aclose()


async def _branch(trajectory: Trajectory, agent: Agent, base: Session, step: Step, change: Change) -> Outcome:
    session = await base.afork()
    try:
        branch = _changed(trajectory, step, change)
        altered = branch.steps[-1]
        if change not in (Change.CONTROL, Change.DROP):
            await session.aamend(replace(session.cells[-1], images=tuple(altered.images)))
        sent, new = history(agent.protocol, branch)
        conversation = Conversation(agent.model, agent.protocol, agent.sampling, session, branch, sent, new)
        await conversation.resume()
        if branch.failure is not None:
            raise branch.failure
    finally:
        await session.aclose()
    turn = next(turn for turn in reversed(trajectory.turns) if turn.first_step <= step.index)
    following = trajectory.steps[step.index + 1].action, branch.steps[step.index + 1].action
    return Outcome(
        step=step.index,
        change=change,
        answers=(turn.answer, branch.answer),
        actions=(_told(following[0]), _told(following[1])),
    )


def _told(action: Action) -> str:
    if isinstance(action, RunCode):
        return f"code: {action.code}"
    return f"answer: {action.text}" if hasattr(action, "text") else "malformed"


def _changed(trajectory: Trajectory, step: Step, change: Change) -> Trajectory:
    """The run up to the step, its question open again, with the step's pictures changed."""
    branch = trajectory.branch(step.index + 1, in_turn=True)
    assert step.cell is not None
    assert step.observation is not None
    new = {image.index: _image(image, change, trajectory) for image in step.images}

    def shown(part: Part) -> Part | None:
        if isinstance(part, ImagePart) and part.image.index in new:
            return None if change is Change.DROP else ImagePart(image=new[part.image.index])
        return part

    content = tuple(part for part in map(shown, step.observation.content) if part is not None)
    altered = replace(
        step,
        cell=replace(step.cell, images=tuple(new.values())),
        observation=replace(step.observation, content=content),
    )
    images = Images()
    for image in branch.images:
        images.add(new.get(image.index, image))
    header = {**branch.header, "counterfactual": {"step": step.index, "change": str(change)}}
    steps = [*branch.steps[:-1], altered]
    return Trajectory(replace(branch._state, images=images, steps=steps, header=header))


def _image(image: KernelImage, change: Change, trajectory: Trajectory) -> KernelImage:
    """The picture after the change, at the same sizes."""
    if change in (Change.CONTROL, Change.DROP):
        return image
    picture = _altered(decode(image, 10**9), image, change, trajectory)
    data = encode_png(picture)
    small = over_white(picture)
    view = data if image.view_size == image.size else encode_png(small.resize(image.view_size))
    return replace(
        image,
        data=data,
        view=view,
        pixel_sha256=pixel_sha256(picture),
        mime="image/png",
        view_mime="image/png",
        lossless=True,
    )


def _altered(picture: Image.Image, image: KernelImage, change: Change, trajectory: Trajectory) -> Image.Image:
    from PIL import Image, ImageOps, ImageStat

    plain = picture.convert("RGB")
    if change is Change.BLANK:
        mean = tuple(round(value) for value in ImageStat.Stat(plain).mean)
        return Image.new("RGB", picture.size, (mean[0], mean[1], mean[2]))
    if change is Change.RECOLOUR:
        return ImageOps.invert(plain)
    if change is Change.SWAP:
        others = [other for other in trajectory.images if other.pixel_sha256 != image.pixel_sha256]
        if others:
            return decode(others[0], 10**9).convert("RGB").resize(picture.size)
        return plain.transpose(Image.Transpose.ROTATE_180)
    return _shuffled(plain)


def _shuffled(picture: Image.Image) -> Image.Image:
    """Tiles of one size in another order, the same for all pictures of a size; what is left at the edges stays."""
    out = picture.copy()
    width, height = max(1, picture.width // _TILES), max(1, picture.height // _TILES)
    corners = [(x * width, y * height) for x in range(picture.width // width) for y in range(picture.height // height)]
    order = corners.copy()
    random.Random(0).shuffle(order)
    for (x, y), (left, top) in zip(corners, order, strict=True):
        out.paste(picture.crop((left, top, left + width, top + height)), (x, y))
    return out
