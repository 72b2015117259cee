"""The loaders of CodeVision-RL, MVToolBench and CodeVision-SFT: every variant, and bad rows that are reported and skipped."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published import base64_png, png, rl_row, write_json, write_parquet

from kernel_agent.errors import InputError
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.released import Problem, RowError, as_pil, codevision_rl, codevision_sft, read_picture
from kernel_agent.tasks.released.codevision_rl import ReleasedTask
from kernel_agent.tasks.released.rows import Found, read_rows


def load_rl(path: Path) -> tuple[list[ReleasedTask], list[Problem]]:
    read = list(codevision_rl.load(path))
    return [r for r in read if isinstance(r, ReleasedTask)], [r for r in read if isinstance(r, Problem)]


def one(row: dict[str, Any]) -> ReleasedTask:
    return codevision_rl.read_task(Found(file=Path("rows.json"), index=3, row=row))


def extra(**changes: Any) -> dict[str, Any]:
    return {**rl_row()["extra_info"], **changes}


def test_a_published_row(tmp_path: Path) -> None:
    (task,), problems = load_rl(write_parquet(tmp_path / "mvtoolbench.parquet", [rl_row()]))
    assert not problems
    assert task.question == "How many times does 'the' appear?"
    assert task.truths == ("2",)
    assert task.transforms == ("crop", "rotate_90")
    assert task.orientation is Orientation.ROT90
    assert task.box == (1, 2, 9, 8)
    assert as_pil(task.images[0]).size == (24, 16)
    assert (task.source, task.style, task.is_list) == ("hiertext", "model", False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["crop", "rotate_90"], ("crop", "rotate_90")),
        ("flip_vertical", ("flip_vertical",)),
        ("crop, rotate_180", ("crop", "rotate_180")),
        ('["crop", "rotate_270"]', ("crop", "rotate_270")),
        ({"rotate_90": {}, "crop": [1, 2, 3, 4], "rotate_180": None}, ("rotate_90", "crop")),
        ('{"flip_horizontal": true}', ("flip_horizontal",)),
        (np.array(["crop", "rotate_90"], dtype=object), ("crop", "rotate_90")),
        (None, ()),
        ("None", ()),
        ([], ()),
    ],
)
def test_transforms_in_every_form(given: Any, expected: tuple[str, ...]) -> None:
    assert one(rl_row(extra_info=extra(transform=given))).transforms == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": [1, 2, 9, 8]},
        {"bbox": None, "bbox_2d": [1, 2, 9, 8]},
        {"bbox": np.array([1, 2, 9, 8])},
        {"bbox": "[1, 2, 9, 8]"},
        {"bbox": [[1, 2, 9, 8]]},
    ],
)
def test_boxes_in_every_form(changes: dict[str, Any]) -> None:
    assert one(rl_row(extra_info=extra(**changes))).box == (1, 2, 9, 8)


def test_no_box() -> None:
    assert one(rl_row(extra_info=extra(bbox=None))).box is None


@pytest.mark.parametrize(
    ("truth", "expected", "is_list"),
    [("2", ("2",), False), (["12%", "12"], ("12%", "12"), True), (7, ("7",), False), ("[a]", ("[a]",), False)],
)
def test_truths_in_every_form(truth: Any, expected: tuple[str, ...], is_list: bool) -> None:
    task = one(rl_row(reward_model={"ground_truth": truth, "style": "rule"}))
    assert (task.truths, task.is_list) == (expected, is_list)


def test_prompts_and_pictures_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    system = [{"role": "system", "content": "You think."}, {"role": "user", "content": "<image>Which?"}]
    assert one(rl_row(prompt=system)).system == "You think."
    assert one(rl_row(prompt=np.array(system, dtype=object))).question == "Which?"
    assert one(rl_row(prompt=json.dumps(system))).question == "Which?"
    assert one(rl_row(prompt="<image> Which?")).question == "Which?"
    assert one(rl_row(prompt=None)).question == "How many times does 'the' appear?"
    for image in ({"bytes": png()}, {"bytes": None, "path": "a.png"}, {"image": base64_png()}, png(), "a.png"):
        found = Found(file=tmp_path / "rows.json", index=0, row=rl_row(images=[image]))
        assert as_pil(codevision_rl.read_task(found).images[0]).mode == "RGB"


def test_files_with_different_columns(tmp_path: Path) -> None:
    bare = {
        "prompt": rl_row()["prompt"],
        "images": rl_row()["images"],
        "reward_model": {"ground_truth": ["3", "three"]},
    }
    write_parquet(tmp_path / "train_group_1.parquet", [bare])
    write_parquet(tmp_path / "train_group_2.parquet", [rl_row(agent_name="tool_agent", tools_kwargs={"a": 1})])
    tasks, problems = load_rl(tmp_path)
    assert not problems
    assert [task.truths for task in tasks] == [("3", "three"), ("2",)]
    assert len({task.id for task in tasks}) == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": []}, "no images"),
        ({"images": [{"bytes": base64_png()[:80]}]}, "cannot be read"),
        ({"images": [{"bytes": None, "path": "gone.png"}]}, "does not exist"),
        ({"reward_model": None, "extra_info": {"question": "q"}}, "no ground truth"),
        ({"prompt": [{"role": "system", "content": c} for c in "ab"]}, "2 system"),
        ({"prompt": None, "extra_info": {"answer": "2"}}, "no question"),
        ({"extra_info": extra(bbox=[5, 5, 1, 1])}, "without area"),
        ({"extra_info": extra(bbox=["a"])}, "not four numbers"),
        ({"extra_info": extra(transform=4)}, "transform is a int"),
    ],
)
def test_a_bad_row_is_reported_and_skipped(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    good = rl_row(images=[{"bytes": base64_png()}])
    rows = [good, good | changes, good]
    tasks, (problem,) = load_rl(write_json(tmp_path / "rows.json", rows))
    assert len(tasks) == 2
    assert (Path(problem.file).name, problem.index) == ("rows.json", 1)
    assert reason in problem.reason


def test_files_that_are_cut_off_or_missing(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "a.parquet", [rl_row()]).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    lines = tmp_path / "c.jsonl"
    lines.write_text('{"a": 1}\n{"a": \n[1]\n{"a": NaN}\n{"a": 2}\n')
    read = list(read_rows(tmp_path))
    problems = [(Path(r.file).name, r.index) for r in read if isinstance(r, Problem)]
    assert problems == [("b.parquet", -1), ("c.jsonl", 1), ("c.jsonl", 2), ("c.jsonl", 3)]
    assert sum(isinstance(r, Found) for r in read) == 3
    with pytest.raises(InputError, match="does not exist"):
        list(read_rows(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no data file"):
        list(read_rows(tmp_path / "empty"))


def test_pictures_that_are_none() -> None:
    for value in (None, 5, "", {"bytes": None}, b"", "x" * 100):
        with pytest.raises(RowError):
            read_picture(value, folder=Path())


def test_base64_of_any_length_is_a_picture(tmp_path: Path) -> None:
    """Also where it has no slash, so that it would be one file name, longer than any may be."""
    for side in (2, 12, 300):
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, "PNG", compress_level=0)
        text = base64.b64encode(file.getvalue()).decode()
        for given in (text, f"data:image/png;base64,{text}"):
            assert as_pil(read_picture(given, folder=tmp_path)).size == (side, side)
    with pytest.raises(RowError):
        read_picture("A" * 900, folder=tmp_path)


CALL = '{"name": "code_image_tool", "arguments": {"code": "result = ImageOps.flip(image)", "description": "d", "image_index": 0}}'


def conversation(**changes: Any) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "human", "value": "<image>How much?"},
            {"from": "gpt", "value": f"<think>Turned.</think><tool_call>{CALL}</tool_call>"},
            {"from": "tool", "value": "<image>Here is the processed image."},
            {"from": "gpt", "value": "<think>Now.</think><answer>13.2</answer>"},
        ],
        "images": ["codevision_images/sample0_0.png", "codevision_images/sample0_1.png"],
        "metadata": '{"tools": ["flip"]}',
        "system": "S",
    } | changes


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    (tmp_path / "codevision_images").mkdir()
    for number in range(2):
        Image.new("RGB", (9, 9)).save(tmp_path / "codevision_images" / f"sample0_{number}.png")
    return tmp_path / "codevision_sft.json"


def test_a_conversation(sft: Path) -> None:
    (found,) = codevision_sft.load(write_json(sft, [conversation()]))
    assert isinstance(found, codevision_sft.Conversation)
    assert (found.question, found.system, found.inputs) == ("How much?", "S", 1)
    assert found.metadata == {"tools": ["flip"]}
    first, last = found.turns
    assert first.call == codevision_sft.Call(code="result = ImageOps.flip(image)", description="d", image_index=0)
    assert (first.thought, first.image, first.response) == ("Turned.", 1, "Here is the processed image.")
    assert (last.answer, last.image, last.call) == ("13.2", None, None)


def test_an_error_brings_no_image_and_lenient_json_is_read(sft: Path) -> None:
    lenient = "{name: 'code_image_tool', arguments: {code: 'x', image_index: 7,},}"
    said = [
        {"from": "human", "value": "<image>q"},
        {"from": "gpt", "value": f"<think>a</think><tool_call>{lenient}</tool_call>"},
        {"from": "tool", "value": "Error: image_index 7 out of range"},
        {"from": "gpt", "value": "<answer>1</answer>"},
    ]
    (found,) = codevision_sft.load(
        write_json(sft, [conversation(conversations=said, images=["codevision_images/sample0_0.png"])])
    )
    assert isinstance(found, codevision_sft.Conversation)
    assert found.turns[0].image is None
    assert found.turns[0].call is not None
    assert found.turns[0].call.image_index == 7


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": ["codevision_images/sample0_0.png"]}, "2 image placeholders"),
        ({"images": ["codevision_images/sample0_0.png", "gone.png"]}, "does not exist"),
        ({"conversations": []}, "no conversations"),
        ({"conversations": conversation()["conversations"][:3]}, "its speakers"),
        ({"conversations": conversation()["conversations"][::-1]}, "its speakers"),
        (
            {
                "conversations": [
                    *conversation()["conversations"][:1],
                    {"from": "gpt", "value": f"<tool_call>{CALL}</tool_call>"},
                ],
                "images": ["a"],
            },
            "without a tool's response",
        ),
    ],
)
def test_bad_conversations(sft: Path, change: dict[str, Any], reason: str) -> None:
    good, problem = codevision_sft.load(write_json(sft, [conversation(), conversation(**change)]))
    assert isinstance(good, codevision_sft.Conversation)
    assert isinstance(problem, Problem)
    assert problem.index == 1
    assert reason in problem.reason
