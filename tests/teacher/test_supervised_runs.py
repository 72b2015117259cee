"""Plans, and their runs in real kernels."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kernel_agent import KernelOptions
from kernel_agent.errors import InputError, ModelFailed
from kernel_agent.models import ScriptedModel
from kernel_agent.session import KernelPool
from kernel_agent.tasks.dataset import write_tasks
from kernel_agent.tasks.ground_truth import GroundTruth, Operation, correction
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.released import Problem, as_pil, codevision_sft
from kernel_agent.teacher import by_model, code, curriculum, planning, trial, wording
from kernel_agent.teacher.curriculum import CYCLE, lesson
from kernel_agent.teacher.plan import Mistake, Plan, PlannedStep, Shape
from kernel_agent.teacher.sft_folder import Asked, Generated, write_sft
from kernel_agent.types import Message, Request, Status, TextPart

KERNEL = KernelOptions(isolation="none")


@lru_cache(maxsize=100)
def planned(index: int, seed: int = 3) -> tuple[Plan, Image.Image]:
    _, packed, plan = Generated(seed=seed)._plan(index)
    return plan, Image.open(io.BytesIO(packed)).convert("RGB")


def boxes(plan: Plan) -> list[tuple[int, ...]]:
    """The windows of a plan's crops, read out of its code."""
    out = []
    for step in plan.steps:
        if step.tool == Operation.CROP and step.mistake is None:
            if found := re.search(r"\((\d+), (\d+), (\d+), (\d+)\)", step.message):
                out.append(tuple(map(int, found.groups())))
            else:
                y0, y1, x0, x1 = map(int, re.search(r"\[(\d+):(\d+), (\d+):(\d+)\]", step.message).groups())  # type: ignore[union-attr]
                out.append((x0, y0, x1, y1))
    return out


def test_every_shape_is_what_its_name_says() -> None:
    shapes: Counter[str] = Counter()
    mistakes: set[Mistake] = set()
    for index in range(40):
        plan, image = planned(index)
        assert plan.shape is CYCLE[index % len(CYCLE)]
        shapes[plan.shape] += 1
        tools = [step.tool for step in plan.steps]
        good = [step.tool for step in plan.steps if step.mistake is None]
        assert [tool for tool in dict.fromkeys(good) if tool != "autocontrast"] == list(plan.task.required)
        if plan.shape is Shape.NO_TOOL:
            assert tools == []
            assert plan.task.orientation is Orientation.UPRIGHT
        elif plan.shape is Shape.SINGLE:
            assert len(tools) == 1
        elif plan.shape is Shape.MULTI:
            assert len(set(tools)) == len(tools) >= 2
        elif plan.shape is Shape.MULTI_CROP:
            assert tools.count(Operation.CROP) in (2, 3)
            _nested(plan, image)
        else:
            (wrong,) = [step for step in plan.steps if step.mistake]
            assert wrong.mistake is not None
            mistakes.add(wrong.mistake)
            assert plan.to_json()["mistakes"] == {str(plan.steps.index(wrong)): str(wrong.mistake)}
        if not plan.steps or plan.steps[-1].tool != Operation.CROP:
            assert Operation.CROP not in plan.task.required
    assert shapes == {Shape.SINGLE: 8, Shape.MULTI: 12, Shape.MULTI_CROP: 6, Shape.RECOVERY: 8, Shape.NO_TOOL: 6}
    assert mistakes == set(Mistake)


def _nested(plan: Plan, image: Image.Image) -> None:
    """Each window lies in the one before and is smaller; the last holds the target."""
    task = plan.task
    size = image.size[::-1] if task.orientation.swaps_axes else image.size
    left, top, width, height = 0, 0, *size
    for x0, y0, x1, y1 in boxes(plan):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (x1 - x0) * (y1 - y0) < 0.8 * width * height
        left, top, width, height = left + x0, top + y0, x1 - x0, y1 - y0
    assert task.canonical_target is not None
    tx0, ty0, tx1, ty1 = task.canonical_target
    assert left <= tx0
    assert top <= ty0
    assert left + width >= tx1
    assert top + height >= ty1


def test_a_lesson_is_its_seed_and_index() -> None:
    assert Generated(seed=3)._plan(4)[2] == planned(4)[0]
    assert planned(4)[0] != planned(4, seed=4)[0]


def test_a_shape_that_a_task_does_not_fit_is_refused() -> None:
    plan, image = planned(CYCLE.index(Shape.NO_TOOL))
    with pytest.raises(InputError, match="cannot be a multi-tool run"):
        planning.plan(plan.task, image, Shape.MULTI, np.random.default_rng(0))


