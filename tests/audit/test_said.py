"""What the model saw and said: a contradiction in the record is found and named, without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from forging import repaint
from PIL import Image

from kernel_agent import Agent, Budget, Task
from kernel_agent.audit.audit import audit
from kernel_agent.audit.exchanges import people
from kernel_agent.audit.html import to_html
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.said import check_record
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.protocols import PROTOCOLS
from kernel_agent.session.images_view import ViewBounds
from kernel_agent.steering import Decision
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.state import State
from kernel_agent.types import ImageEncoding, RunCode, Step, TextPart

NATIVE = (
    '<think>Turn it.</think><tool_call>{"name": "code_image_tool", "arguments": {"code": "result = image.rotate(90, '
    'expand=True)", "description": "turn", "image_index": 0}}</tool_call>'
)
SCRIPTS = {
    "native": [NATIVE, "neither", "<answer>7</answer>"],
    "fenced": ["Look.\n```python\nimage_0\n```", "```python\n1/0\n```", "<answer>7</answer>"],
    "pyvision": ["Look.\n<code>\n```python\nimage_clue_0.size\n```\n</code>", "<answer>7</answer>"],
}


async def _run(protocol: str, picture: Image.Image, *, jpeg: bool = False) -> Trajectory:
    encoding = ImageEncoding(notebook="jpeg", view="jpeg") if jpeg else ImageEncoding()
    agent = Agent(
        ScriptedModel(SCRIPTS[protocol]),
        protocol=protocol,
        budget=Budget(steps=4),
        bounds=ViewBounds(max_pixels=1500, min_pixels=100),
        encoding=encoding,
    )
    return await agent.arun(Task(question="How many?", images=(picture,)))


def _problems(run: Trajectory) -> list[tuple[str, str]]:
    return [(finding.cell, finding.field) for finding in check_record(run, max_pixels=10**7)]


@pytest.mark.parametrize("protocol", SCRIPTS)
async def test_an_honest_record_follows_from_itself(protocol: str, picture: Image.Image) -> None:
    run = await _run(protocol, picture)
    assert run.images[0].view is not run.images[0].data
    assert _problems(run) == []


async def test_lossy_views_are_those_of_their_images(picture: Image.Image) -> None:
    assert _problems(await _run("native", picture, jpeg=True)) == []


class _Person:
    """Changes the first code and refuses the second."""

    async def before_model(self, step: int) -> None:
        """Nothing."""

    async def before_code(self, step: int, action: RunCode) -> Decision | None:
        return Decision(code="image_0.size" if step == 0 else None, reason="not that", by="ann")


async def test_code_that_a_person_changed_or_refused_fits_what_was_decided(picture: Image.Image) -> None:
    model = ScriptedModel(["```python\n1\n```", "```python\n2\n```", "<answer>7</answer>"])
    conversation = Agent(model, protocol="fenced").converse((picture,))
    run = await conversation.ask("How many?", steering=_Person())
    await conversation.aclose()
    assert [event.kind for event in run.events if event.kind in ("code_edited", "refused")] == [
        "code_edited",
        "refused",
    ]
    assert _problems(run) == []
    assert [(item["step"], item["what"], item["by"]) for item in people(run)] == [
        (1, "code_edited", "ann"),
        (2, "refused", "ann"),
    ]
    report = await audit(run, RerunOptions(code=False))
    assert "code_edited by ann at step 1" in to_html(report, run)
    said = [replace(event, data={**event.data, "ran": "3", "reason": "x"}) for event in run.events]
    lied = Trajectory(replace(run._state, events=said))
    assert set(_problems(lied)) >= {("step 1", "action"), ("step 2", "observation")}


def _with(run: Trajectory, index: int, change: Callable[[Step], Step]) -> Trajectory:
    old: State = run._state
    state = replace(old, steps=[change(step) if step.index == index else step for step in old.steps])
    return Trajectory(state)


async def test_each_contradiction_is_found_where_it_is(picture: Image.Image) -> None:
    run = await _run("native", picture)
    steps = run.steps
    action = steps[0].action
    assert isinstance(action, RunCode)
    told = steps[0].observation
    assert told is not None
    cell = steps[0].cell
    assert cell is not None
    completion = replace(steps[1].completion, text="<think>x</think>neither")
    changes: list[tuple[int, Callable[[Step], Step], tuple[str, str]]] = [
        (0, lambda step: replace(step, thought="I saw it at once."), ("step 1", "thought")),
        (0, lambda step: replace(step, action=replace(action, code="1")), ("step 1", "action")),
        (0, lambda step: replace(step, cell=replace(cell, source=cell.source + "\n1")), ("step 1", "code")),
        (
            0,
            lambda step: replace(step, observation=replace(told, content=(*told.content, TextPart(text="Good.")))),
            ("step 1", "observation"),
        ),
        (1, lambda step: replace(step, completion=completion), ("step 3", "request")),
        (1, lambda step: replace(step, new_messages=step.new_messages[:1]), ("step 2", "request")),
        (0, lambda step: replace(step, new_messages=step.new_messages[1:2]), None),  # no system prompt was asked for
        (
            2,
            lambda step: replace(step, completion=replace(step.completion, text="<answer>8</answer>")),
            ("step 3", "action"),
        ),
    ]
    for index, change, place in changes:
        found = _problems(_with(run, index, change))
        assert place is None or place in found, (place, found)
    lied = Trajectory(replace(run._state, turns=[replace(run.turns[0], answer="8")]))
    assert _problems(lied) == [("turn 1", "answer")]
    asked = Trajectory(replace(run._state, turns=[replace(run.turns[0], question="How few?")]))
    assert _problems(asked) == [("step 1", "request")]


async def test_a_view_with_other_pixels_than_its_image_is_found(picture: Image.Image) -> None:
    run = await _run("native", picture)
    image = run.images[1]

    def flip(pixels: np.ndarray) -> None:
        pixels[0, 0, 0] ^= 1

    view = repaint(replace(image, data=image.view), flip).data
    as_input = replace(image, view=view, origin="input", parent=None, affine=None)
    changed = Trajectory.start(images=[run.images[0], as_input], header=run.header)
    assert _problems(changed) == [("input", "view of image_1")]


def test_every_protocol_can_be_read_again() -> None:
    assert set(SCRIPTS) <= set(PROTOCOLS)
