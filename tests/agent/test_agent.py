from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kernel_agent import Agent, Budget, KernelOptions, Sampling, Status, StopReason, Task, Trajectory, ask
from kernel_agent.errors import ImageError, InputError, KernelError, ModelError, ModelRefused, StorageError
from kernel_agent.models import ScriptedModel
from kernel_agent.notices import ActionRead, CellStarted, Notice, StepDone, TextWritten
from kernel_agent.steering import Decision, Instead
from kernel_agent.types import Answer, Completion, ImagePart, Malformed, Request, RunCode, TextPart, ToolCall, Usage


def call(code: str, index: int = 0) -> str:
    arguments = {"code": code, "description": "look", "image_index": index}
    return f"<think>hm</think><tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


ANSWER = "<think>clear</think><answer>AB12</answer>"
TURN = call("result = image.rotate(90, expand=True)")


def run(replies: list[Any], image: Image.Image, **options: Any) -> tuple[Trajectory, ScriptedModel]:
    save_to = options.pop("save_to", None)
    model = ScriptedModel(replies)
    trajectory = Agent(model, **options).run(Task(question="What is written?", images=(image,)), save_to=save_to)
    return trajectory, model


def run_when_up(replies: list[Any], image: Image.Image, budget: Budget) -> Trajectory:
    """The same, with its kernel started before the turn's time begins."""

    async def ask() -> Trajectory:
        conversation = Agent(ScriptedModel(replies), budget=budget).converse((image,))
        try:
            await conversation.session.astart()
            return await conversation.ask("What is written?")
        finally:
            await conversation.aclose()

    return asyncio.run(ask())


def said(request: Request) -> str:
    """All text of a request's last message."""
    return "".join(part.text for part in request.messages[-1].content if isinstance(part, TextPart))


def test_turn_look_answer(picture: Image.Image) -> None:
    trajectory, _ = run([TURN, call("result = image.crop((0, 0, 20, 30))", 1), ANSWER], picture)
    assert trajectory.answer == "AB12"
    assert trajectory.stop_reason is StopReason.ANSWER
    assert [image.size for image in trajectory.images] == [(60, 40), (40, 60), (20, 30)]
    assert trajectory.steps[0].images[0].to_pil().tobytes() == picture.rotate(90, expand=True).tobytes()
    assert trajectory.to_input((0, 0, 20, 30), image=2) == (30, 0, 60, 20)
    assert isinstance(trajectory.steps[0].action, RunCode)
    assert isinstance(trajectory.steps[2].action, Answer)
    assert trajectory.isolation in ("strong", "medium", "container")  # never none unasked


def test_the_model_gets_each_image_with_its_name_and_sizes(picture: Image.Image) -> None:
    _, model = run([TURN, ANSWER], picture)
    first, second = model.requests
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[: len(first.messages)] == first.messages
    assert "image_0: 60x40 px" in said(first)
    assert "What is written?" in said(first)
    images = [part.image.name for message in second.messages for part in message.content if isinstance(part, ImagePart)]
    assert images == ["image_0", "image_1"]
    assert "image_1: 40x60 px" in said(second)


def test_exact_requests_can_be_rebuilt(picture: Image.Image) -> None:
    trajectory, model = run([TURN, "nonsense", ANSWER], picture)
    for index, request in enumerate(model.requests):
        rebuilt = [message for step in trajectory.steps[: index + 1] for message in step.new_messages]
        assert tuple(rebuilt) == request.messages


def test_large_images_are_shown_smaller_and_said_to_be(tmp_path: Path) -> None:
    big = Image.linear_gradient("L").resize((3000, 2000)).convert("RGB")
    trajectory, model = run([ANSWER], big)
    image = trajectory.images[0]
    assert image.size == (3000, 2000)
    assert image.view_size[0] * image.view_size[1] <= 1280 * 28 * 28
    assert f"3000x2000 px, shown at {image.view_size[0]}x{image.view_size[1]}" in said(model.requests[0])


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("just talk", "neither a call nor an answer"),
        ("<tool_call>{broken</tool_call>", "cannot be read"),
        (call("1", 7), "Available are 0 to 0"),
        (TURN + TURN, "one call a message"),
        (Completion(text="<answer>half", finish_reason="length", usage=Usage(completion_tokens=9)), "cut at 9 tokens"),
    ],
)
def test_malformed_messages_come_back_with_the_remedy(picture: Image.Image, reply: Any, told: str) -> None:
    trajectory, model = run([reply, ANSWER], picture)
    assert trajectory.answer == "AB12"
    assert isinstance(trajectory.steps[0].action, Malformed)
    observation = trajectory.steps[0].observation
    assert observation is not None
    assert observation.status is Status.MALFORMED
    assert told in said(model.requests[1])


