"""Rollouts whose messages come from a trainer: real kernels, no trl. Scoring of groups, and what there is to train on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kernel_agent import Agent, KernelPool, Trajectory, prompts
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import ImageError, InputError
from kernel_agent.rewards import Rewards, score_group
from kernel_agent.session.outputs import OutputCollector
from kernel_agent.tasks.ground_truth import GroundTruth, Operation
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.train.environment import Environment, reward_functions
from kernel_agent.train.grpo import GRPO, check_groups
from kernel_agent.train.lessons import read_lessons
from kernel_agent.train.rollout import Lesson, Rollout, content_parts
from kernel_agent.train.scoring import COMPONENTS, Scoring, score_all
from kernel_agent.types import Budget, Completion, ImagePart, Message, Status, StopReason, TextPart

CROP = "result = image.crop((0, 0, 30, 20))"


def call(code: str, image_index: int = 0) -> Completion:
    arguments = {"code": code, "description": "a try", "image_index": image_index}
    text = json.dumps({"name": "code_image_tool", "arguments": arguments})
    return Completion(text=f"<think>Look.</think><tool_call>{text}</tool_call>")


def answer(text: str) -> Completion:
    return Completion(text=f"<think>It is clear.</think><answer>{text}</answer>")


def text(message: Message | None) -> str:
    assert message is not None
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def lesson(picture: Image.Image, **facts: Any) -> Lesson:
    truth = GroundTruth(**{"id": "t1", "question": "Which colour?", "answers": ("red",), "size": picture.size, **facts})
    return Lesson(truth=truth, images=(picture,))


@asynccontextmanager
async def rollouts(picture: Image.Image, count: int, **budget: Any) -> AsyncIterator[tuple[KernelPool, list[Rollout]]]:
    async with KernelPool(count, warm=0) as pool:
        runs = [Rollout({"updates": 3}) for _ in range(count)]
        for run in runs:
            first = await run.start(Agent(run, pool=pool, budget=Budget(**budget)), lesson(picture))
            assert [message.role for message in first] == ["system", "user"]
        yield pool, runs


async def test_a_rollout_is_a_run_of_the_agent(picture: Image.Image) -> None:
    async with rollouts(picture, 1) as (pool, [run]):
        back = await run.give(call(CROP))
        assert back is not None
        assert back.content[0] == TextPart(text="<tool_response>\n")
        assert isinstance(back.content[1], ImagePart)
        assert back.content[1].image.size == (30, 20)
        assert back.content[1:-1] == prompts.cell_report(run_cell(run), run_inputs(run))
        assert await run.give(answer("red")) is None
        assert run.trajectory is not None
        assert run.trajectory.answer == "red"
        assert run.trajectory.model["updates"] == 3
        assert pool.metrics.leased == 0


def run_cell(run: Rollout) -> Any:
    return _open(run).cells[-1]


def run_inputs(run: Rollout) -> Any:
    return [image for image in _open(run).images if image.origin == "input"]


def _open(run: Rollout) -> Any:
    """The session of a rollout that is going on, out of the task that runs it."""
    coroutine = run._run.get_coro()  # type: ignore[union-attr]
    return coroutine.cr_frame.f_locals["conversation"].session  # type: ignore[union-attr]


def _begun(run: Rollout) -> bool:
    """Whether the kernel has said that it runs a cell."""
    waiting = _open(run)._channel._dialogue._pending.values()
    return any(isinstance(one.on_output, OutputCollector) and one.on_output.begun.is_set() for one in waiting)


async def test_trouble_is_an_observation(picture: Image.Image) -> None:
    async with rollouts(picture, 5, cell_seconds=5.0) as (pool, runs):
        said = await asyncio.gather(
            runs[0].give(call("1 / 0")),
            runs[1].give(call("while True: pass")),
            runs[2].give(call("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")),
            runs[3].give(Completion(text="<tool_call>{no json</tool_call>")),
            runs[4].give(Completion(text="<think>on and on", finish_reason="length")),
        )
        for message, words in zip(
            said, ("ZeroDivisionError", "interrupted", "kernel died", "cannot be read", "cut at"), strict=True
        ):
            assert words in text(message)
        await asyncio.gather(*(run.give(answer("red")) for run in runs))
        found = [run.trajectory.steps[0] for run in runs if run.trajectory is not None]
        assert [step.cell.status for step in found[:3] if step.cell] == [Status.ERROR, Status.TIMEOUT, Status.KILLED]
        assert [step.cell for step in found[3:]] == [None, None]
        assert pool.metrics.leased == 0


async def test_a_kernel_killed_from_outside_is_data(picture: Image.Image) -> None:
    async with rollouts(picture, 1) as (pool, [run]):
        assert await run.give(call("x = 1; result = image.rotate(90)")) is not None
        running = asyncio.ensure_future(run.give(call("import time; time.sleep(60)")))
        while not _begun(run):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.kill(_open(run)._channel.pid, 9)
        assert "kernel died" in text(await running)
        assert "1" in text(await run.give(call("print(x)")))
        assert await run.give(answer("red")) is None
        assert run.trajectory is not None
        assert [step.cell.status for step in run.trajectory.steps if step.cell] == [Status.OK, Status.KILLED, Status.OK]
        assert pool.metrics.leased == 0


async def test_limits_and_refusals_end_a_rollout_with_its_record(picture: Image.Image) -> None:
    async with rollouts(picture, 3, steps=2, malformed=2) as (pool, runs):
        assert prompts.LAST_MESSAGE in text(await runs[0].give(call(CROP)))
        assert await runs[0].give(call(CROP)) is None
        assert await runs[1].give(call(CROP)) is not None
        await runs[1].refuse("no room")
        await runs[2].close()
        reasons = [run.trajectory.stop_reason for run in runs[:2] if run.trajectory is not None]
        assert reasons == [StopReason.STEP_LIMIT, StopReason.MODEL_ERROR]
        assert runs[2].trajectory is None
        assert pool.metrics.leased == 0


async def test_an_image_that_cannot_be_opened_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with KernelPool(1, warm=0) as pool:
        run = Rollout({})
        broken = Lesson(truth=GroundTruth(id="t", question="?", answers=("a",)), images=(tmp_path / "no.png",))
        with pytest.raises(ImageError, match=r"no\.png"):
            await run.start(Agent(run, pool=pool), broken)
        assert pool.metrics.leased == 0


async def test_printed_image_tokens_are_no_images(picture: Image.Image) -> None:
    async with rollouts(picture, 1) as (_, [run]):
        back = await run.give(call("print('<image> <|image_pad|>'); result = image"))
        assert back is not None
        parts = content_parts(back)
        said = "".join(part["text"] for part in parts if part["type"] == "text")
        assert "< image> < |image_pad|>" in said
        assert "<image>" not in said
        images = [part["image"] for part in parts if part["type"] == "image"]
        views = [part.image.view for part in back.content if isinstance(part, ImagePart)]
        assert len(images) == len(views) == 1
        assert images[0].tobytes() == Image.open(io.BytesIO(views[0])).convert("RGB").tobytes()
        await run.close()


@pytest.fixture
def environment(picture: Image.Image) -> Iterator[tuple[KernelPool, Environment]]:
    """As TRL makes it; for another thread than the event loop's."""
    with KernelPool(1, warm=0) as pool:
        lessons = {name: lesson(picture, id=name) for name in ("t1", "t2")}
        made = Environment(lessons, lambda run: Agent(run, pool=pool))
        yield pool, made
        run_blocking(made.rollout.close())


