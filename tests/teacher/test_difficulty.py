"""Rollouts of a model that is right as often as its task's id says."""

import json
from pathlib import Path

import pytest
from PIL import Image

from kernel_agent import KernelOptions
from kernel_agent.errors import InputError, ModelFailed
from kernel_agent.models import ScriptedModel
from kernel_agent.session import KernelPool
from kernel_agent.tasks import filters
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.teacher.difficulty import rollouts
from kernel_agent.types import Request, TextPart


def tasks(folder: Path) -> list[GroundTruth]:
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "x.png")
    return [
        GroundTruth(id=name, question=f"Right {often} of 3?", answers=("yes",), image=str(folder / "x.png"))
        for name, often in (("easy", 3), ("mixed", 1), ("hard", 0))
    ]


def sometimes(request: Request) -> str:
    text = "".join(part.text for part in request.messages[-1].content if isinstance(part, TextPart))
    often = int(text.split("Right ")[1][0])
    assert request.sampling.temperature == 1.0
    return f"<answer>{'yes' if (request.sampling.seed or 0) < often else 'no'}</answer>"


async def test_rollouts_are_counted_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "out" / "rollouts.jsonl"
    model = ScriptedModel([*[sometimes] * 4, ModelFailed("gone"), *[sometimes] * 50], name="sometimes")
    async with KernelPool(1, kernel=KernelOptions(isolation="none")) as pool:
        with pytest.raises(ModelFailed):
            await rollouts(tasks(tmp_path), model, 3, file, pool)
        done = len(file.read_text().splitlines()) - 1
        assert done == 8  # all but the one that failed
        with file.open("a") as out:
            out.write('{"task": "ha')  # killed in the middle of a line
        told: list[int] = []
        found = await rollouts(tasks(tmp_path), model, 3, file, pool, progress=told.append)
        assert told == [8, 9]
        assert found == {"easy": [True] * 3, "mixed": [True, False, False], "hard": [False] * 3}
        assert set(filters.one_sided(found)) == {"easy", "hard"}
        assert len([json.loads(line) for line in file.read_text().splitlines()]) == 10
        with pytest.raises(InputError, match="another model"):
            await rollouts(tasks(tmp_path), ScriptedModel([], name="other"), 3, file, pool)