def test_malformed_retries_are_bounded(picture: Image.Image) -> None:
    trajectory, _ = run(["no"] * 9, picture, budget=Budget(malformed=3))
    assert trajectory.stop_reason is StopReason.MALFORMED
    assert len(trajectory.steps) == 3
    assert trajectory.answer is None


def test_errors_and_missing_images_are_said(picture: Image.Image) -> None:
    _, model = run([call("1/0"), call("cropped = image.crop((0, 0, 5, 5))"), call("result = image"), ANSWER], picture)
    assert "ZeroDivisionError: division by zero" in said(model.requests[1])
    assert "showed no new image" in said(model.requests[2])
    assert "same pixels as image_0" in said(model.requests[3])


def test_the_last_message_is_announced_and_its_code_not_run(picture: Image.Image) -> None:
    trajectory, model = run([TURN, TURN, TURN], picture, budget=Budget(steps=2))
    assert trajectory.stop_reason is StopReason.STEP_LIMIT
    assert "your last message" in said(model.requests[1])
    assert trajectory.steps[1].cell is None
    assert [event.kind for event in trajectory.events] == ["kernel_started", "turn_cut"]


async def test_a_branch_has_spent_what_its_steps_spent(picture: Image.Image) -> None:
    model = ScriptedModel([TURN, TURN, ANSWER])
    agent = Agent(model, budget=Budget(pixels=picture.width * picture.height))
    conversation = agent.converse((picture,))
    trajectory = await conversation.ask("What is written?")
    assert trajectory.stop_reason is StopReason.PIXEL_LIMIT  # step 1 was the last message
    branch = await conversation.branch(1, in_turn=True)
    instead = Instead(completion=trajectory.steps[1].completion, decision=Decision(code="print('edited')"))
    edited = await branch.resume(instead)
    assert (len(edited.steps), edited.stop_reason) == (2, StopReason.PIXEL_LIMIT)
    assert edited.steps[1].cell is not None
    assert len(model.requests) == 2
    await branch.aclose()
    await conversation.aclose()


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(tokens=10), StopReason.TOKEN_LIMIT),
        (Budget(images=2), StopReason.IMAGE_LIMIT),
        (Budget(pixels=5000), StopReason.PIXEL_LIMIT),
        (Budget(seconds=2.0), StopReason.TIME_LIMIT),
    ],
)
def test_every_limit_ends_the_turn_and_is_logged(picture: Image.Image, budget: Budget, reason: StopReason) -> None:
    code = "import time\nfor n in range(2): display(image_0.rotate(n + 1))\ntime.sleep(0.3)"
    replies = [Completion(text=call(code), usage=Usage(completion_tokens=5)) for _ in range(12)]
    trajectory, _ = run(replies, picture, budget=budget)
    assert trajectory.stop_reason is reason
    (cut,) = [event for event in trajectory.events if event.kind == "turn_cut"]
    assert cut.data["reason"] == str(reason)


def test_a_deadline_inside_a_cell_keeps_the_step(picture: Image.Image) -> None:
    trajectory = run_when_up([call("import time; time.sleep(1e6)"), ANSWER], picture, Budget(seconds=2.5))
    assert trajectory.stop_reason is StopReason.TIME_LIMIT
    assert len(trajectory.steps) == 1
    cell = trajectory.steps[0].cell
    assert cell is not None
    assert cell.status is Status.TIMEOUT