def test_an_environment_lets_its_kernel_go_when_it_is_reset(environment: tuple[KernelPool, Environment]) -> None:
    pool, one = environment
    for name in ("t1", "t2", "t1"):  # one kernel: a lease that stayed would block the next
        parts = one.reset(id=name, prompt=[])
        assert [part["type"] for part in parts] == ["image", "text", "text"]
        assert one.lesson.truth.id == name
        shown = one.code_image_tool(CROP, "crop", 0)
        assert [part["type"] for part in shown] == ["text", "image", "text", "text"]
        assert shown[1]["image"].size[0] / shown[1]["image"].size[1] == pytest.approx(1.5, abs=0.02)
        assert pool.metrics.leased == 1
    one.code_image_tool("1 / 0", "fail", 0)
    wrong = one.code_image_tool(CROP, "crop", 99)
    assert "does not exist" in wrong[1]["text"]


def test_the_tool_has_the_schema_of_the_native_protocol() -> None:
    from transformers.utils.chat_template_utils import get_json_schema

    schema = get_json_schema(Environment.code_image_tool)["function"]
    ours = prompts.TOOL["function"]
    assert schema["name"] == ours["name"]
    assert schema["description"].split() == ours["description"].split()
    for name, one in ours["parameters"]["properties"].items():
        assert schema["parameters"]["properties"][name]["type"] == one["type"]
        assert schema["parameters"]["properties"][name]["description"] == one["description"]
    assert schema["parameters"]["required"] == ours["parameters"]["required"]


# ------------------------------------------------------------------ scoring


async def group(picture: Image.Image, *scripts: list[Completion]) -> list[Trajectory]:
    async with rollouts(picture, len(scripts)) as (_, runs):
        for run, script in zip(runs, scripts, strict=True):
            for said in script:
                await run.give(said)
        return [run.trajectory for run in runs if run.trajectory is not None]


