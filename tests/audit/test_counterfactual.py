"""Counterfactuals: a model that looks changes its mind with the picture, one that does not look does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from PIL import Image

from kernel_agent import Agent, Budget, Task
from kernel_agent.audit.counterfactual import Change, counterfactuals
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.types import Completion, ImagePart, Json, Request, TextPart

CODES = ["image_0.crop((0, 0, 40, 40))", "print('mean', np.asarray(image_1).mean(axis=(0, 1)).round(1))"]


class Looking:
    """Runs two cells and answers with the hash of the last picture and the last text that it was shown."""

    name = "looking"

    def __init__(self, *, blind: bool = False) -> None:
        self.blind = blind

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """By the number of its own messages so far."""
        said = sum(message.role == "assistant" for message in request.messages)
        if said < len(CODES):
            return Completion(text=f"I look.\n```python\n{CODES[said]}\n```")
        parts = [part for message in request.messages for part in message.content]
        view = [part.image.view for part in parts if isinstance(part, ImagePart)][-1]
        text = [part.text for part in parts if isinstance(part, TextPart) and "mean" in part.text][-1]
        seen = "nothing" if self.blind else f"{hashlib.sha256(view).hexdigest()[:8]} {text}"
        return Completion(text=f"<answer>{seen}</answer>")

    async def aclose(self) -> None:
        """Nothing to close."""

    def describe(self) -> Mapping[str, Json]:
        """For the header."""
        return {"kind": "looking", "model": self.name}


async def test_a_model_that_looks_scores_1_and_one_that_does_not_scores_0(picture: Image.Image) -> None:
    for blind, score in ((False, 1.0), (True, 0.0)):
        model = Looking(blind=blind)
        run = await Agent(model, protocol="fenced", budget=Budget(steps=4)).arun(Task(question="?", images=(picture,)))
        before = run.steps
        found = await counterfactuals(run, model)
        assert found.score == score
        assert found.share(Change.CONTROL) == 0.0
        assert [(item.step, item.change) for item in found.outcomes] == [(0, change) for change in Change]
        assert run.steps == before


async def test_the_kernel_holds_the_changed_picture_too(picture: Image.Image) -> None:
    model = Looking()
    run = await Agent(model, protocol="fenced", budget=Budget(steps=4)).arun(Task(question="?", images=(picture,)))
    found = await counterfactuals(run, model, changes=[Change.RECOLOUR])
    control, negative = (item.answers[1] or "" for item in found.outcomes)
    assert "[127.5  63.8  95.6]" in control
    assert "[127.5 191.2 159.4]" in negative


async def test_a_run_without_pictures_between_steps_has_no_score(picture: Image.Image) -> None:
    model = ScriptedModel(["```python\n1\n```", "<answer>7</answer>"])
    run = await Agent(model, protocol="fenced").arun(Task(question="?", images=(picture,)))
    found = await counterfactuals(run, model)
    assert (found.outcomes, found.score) == ((), None)
