"""The shipped checkpoint: small, loadable, and able to do its job on easy pictures through the real agent."""

import json

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kernel_agent.agent import Agent
from kernel_agent.embedded import checkpoint_path
from kernel_agent.embedded.evaluate import BlankedModel
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.types import Budget, RunCode, Task

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kernel_agent.models.local import TransformersModel, embedded  # noqa: E402


@pytest.fixture(scope="module")
def model() -> TransformersModel:
    return embedded()


def label(text: str) -> Image.Image:
    """A plain label in a font the model has been trained on."""
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 40)
    image = Image.new("RGB", (360, 200), (70, 110, 150))
    draw = ImageDraw.Draw(image)
    box = draw.textbbox((90, 80), text, font=font)
    draw.rectangle((box[0] - 14, box[1] - 14, box[2] + 14, box[3] + 14), fill=(245, 240, 225))
    draw.text((90, 80), text, font=font, fill=(20, 20, 30))
    return image


def test_the_folder_is_small_and_complete() -> None:
    folder = checkpoint_path()
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 25 * 2**20
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Idefics3ForConditionalGeneration"]
    assert "auto_map" not in config


def test_every_picture_becomes_sixteen_tokens_of_one_square_view() -> None:
    processor = transformers.AutoProcessor.from_pretrained(checkpoint_path())
    for size in ((640, 480), (31, 7), (5, 900)):
        image = Image.fromarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8))
        inputs = processor(
            text=["<|user|><image>hello<end_of_utterance><|assistant|>"], images=[[image]], return_tensors="pt"
        )
        assert inputs["pixel_values"].shape == (1, 1, 3, 128, 128)
        assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 16


def test_the_template_leaves_the_system_prompt_out() -> None:
    processor = transformers.AutoProcessor.from_pretrained(checkpoint_path())
    chat = [
        {"role": "system", "content": [{"type": "text", "text": "secret"}]},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
        {"role": "user", "content": "d"},
    ]
    written = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert written == (
        "<|user|><image>a\nb<end_of_utterance><|assistant|>c<end_of_utterance><|user|>d<end_of_utterance><|assistant|>"
    )


async def test_it_looks_by_writing_code_and_reads_in_every_orientation(model: TransformersModel) -> None:
    """Easy pictures: at least four of six right, each by way of at least two cells."""
    right = 0
    for orientation in Orientation:
        image = orientation.apply(label("FR7PK"))
        trajectory = await Agent(model, budget=Budget(steps=6)).arun(
            Task(question="What is written on the label?", images=(image,))
        )
        codes = [step.action for step in trajectory.steps if isinstance(step.action, RunCode)]
        assert len(codes) >= 2
        assert all(step.cell is None or step.images for step in trajectory.steps)
        right += trajectory.answer == "FR7PK"
    assert right >= 4


async def test_it_does_not_read_what_it_is_not_shown(model: TransformersModel) -> None:
    """With every returned picture blanked it says so instead of inventing an answer."""
    trajectory = await Agent(BlankedModel(model), budget=Budget(steps=6)).arun(
        Task(question="What does it say?", images=(label("FR7PK"),))
    )
    assert trajectory.answer == "unreadable"
