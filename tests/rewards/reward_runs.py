"""Runs made by hand, as the native protocol would record them: what was shown, how it came about, what was written."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kernel_agent.operations.affine import IDENTITY, compose, orientation_map, shift
from kernel_agent.operations.values import Applied
from kernel_agent.session.images import pixel_sha256
from kernel_agent.tasks.ground_truth import GroundTruth, Operation
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import (
    Affine,
    Answer,
    Box,
    CellResult,
    Completion,
    ErrorOutput,
    ImageOutput,
    KernelImage,
    Malformed,
    Observation,
    Output,
    RunCode,
    Status,
    Step,
    StopReason,
    TextPart,
)

SIZE = (320, 240)
TARGET = (180, 40, 290, 80)
"""Of the word, in the upright picture."""

_METHODS = {
    Applied.FLIP_HORIZONTAL: Image.Transpose.FLIP_LEFT_RIGHT,
    Applied.FLIP_VERTICAL: Image.Transpose.FLIP_TOP_BOTTOM,
    Applied.ROTATE90: Image.Transpose.ROTATE_90,
    Applied.ROTATE180: Image.Transpose.ROTATE_180,
    Applied.ROTATE270: Image.Transpose.ROTATE_270,
    Applied.TRANSPOSE: Image.Transpose.TRANSPOSE,
    Applied.TRANSVERSE: Image.Transpose.TRANSVERSE,
}


def scene(seed: int = 0) -> Image.Image:
    """Grain, blobs, and the word HARBOR at `TARGET`; different in every orientation."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(150, 5, (SIZE[1], SIZE[0], 3)) + np.linspace(-30, 30, SIZE[0])[None, :, None]
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for x, y, r, colour in (
        (50, 60, 30, "navy"),
        (120, 180, 22, "darkred"),
        (250, 190, 40, "olive"),
        (90, 120, 9, "white"),
    ):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    draw.text((TARGET[0] + 4, TARGET[1] + 6), "HARBOR", font=ImageFont.load_default(24), fill=(20, 20, 30))
    return picture


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


class Run:
    """A run over one picture. Each call names what it shows by (parent, orientation, box of the parent after turning)."""

    def __init__(self, picture: Image.Image) -> None:
        self.pictures: list[Image.Image] = []
        self._steps: list[Step] = []
        self.trajectory = Trajectory.start(
            images=[self._image(picture, None, None, "input")], header={"protocol": "native"}
        )
        self.trajectory.begin_turn("What is written?")

    def _image(self, picture: Image.Image, parent: int | None, affine: Affine | None, origin: str) -> KernelImage:
        index = len(self.pictures)
        self.pictures.append(picture)
        data = png(picture)
        return KernelImage(
            index=index, name=f"image_{index}", data=data, mime="image/png", size=picture.size, pixel_sha256=pixel_sha256(picture),
            view=data, view_mime="image/png", view_size=picture.size, parent=parent, affine=affine, origin=origin,
        )  # fmt: skip

    def turn(self, how: Applied | None, *, crop: Box | None = None, of: int = 0, **said: str) -> Run:
        """Turn picture `of`, then crop that; shown with true lineage."""
        before = self.pictures[of]
        picture, affine = before, IDENTITY
        if how is not None:
            picture, affine = before.transpose(_METHODS[how]), orientation_map(how, before.size)
        if crop is not None:
            picture, affine = picture.crop(tuple(map(int, crop))), compose(affine, shift(crop[0], crop[1]))
        return self.show([(picture, of, affine)], **said)

    def show(
        self,
        shown: Sequence[tuple[Image.Image, int | None, Affine | None]],
        *,
        code: str = "result = image",
        description: str = "",
        status: Status = Status.OK,
    ) -> Run:
        """A call that shows pictures with the lineage given."""
        made = [self._image(picture, parent, affine, f"step {len(self._steps)}") for picture, parent, affine in shown]
        outputs: list[Output] = [ImageOutput(index=image.index) for image in made]
        if status is Status.ERROR:
            outputs.append(ErrorOutput(ename="ValueError", evalue="no", traceback=("ValueError: no",)))
        call = {"name": "code_image_tool", "arguments": {"code": code, "description": description, "image_index": 0}}
        return self._add(
            f"<think>I look.</think><tool_call>{json.dumps(call)}</tool_call>",
            RunCode(code=code, description=description, image_index=0),
            cell=CellResult(source=code, status=status, outputs=tuple(outputs), images=tuple(made)),
            told=Observation(
                status=status, content=(TextPart(text="Error: no" if status is Status.ERROR else "seen"),)
            ),
        )

    def fail(self, code: str = "result = image.rotate(90)[", **said: str) -> Run:
        """A call that raises."""
        return self.show([], code=code, status=Status.ERROR, **said)

    def malformed(self, text: str = "<think>x</think><tool_call>{oops</tool_call>") -> Run:
        """A message that cannot be read."""
        told = Observation(status=Status.MALFORMED, content=(TextPart(text="Nothing was run."),))
        return self._add(text, Malformed(problem="no", remedy="JSON"), told=told)

    def answer(self, text: str) -> Trajectory:
        """The end, with an answer."""
        self._add(f"<think>I read it.</think><answer>{text}</answer>", Answer(text=text))
        self.trajectory.end_turn(text, StopReason.ANSWER)
        return self.trajectory

    def give_up(self, stop: StopReason = StopReason.STEP_LIMIT) -> Trajectory:
        """The end, without one."""
        self.trajectory.end_turn(None, stop)
        return self.trajectory

    def _add(
        self, text: str, action: object, *, cell: CellResult | None = None, told: Observation | None = None
    ) -> Run:
        step = Step(
            index=len(self._steps), new_messages=(), completion=Completion(text=text), thought="", action=action, cell=cell, observation=told,
        )  # type: ignore[arg-type]  # fmt: skip
        self._steps.append(step)
        self.trajectory.add_step(step)
        return self


def task(*required: Operation, target: Box | None = TARGET, answer: str = "HARBOR", **more: object) -> GroundTruth:
    """A reading task; `target` in the frame of the picture as shown."""
    return GroundTruth(
        id="t", question="What is written?", answers=(answer,), target=target, required=required, size=None, **more
    )  # type: ignore[arg-type]