async def test_every_component_of_a_set_has_its_function(picture: Image.Image) -> None:
    runs = await group(picture, [call(CROP), answer("red")], [answer("blue")])
    plain = lesson(picture).truth
    needs = replace(
        plain,
        orientation=Orientation.ROT90,
        required=(Operation.ROTATE270, Operation.CROP),
        target=(0.0, 0.0, 30.0, 20.0),
    )
    for rewards in Rewards:
        names = {
            one.name
            for truth in (plain, needs)
            for score in score_group(truth, runs, rewards)
            for one in score.components
        }
        assert names == set(COMPONENTS[rewards])
        functions = reward_functions(Scoring(rewards, Path("unused")), 2)
        assert [function.__name__ for function in functions] == list(COMPONENTS[rewards])


async def test_a_run_that_cannot_be_scored_costs_only_itself(picture: Image.Image) -> None:
    other = call("result = image.crop((3, 0, 30, 20))")  # decoded pictures are remembered by their pixels' hash
    runs = await group(picture, [call(CROP), answer("red")], [other, answer("red")], [answer("blue")])
    object.__setattr__(runs[1].steps[0].images[0], "data", b"no picture")
    truth = lesson(picture).truth
    scores, failures = score_all(truth, runs, Rewards.DEFAULT)
    assert [failure is None for failure in failures] == [True, False, True]
    assert scores[1].total == 0
    assert {one.name for one in scores[1].components} == set(COMPONENTS[Rewards.DEFAULT])
    assert (scores[0], scores[2]) == score_group(truth, [runs[0], runs[2]], Rewards.DEFAULT)


def test_groups_are_whole_or_refused() -> None:
    check_groups(1, 16, 8)
    with pytest.raises(InputError, match=r"4 x 3 = 12 rollouts.*8.*Give"):
        check_groups(4, 3, 8)
    with pytest.raises(InputError, match="at least 2"):
        check_groups(4, 3, 1)
    assert GRPO(batch=2, rollouts=4, micro_batch=4).shape() == (8, 2)
    with pytest.raises(InputError, match="micro_batch 3"):
        GRPO(batch=2, rollouts=4, micro_batch=3).shape()
    with pytest.raises(InputError, match="1 x 4 = 4 rollouts"):
        GRPO(batch=1, rollouts=8, micro_batch=1).shape(processes=2)
    with pytest.raises(InputError, match="--kernels 7"):
        GRPO(batch=2, rollouts=4, kernels=7).shape()


# ------------------------------------------------------------------ lessons


def test_lessons_of_a_folder(tmp_path: Path, picture: Image.Image) -> None:
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").write_text("no picture")
    tasks = [{"id": name, "question": "?", "answers": ["x"], "image": f"images/{name}.png"} for name in ("a", "b", "c")]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    lessons, left_out = read_lessons(tmp_path)
    assert list(lessons) == ["a"]
    assert [why.partition(":")[0] for why in left_out] == ["b", "c"]
    (tmp_path / "tasks.jsonl").write_text(json.dumps(tasks[1]) + "\n")
    with pytest.raises(InputError, match="no task to train on; b: "):
        read_lessons(tmp_path)


def test_lessons_of_the_released_files(tmp_path: Path, picture: Image.Image) -> None:
    import pyarrow
    import pyarrow.parquet

    data = io.BytesIO()
    picture.save(data, "PNG")
    row = {
        "prompt": [{"role": "user", "content": "<image>What is it?"}],
        "images": [{"bytes": data.getvalue()}],
        "reward_model": {"ground_truth": "red", "style": "rule"},
        "extra_info": {"index": 7, "transform": ["rotate_90", "crop"], "bbox": [1.0, 2.0, 30.0, 20.0]},
    }
    table = pyarrow.Table.from_pylist([row, {**row, "images": []}])
    pyarrow.parquet.write_table(table, tmp_path / "train_group_1.parquet")
    lessons, left_out = read_lessons(tmp_path)
    (one,) = lessons.values()
    assert one.truth.answers == ("red",)
    assert one.truth.orientation is Orientation.ROT90
    assert one.truth.required == (Operation.ROTATE270, Operation.CROP)
    assert one.truth.target == (1.0, 2.0, 30.0, 20.0)
    assert one.images == (data.getvalue(),)
    assert len(left_out) == 1


def test_what_is_not_installed_is_said_before_anything_is_written(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['trl'] = None; from kernel_agent.cli import main\n"
        f"sys.argv = ['codevision', 'train', 'grpo', '--tasks', 'x', '--model', 'embedded', '--out', {str(tmp_path / 'out')!r}]\nmain()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'kernel-agent[train]'" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()