@pytest.mark.parametrize(
    "text", ["<answer>다섯</answer>", "<answer>\ud83d</answer>", "<answer><script>x</script></answer>"]
)
def test_odd_answers_are_kept(picture: Image.Image, text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    trajectory, _ = run([text], picture, save_to=path)
    loaded = Trajectory.load(path)
    assert loaded == trajectory
    assert loaded.answer is not None


def test_model_failure_ends_the_turn_and_keeps_the_work(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    trajectory, _ = run([TURN, ModelRefused("429: slow down", status=429)], picture, save_to=path)
    assert trajectory.stop_reason is StopReason.MODEL_ERROR
    assert isinstance(trajectory.failure, ModelRefused)
    assert len(Trajectory.load(path).steps) == 1


def test_kernel_failure_ends_the_turn(picture: Image.Image) -> None:
    trajectory, _ = run([TURN, ANSWER], picture, kernel=KernelOptions(provisioner="no-such-one"))
    assert trajectory.stop_reason is StopReason.KERNEL_ERROR
    assert isinstance(trajectory.failure, KernelError)


def test_ask_raises_what_kept_it_from_asking(picture: Image.Image) -> None:
    with pytest.raises(ModelError) as caught:
        ask("What?", picture, model=ScriptedModel([ModelRefused("401: bad key", status=401)]))
    assert caught.value.trajectory.stop_reason is StopReason.MODEL_ERROR  # type: ignore[attr-defined]


def test_follow_up_has_images_history_and_the_live_kernel(picture: Image.Image) -> None:
    model = ScriptedModel(
        [call("kept = 5\nresult = image"), ANSWER, call("print(kept, len(images))"), "<answer>7</answer>"]
    )
    trajectory = ask("What?", picture, model=model)
    assert trajectory.ask("and below?") is trajectory
    assert trajectory.answer == "7"
    assert [turn.question for turn in trajectory.turns] == ["What?", "and below?"]
    assert "5 2" in said(model.requests[3])
    roles = [message.role for message in model.requests[2].messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_follow_up_on_a_loaded_notebook_replays(picture: Image.Image, tmp_path: Path) -> None:
    from kernel_agent.api import continue_trajectory

    path = tmp_path / "run.ipynb"
    run([call("kept = 5\nresult = image.rotate(180)"), ANSWER], picture, save_to=path)
    model = ScriptedModel([call("print(kept, image_1.size)"), "<answer>9</answer>"])
    loaded = Trajectory.load(path)
    loaded.record_to(path, force=True)
    continue_trajectory(loaded, "and?", model=model)
    assert "5 (60, 40)" in said(model.requests[1])
    assert model.requests[0].messages[-2].role == "assistant"
    again = Trajectory.load(path)
    assert (again.answer, len(again.turns)) == ("9", 2)


def test_continuing_a_scripted_run_asks_for_a_model(picture: Image.Image) -> None:
    trajectory, _ = run([ANSWER], picture)
    with pytest.raises(InputError, match="which model"):
        trajectory.ask("and?")


def test_loops_one_after_another_leave_nothing(picture: Image.Image) -> None:
    for delay in (0.0, 0.05, 0.2):  # answered before, while and after the kernel comes up
        model = ScriptedModel([ANSWER], delay=delay)
        trajectory = asyncio.run(Agent(model).arun(Task(question="What?", images=(picture,))))
        assert trajectory.answer == "AB12"
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"kernel_app" in command(pid)]


def command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_follow_up_after_a_failed_turn_has_images_and_state(picture: Image.Image) -> None:
    replies = [
        call("x = 5\nresult = image.rotate(90, expand=True)"),
        ANSWER,
        ModelRefused("500: boom", status=500),
        call("print(x, image_1.size)"),
        "<answer>b</answer>",
    ]
    model = ScriptedModel(replies)
    trajectory = ask("What?", picture, model=model)
    with pytest.raises(ModelError):
        trajectory.ask("second")
    assert trajectory.ask("third").answer == "b"
    assert "5 (40, 60)" in said(model.requests[-1])


def test_first_question_failed_and_the_next_still_shows_the_images(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    with pytest.raises(ModelError):
        ask("What?", picture, model=ScriptedModel([ModelRefused("401: no", status=401)]), save_to=path)
    model = ScriptedModel([ANSWER])
    Trajectory.load(path).ask("What now?", model=model)
    assert [message.role for message in model.requests[0].messages] == ["system", "user"]
    assert any(isinstance(part, ImagePart) for part in model.requests[0].messages[1].content)


def test_a_deadline_in_the_grace_period_keeps_the_cell(picture: Image.Image) -> None:
    code = "display(image)\nimport time\nwhile True:\n    try:\n        time.sleep(9)\n    except BaseException:\n        pass"
    trajectory = run_when_up([call(code), ANSWER], picture, Budget(cell_seconds=2, seconds=3))
    assert trajectory.stop_reason is StopReason.TIME_LIMIT
    cell = trajectory.steps[0].cell
    assert cell is not None
    assert cell.status is Status.KILLED
    assert len(cell.images) == 1


def test_a_lone_surrogate_in_code_is_no_crash(picture: Image.Image) -> None:
    trajectory, _ = run([call("s = '\ud800'\nresult = image.rotate(1)"), ANSWER], picture)
    assert trajectory.answer == "AB12"
    assert len(trajectory.images) == 2


def test_closing_stops_the_kernel_and_asking_starts_one_again(picture: Image.Image) -> None:
    model = ScriptedModel([call("kept = 3\nresult = image"), ANSWER, call("print(kept)"), "<answer>z</answer>"])
    with ask("What?", picture, model=model) as trajectory:
        assert trajectory.answer == "AB12"
    trajectory.ask("and?", model=model)
    assert "3" in said(model.requests[-1])
    trajectory.close()


def test_a_new_model_is_recorded(picture: Image.Image) -> None:
    trajectory, _ = run([ANSWER], picture)
    trajectory.ask("and?", model=ScriptedModel([ANSWER], name="other"))
    assert trajectory.header["model"]["model"] == "scripted"
    assert trajectory.model["model"] == "other"
    trajectory.close()


def test_bad_images_raise_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    with pytest.raises(ImageError, match="nothing-here"):
        ask("What?", tmp_path / "nothing-here.png", model=ScriptedModel([]), save_to=path)
    assert not path.exists()


def test_an_existing_notebook_is_not_overwritten(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_text("mine")
    with pytest.raises(StorageError, match="force"):
        ask("What?", picture, model=ScriptedModel([ANSWER]), save_to=path)
    assert path.read_text() == "mine"


def test_an_empty_question_is_refused(picture: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="question is empty"):
        ask("  ", picture, model=ScriptedModel([ANSWER]), save_to=tmp_path / "run.ipynb")
    assert not list(tmp_path.iterdir())


def test_openai_tools_protocol(picture: Image.Image) -> None:
    arguments = json.dumps({"code": "result = image", "description": "", "image_index": 0})
    wants = Completion(text="", tool_calls=(ToolCall(id="c1", name="code_image_tool", arguments=arguments),))
    trajectory, model = run([wants, "It says AB12."], picture, protocol="openai")
    assert trajectory.answer == "It says AB12."
    assert model.requests[0].tools
    assert [(m.role, m.tool_call_id) for m in model.requests[1].messages[-2:]] == [("assistant", None), ("tool", "c1")]


@pytest.mark.parametrize(
    ("protocol", "code"),
    [
        ("pyvision", "<code>\nplt.imshow(image_clue_0.rotate(90))\nplt.show()\n</code>"),
        ("deepeyes", "<code>```python\nimage_1.rotate(90)\n```</code>"),
        ("thyme", "<code>```python\nImage.open('image_0.png').rotate(90).save('r.png')\n```</code>"),
        ("fenced", "```python\nimage_0.rotate(90)\n```"),
    ],
)
def test_other_protocols_run_in_the_same_kernel(picture: Image.Image, protocol: str, code: str) -> None:
    trajectory, _ = run([code, "<answer>ok</answer>"], picture, protocol=protocol)
    assert trajectory.answer == "ok"
    assert len(trajectory.images) == 2


def test_notices_come_in_order(picture: Image.Image) -> None:
    seen: list[Notice] = []
    ask("What?", picture, model=ScriptedModel([TURN, ANSWER]), watch=seen.append)
    kinds = [type(notice) for notice in seen if not isinstance(notice, TextWritten)]
    assert kinds == [ActionRead, CellStarted, StepDone, ActionRead, StepDone]


def test_many_runs_from_one_loop(picture: Image.Image) -> None:
    async def all_of_them() -> list[Trajectory]:
        def agent(n: int) -> Agent:
            return Agent(ScriptedModel([call(f"n = {n}\nresult = image"), call("print(n)"), f"<answer>{n}</answer>"]))

        task = Task(question="What?", images=(picture,))
        return await asyncio.gather(*(agent(n).arun(task) for n in range(6)))

    trajectories = asyncio.run(all_of_them())
    assert [trajectory.answer for trajectory in trajectories] == [str(n) for n in range(6)]
    assert ["".join(o.text for o in t.steps[1].cell.outputs) for t in trajectories] == [f"{n}\n" for n in range(6)]  # type: ignore[union-attr]


def test_cancelling_leaves_a_valid_notebook(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"

    async def cancelled() -> None:
        agent = Agent(ScriptedModel([TURN, call("import time; time.sleep(1e6)"), ANSWER]))
        seen: list[Notice] = []
        task = Task(question="What?", images=(picture,))
        running = asyncio.create_task(agent.arun(task, save_to=path, watch=seen.append))
        while sum(isinstance(notice, CellStarted) for notice in seen) < 2:
            assert not running.done()
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    loaded = Trajectory.load(path)
    assert loaded.stop_reason is StopReason.INTERRUPTED
    assert len(loaded.steps) == 2


def test_sampling_is_passed_on_and_capped_by_what_is_left(picture: Image.Image) -> None:
    replies = [Completion(text=TURN, usage=Usage(completion_tokens=70)), ANSWER]
    _, model = run(replies, picture, budget=Budget(tokens=100), sampling=Sampling(max_tokens=80, seed=7))
    assert [request.sampling.max_tokens for request in model.requests] == [80, 30]
    assert model.requests[0].sampling.seed == 7


async def test_what_becomes_known_of_a_model_later_is_recorded_once() -> None:
    class Slow(ScriptedModel):
        def describe(self) -> dict[str, Any]:
            return {"kind": "scripted", "model": "slow", "weights_sha256": "ab" if len(self.requests) > 1 else None}

    agent = Agent(Slow([call("1"), call("2"), call("3"), "<answer>x</answer>"]))
    run = await agent.arun(Task(question="?", images=(Image.new("RGB", (32, 32)),)))
    described = [event for event in run.events if event.kind == "model_described"]
    assert [event.data["weights_sha256"] for event in described] == ["ab"]
    assert run.steps[1].started < described[0].time < run.steps[2].started
    assert run.model["weights_sha256"] == "ab"
