"""What scoring a run costs beside running it: `python -m perf.rewards --json OUT`.

| figure | what it is | goal |
|---|---|---|
| default_vs_cell, paper_vs_cell, reference_vs_cell | median time to score a run of three cells (turn, crop, crop and enhance) on a 1024x768 photograph, the rollouts of one question after another, against the median of those cells in a kernel, picture made and encoded | |
| default_picture_vs_cell | the first of these by picture | 1.5 |
| first_vs_cell | the same for the first rollout, whose input has to be decoded | |
| default_ms, reference_ms, cell_ms | on this machine | |

Measured in turn in one run; scoring is pure and needs no kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kernel_agent import Agent, Task, Trajectory
from kernel_agent.models import ScriptedModel
from kernel_agent.operations import pictures
from kernel_agent.rewards import Rewards, score
from kernel_agent.tasks.ground_truth import GroundTruth, Operation

ROLLOUTS = 12


def photograph() -> Image.Image:
    y, x = np.mgrid[:768, :1024]
    rng = np.random.default_rng(0)
    waves = [127 + 90 * np.sin(x / a + y / b) for a, b in ((41, 67), (23, 91), (57, 29))]
    return Image.fromarray((np.stack(waves, -1) + rng.normal(0, 6, (768, 1024, 3))).clip(0, 255).astype(np.uint8))


def call(code: str, index: int) -> str:
    arguments = {"code": code, "description": "", "image_index": index}
    return f"<think>x</think><tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


def rollout(picture: Image.Image, number: int) -> Trajectory:
    codes = [
        ("result = image.rotate(90, expand=True)", 0),
        (f"result = image.crop(({100 + number}, 200, {600 + number}, 700))", 1),
        (f"result = ImageEnhance.Contrast(image.crop((50, {50 + number}, 350, 300))).enhance(1.5)", 2),
    ]
    model = ScriptedModel([*(call(code, index) for code, index in codes), "<think>x</think><answer>7</answer>"])
    return Agent(model).run(Task(question="What?", images=(picture,)))


def measure() -> dict[str, Any]:
    task = GroundTruth(
        id="t",
        question="What?",
        answers=("7",),
        required=(Operation.ROTATE90, Operation.CROP),
        target=(300, 200, 500, 400),
    )
    picture = photograph()
    cells: list[float] = []
    times: dict[str, list[float]] = {str(name): [] for name in Rewards}
    first: list[float] = []
    for number in range(ROLLOUTS):
        trajectory = rollout(picture, number)
        began = time.perf_counter()
        for image in trajectory.images:
            assert image.data
        encoding = (time.perf_counter() - began) / 3
        cells += [step.cell.seconds + encoding for step in trajectory.steps if step.cell is not None]
        for name, values in times.items():
            for image in trajectory.images[1:]:
                pictures.forget(image.pixel_sha256)  # each set decodes what the run made; the input is the group's
            began = time.perf_counter()
            found = score(task, trajectory, name)
            values.append(time.perf_counter() - began)
            assert found.verdict.correct
        pictures.forget()
        began = time.perf_counter()
        score(task, trajectory)
        first.append(time.perf_counter() - began)
    cell = statistics.median(cells)
    return {
        **{f"{name}_vs_cell": statistics.median(values[1:]) / cell for name, values in times.items()},
        "default_picture_vs_cell": statistics.median(times["default"][1:]) / cell / 3,
        "first_vs_cell": statistics.median(first) / cell,
        **{f"{name}_ms": statistics.median(values[1:]) * 1e3 for name, values in times.items()},
        "cell_ms": cell * 1e3,
        "rollouts": ROLLOUTS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(measure(), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