def test_all_styles_of_a_tool_give_the_same_pixels() -> None:
    import cv2
    from PIL import ImageOps

    image = Image.effect_noise((31, 17), 80).convert("RGB")
    for operation in Operation:
        seen = set()
        for seed in range(40):
            rng = np.random.default_rng(seed)
            crop = operation is Operation.CROP
            source = code.cropping(rng, (3, 2, 20, 9), 3) if crop else code.turning(rng, operation)
            scope = {"image": image, "Image": Image, "ImageOps": ImageOps, "np": np, "cv2": cv2}
            exec(source, scope)
            expected = code.cropped((3, 2, 20, 9), 3, image) if crop else code.turned(operation, image)
            assert scope["result"].tobytes() == expected.tobytes(), source  # type: ignore[attr-defined]
            seen.add(source)
        assert len(seen) >= 4
    assert code.turned(Operation.ROTATE90, image).tobytes() == image.rotate(90, expand=True).tobytes()


async def test_runs_of_every_shape_are_kept_and_read_back(tmp_path: Path) -> None:
    async with KernelPool(2, kernel=KERNEL) as pool:
        told: list[int] = []
        written = await write_sft(tmp_path / "sft", Generated(seed=3), 12, pool, notebooks=True, progress=told.append)
        assert (tmp_path / "sft" / "dropped.jsonl").read_text() == ""
        assert written.count == told[-1] == 12
        assert set(written.shapes) == set(Shape)
        again = await write_sft(tmp_path / "sft", Generated(seed=3), 12, pool, notebooks=True)
        assert again == written
        with pytest.raises(InputError, match=r"holds other runs.*seed=3"):
            await write_sft(tmp_path / "sft", Generated(seed=4), 12, pool)
    read = list(codevision_sft.load(tmp_path / "sft" / "sft.jsonl"))
    assert len(read) == 12
    assert len(list((tmp_path / "sft" / "runs").glob("*.ipynb"))) == 12
    for index, one in enumerate(read):
        assert not isinstance(one, Problem)
        plan, image = planned(index)
        assert one.id == plan.task.id
        assert one.question.endswith(plan.task.question)
        assert "code_image_tool" in one.system
        assert one.turns[-1].answer == plan.task.answers[0]
        assert [turn.call is not None for turn in one.turns] == [True] * len(plan.steps) + [False]
        assert as_pil(one.images[0]).size == image.size or image.width * image.height > 1_000_000
        failed = [turn for turn in one.turns[:-1] if turn.image is None]
        assert all("Error" in (turn.response or "") or "does not exist" in (turn.response or "") for turn in failed)
        assert len(failed) == sum(step.status is not Status.OK for step in plan.steps)


async def test_a_run_that_is_not_as_planned_is_named(tmp_path: Path) -> None:
    plan, image = planned(CYCLE.index(Shape.MULTI))
    picture = tmp_path / "picture.png"
    image.save(picture)
    wrong = replace(plan.steps[0], message=wording.call("So.", "result = image.copy()", "turn", 0))
    fails = replace(plan.steps[0], message=wording.call("So.", "result = image.spin()", "turn", 0))
    shows = replace(plan.steps[0], message=wording.call("So.", "display(image); result = image.rotate(180)", "turn", 0))
    cases = (
        (plan, None),
        (replace(plan, steps=(wrong, *plan.steps[1:])), f"step 0 ({plan.steps[0].tool}): the picture is not the canonical one"),
        (replace(plan, steps=(fails, *plan.steps[1:])), "ended error, planned was ok"),
        (replace(plan, steps=(shows, *plan.steps[1:])), "2 pictures, planned was one"),
        (replace(plan, final=wording.answer("So.", "something else")), "the answer 'something else' is not"),
        (replace(plan, steps=plan.steps[:1], final=wording.answer("So.", "x")), "the answer 'x' is not"),
    )  # fmt: skip
    async with KernelPool(1, kernel=KERNEL) as pool:
        for case, said in cases:
            found = trial.difference(case, await trial.run(case, picture, pool))
            assert found == said or (said is not None and found is not None and said in found)
        short = replace(plan, steps=plan.steps[:1], final=plan.final)
        ran = await trial.run(short, picture, pool)
        assert trial.difference(plan, ran) == f"2 messages, planned were {len(plan.steps) + 1}"


