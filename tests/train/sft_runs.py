"""Runs for the tests of supervised training, made by the agent in real kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from kernel_agent.agent import Agent
from kernel_agent.models import Model, ScriptedModel
from kernel_agent.teacher.wording import answer, call
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Budget, KernelOptions, Task

KERNEL = KernelOptions(isolation="none")
ACROSS = call("It lies on its side.", "result = image.rotate(90, expand=True)", "turn", 0)
CLOSER = call("Small.", "result = image_1.crop((2, 2, 30, 40))", "crop", 1)
RAISES = call("I try.", "result = image.spin()", "spin", 0)
TWO = call("Both.", "display(image_0, image_1)\nresult = image.rotate(180)", "all", 1)
BAD = "<think>Hm.</think>\n<tool_call>{nothing}</tool_call>"
ANSWER = answer("I see four colours.", "four")


def four(size: tuple[int, int] = (120, 80)) -> Image.Image:
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image


def label(text: str) -> Image.Image:
    """What the embedded model can read."""
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 40)
    image = Image.new("RGB", (360, 200), (70, 110, 150))
    draw = ImageDraw.Draw(image)
    box = draw.textbbox((90, 80), text, font=font)
    draw.rectangle((box[0] - 14, box[1] - 14, box[2] + 14, box[3] + 14), fill=(245, 240, 225))
    draw.text((90, 80), text, font=font, fill=(20, 20, 30))
    return image


async def run(
    folder: Path,
    model: Model | Sequence[str],
    *,
    name: str = "run",
    images: Sequence[Image.Image] = (),
    question: str = "What is it?",
    protocol: str = "native",
) -> tuple[Path, Trajectory]:
    """A run and its notebook."""
    asked = model if isinstance(model, Model) else ScriptedModel(list(model))
    agent = Agent(asked, protocol=protocol, budget=Budget(steps=8), kernel=KERNEL)
    path = folder / f"{name}.ipynb"
    trajectory = await agent.arun(Task(question=question, images=tuple(images) or (four(),)), save_to=path)
    return path, trajectory
