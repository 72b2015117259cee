"""A run as one conversation of the released supervised format (digest of CodeVision-SFT), with its pictures as files.

`tasks.released.codevision_sft` reads it back: `conversations` of human, gpt and tool in turn, an `<image>` placeholder for each
picture, `images` (paths from the folder), `metadata` and `system`. What the model saw is what is kept: the views, and every
word of the reports; the tags around a tool's report are left to the chat template, as in the released file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kernel_agent.teacher.plan import Plan
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import ImagePart, Json, KernelImage, Part

IMAGES = "images"


def conversation(plan: Plan, trajectory: Trajectory, folder: Path) -> dict[str, Json]:
    """The run as an entry; its pictures are written under `folder`/images."""
    shown: list[KernelImage] = []

    def text(parts: Iterable[Part]) -> str:
        out = []
        for part in parts:
            if isinstance(part, ImagePart):
                shown.append(part.image)
                out.append("<image>")
            else:
                out.append(part.text)
        return "".join(out)

    first = trajectory.steps[0].new_messages
    system = next((text(message.content) for message in first if message.role == "system"), "")
    turns = [{"from": "human", "value": text(next(m.content for m in first if m.role == "user"))}]
    for step in trajectory.steps:
        turns.append({"from": "gpt", "value": step.completion.text})
        if step.observation is not None:
            turns.append({"from": "tool", "value": text(step.observation.content)})
    return {
        "id": plan.task.id,
        "conversations": turns,
        "images": [_written(image, plan.task.id, number, folder) for number, image in enumerate(shown)],
        "metadata": plan.to_json(),
        "system": system,
    }


def _written(image: KernelImage, name: str, number: int, folder: Path) -> str:
    suffix = "jpg" if image.view_mime == "image/jpeg" else "png"
    path = Path(IMAGES) / f"{name}_{number}.{suffix}"
    (folder / IMAGES).mkdir(exist_ok=True)
    part = folder / f"{path}.part"
    part.write_bytes(image.view)
    part.replace(folder / path)
    return str(path)