class _Stops(Generated):
    """Ends the command in the middle."""

    async def teach(self, index, folder, pool, runs):  # type: ignore[no-untyped-def]
        if index == 4:
            raise ModelFailed("gone")
        return await super().teach(index, folder, pool, runs)


@pytest.mark.slow
async def test_stopped_it_goes_on(tmp_path: Path) -> None:
    async with KernelPool(1, kernel=KERNEL) as pool:
        with pytest.raises(ModelFailed):
            await write_sft(tmp_path / "a", _Stops(seed=3), 6, pool)
        assert not (tmp_path / "a" / "sft.jsonl").exists()
        done = len(list((tmp_path / "a" / "records").glob("*.json")))
        assert done >= 3
        told: list[int] = []
        await write_sft(tmp_path / "a", Generated(seed=3), 6, pool, progress=told.append)
        assert told[0] == done
        await write_sft(tmp_path / "b", Generated(seed=3), 6, pool)
    files = [
        {p.relative_to(tmp_path / x): p.read_bytes() for p in (tmp_path / x).rglob("*") if p.is_file()} for x in "ab"
    ]
    first, second = (
        json.loads(json.dumps([json.loads(line) for line in files[k][Path("sft.jsonl")].splitlines()])) for k in (0, 1)
    )
    assert [one["conversations"] for one in first] == [one["conversations"] for one in second]
    assert files[0].keys() == files[1].keys()
    assert all(files[0][p] == files[1][p] for p in files[0] if p.suffix in (".png", ".jpg"))


def obedient(request: Request) -> str:
    """A model that does what the note says, in the words of this test."""
    text = "".join(part.text for part in request.messages[-1].content if isinstance(part, TextPart))
    note = text[text.index("[Note to the author") :]
    newest = max(map(int, re.findall(r"image_(\d+): ", "".join(p.text for m in request.messages for p in m.content if isinstance(p, TextPart)))))  # fmt: skip
    if found := re.search(r"It is: (.+)\. Say what", note):
        return wording.answer("It says so.", found[1])
    if "raises an exception" in note:
        return wording.call("I see.", "image.nonsense()", "try", 0)
    if box := re.search(r"lies at \[(\d+), (\d+), (\d+), (\d+)\]", note):
        x0, y0, x1, y1 = map(int, box.groups())
        if "generous window" in note:
            return wording.call(
                "I see.", f"result = image.crop(({x0 - 60}, {y0 - 60}, {x1 + 60}, {y1 + 60}))", "crop", newest
            )
        if "closely around it, in that picture's own pixels" in note:
            return wording.call("I see.", "w, h = image.size\nresult = image.crop((50, 50, w - 50, h - 50)).resize((w, h))", "crop", newest)  # fmt: skip
        return wording.call("I see.", f"result = image.crop(({x0 - 5}, {y0 - 5}, {x1 + 5}, {y1 + 5}))", "crop", newest)
    for operation in Operation:
        if operation is not Operation.CROP and by_model._TOOLS[operation] in note:
            return wording.call("I see.", code.turning(np.random.default_rng(0), operation), "turn", 0)
    raise AssertionError(note)


def tasks(folder: Path) -> list[GroundTruth]:
    """Turned with a crop, turned alone, a crop alone, neither."""
    out = []
    for index, (orientation, crop) in enumerate([(Orientation.ROT90, True), (Orientation.FLIP_V, False), (Orientation.UPRIGHT, True), (Orientation.UPRIGHT, False)] * 3):  # fmt: skip
        canonical = Image.effect_noise((600, 400), 90).convert("RGB")
        file = folder / f"{index}.png"
        orientation.apply(canonical).save(file)
        turn = correction(orientation)
        box = (200.0, 150.0, 260.0, 170.0)
        out.append(
            GroundTruth(
                id=f"t{index}",
                question="What is it?",
                answers=("noise",),
                image=str(file),
                orientation=orientation,
                target=orientation.apply_to_box(box, (600, 400)) if crop else None,
                canonical_target=box if crop else None,
                required=(*((turn,) if turn else ()), *((Operation.CROP,) if crop else ())),
            )
        )
    return out


async def test_a_model_teaches_what_it_is_told(tmp_path: Path) -> None:
    model = ScriptedModel([obedient] * 200, name="pupil")
    source = Asked(tasks=tasks(tmp_path), model=model)
    async with KernelPool(2, kernel=KERNEL) as pool:
        written = await write_sft(tmp_path / "sft", source, 100, pool)
    assert (tmp_path / "sft" / "dropped.jsonl").read_text() == ""
    assert written.count == 12
    assert set(written.shapes) >= {Shape.NO_TOOL, Shape.SINGLE, Shape.RECOVERY, Shape.MULTI_CROP}
    assert "Note to the author" not in (tmp_path / "sft" / "sft.jsonl").read_text()
    assert all("Note to the author" in str(request.messages[-1].content) for request in model.requests)


