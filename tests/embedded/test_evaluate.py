from dataclasses import dataclass, field

import matplotlib
import numpy as np
import pytest
from PIL import Image

from kernel_agent.agent import Agent
from kernel_agent.embedded import evaluate
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.tasks.fonts import Path, discover
from kernel_agent.tasks.reading import ReadingTask, draw_task
from kernel_agent.types import Budget, Completion, ImagePart, Request

CALL = (
    '<think>crop</think><tool_call>{"name": "code_image_tool", "arguments": {"code": "result = image.crop((0, 0, 90, 60))", '
    '"description": "crop", "image_index": 0}}</tool_call>'
)


@pytest.fixture(scope="module")
def task() -> ReadingTask:
    return draw_task(1, 0, discover([Path(matplotlib.get_data_path()) / "fonts" / "ttf"])[:4])


def test_wilson_intervals() -> None:
    half = evaluate.wilson(50, 100)
    assert half.accuracy == 0.5
    assert (half.low, half.high) == (0.4038, 0.5962)
    assert evaluate.wilson(0, 10).low == 0.0
    assert evaluate.wilson(10, 10).high == 1.0
    assert evaluate.wilson(0, 0).high == 1.0


@dataclass
class Looking:
    """A scripted model that keeps the pixels it was shown."""

    inner: ScriptedModel
    name: str = "looking"
    seen: list[list[np.ndarray]] = field(default_factory=list)

    async def complete(self, request: Request, *, on_text: object = None) -> Completion:
        views = [p.image for m in request.messages for p in m.content if isinstance(p, ImagePart)]
        import io

        self.seen.append([np.asarray(Image.open(io.BytesIO(v.view))) for v in views])
        return await self.inner.complete(request)

    async def aclose(self) -> None:
        return None

    def describe(self) -> dict[str, object]:
        return {"kind": "looking"}


async def test_gold_scores_one_and_wrong_scores_zero(task: ReadingTask) -> None:
    for given, expected in ((task.answer, True), (task.answer[::-1] + "X", False)):
        model = ScriptedModel([CALL, f"<answer>{given}</answer>"])
        (outcome,) = await evaluate.run_all(Agent(model, budget=Budget(steps=4)), [task], at_once=1)
        assert outcome.right is expected
        assert outcome.steps == 2


async def test_blanking_hides_what_code_returned_and_nothing_else(task: ReadingTask) -> None:
    looking = Looking(ScriptedModel([CALL, "<answer>unreadable</answer>"]))
    agent = Agent(evaluate.BlankedModel(looking), budget=Budget(steps=4))
    trajectory = await agent.arun(evaluate.Task(question=task.question, images=(task.image,)))
    original, returned = looking.seen[-1]
    assert np.array_equal(original, np.asarray(task.image))
    assert np.ptp(returned) == 0
    assert returned.shape[:2] == (60, 90)
    assert np.ptp(np.asarray(trajectory.steps[0].images[0].to_pil())) > 0, "the run itself keeps the true picture"


async def test_without_the_tool_there_is_one_message(task: ReadingTask) -> None:
    model = ScriptedModel([f"<answer>{task.answer}</answer>", CALL])
    (outcome,) = await evaluate.run_all(Agent(model, budget=Budget(steps=1)), [task], at_once=1)
    assert outcome.steps == 1
    assert outcome.right