async def test_a_model_that_does_otherwise_is_tried_again_then_dropped(tmp_path: Path) -> None:
    one = tasks(tmp_path)[:1]
    said: list[str] = []

    def wilful(request: Request) -> str:
        text = "".join(part.text for part in request.messages[-1].content if isinstance(part, TextPart))
        said.append(text)
        return wording.call("No.", "result = image.rotate(180)", "turn", 0)

    async with KernelPool(1, kernel=KERNEL) as pool:
        await write_sft(tmp_path / "a", Asked(tasks=one, model=ScriptedModel([wilful] * 50)), 1, pool)
        dropped = json.loads((tmp_path / "a" / "dropped.jsonl").read_text())
        assert dropped["task"] == "t0"
        assert "planned" in dropped["reason"]
        assert sum("An earlier attempt was thrown away" in text for text in said) * 2 == len(said)
        # a crop that misses, one that keeps everything, and one that is not upright
        plan = by_model.outline(
            one[0], Image.open(str(one[0].image)).convert("RGB"), Shape.MULTI, np.random.default_rng(0)
        )
        turn = wording.call("So.", "result = image.rotate(270, expand=True)", "turn", 0)
        for crop, reason in (
            ("result = image.crop((10, 10, 60, 30))", "holds 0% of the target"),
            ("result = image.crop((1, 1, 599, 399))", "at most"),
            ("result = image_0.crop((140, 330, 180, 410))", "not upright"),
            ("result = image.crop((190, 140, 270, 180)).rotate(33)", "not upright"),
            ("result = Image.new('RGB', (50, 50))", "image"),
        ):
            script = ScriptedModel([turn, wording.call("So.", crop, "crop", 1), wording.answer("So.", "noise")])
            ran = await trial.run(plan, Path(str(one[0].image)), pool, model=script)
            found = trial.difference(plan, ran)
            assert reason in str(found), crop


class Obedient(BaseHTTPRequestHandler):
    """The same model behind an OpenAI-compatible address."""

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "obedient", "object": "model"}], "object": "list"}), "application/json")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = []
        for message in asked["messages"]:
            parts = message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]  # fmt: skip
            text = "".join(part.get("text", "") for part in parts)
            messages.append(Message(role=message["role"], content=(TextPart(text=text),)))
        delta = {"role": "assistant", "content": obedient(Request(messages=tuple(messages)))}
        chunk = {"id": "r", "object": "chat.completion.chunk", "created": 0, "model": "obedient"}
        chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": "stop"}]
        self._send(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", "text/event-stream")

    def _send(self, text: str, mime: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", mime)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.mark.slow
def test_the_command_with_a_server_as_the_teacher(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_tasks(tmp_path / "data", tasks(tmp_path / "data"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Obedient)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        more = ["--tasks", str(tmp_path / "data"), "--base-url", f"http://127.0.0.1:{server.server_port}/v1"]
        arguments = [
            sys.executable,
            "-m",
            "kernel_agent.cli",
            "data",
            "sft",
            "--n",
            "50",
            "--out",
            str(tmp_path / "sft"),
        ]
        run = subprocess.run([*arguments, *more], capture_output=True, text=True, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    assert "12 runs in" in run.stdout
    assert "0 dropped" in run.stdout
    assert (
        len([one for one in codevision_sft.load(tmp_path / "sft" / "sft.jsonl") if not isinstance(one, Problem)]) == 12
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "kernel_agent.cli", "data", "sft", "--n", "3", "--out", str(tmp_path / "sft")]
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "3 runs in" in run.stdout
    assert "teaching 3/3" in run.stderr
    wrong = subprocess.run([*arguments, "--tasks", str(tmp_path)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "--base-url" in wrong.stderr


def test_the_lessons_use_every_orientation() -> None:
    turns = Counter(lesson(1, index).made.task.orientation for index in range(40))
    assert set(turns) == set(Orientation)
    assert (
        PlannedStep(tool=Operation.CROP)
        in by_model.outline(
            curriculum.lesson(1, 0).made.task, Image.new("RGB", (9, 9)), Shape.MULTI, np.random.default_rng(0)
        ).steps
    )
