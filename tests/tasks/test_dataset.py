import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernel_agent.errors import InputError
from kernel_agent.tasks.dataset import read_task, read_tasks, write_tasks
from kernel_agent.tasks.ground_truth import (
    AnswerType,
    Corruption,
    CorruptionKind,
    GroundTruth,
    Kind,
    Operation,
    correction,
)
from kernel_agent.tasks.orientation import Orientation

TASK = GroundTruth(
    id="receipt-000001",
    question="What is the total?",
    answers=("12.50", "$12.50"),
    kind=Kind.READING,
    answer_type=AnswerType.NUMBER,
    image="images/receipt-000001.png",
    size=(400, 900),
    orientation=Orientation.ROT90,
    corruptions=(Corruption(kind=CorruptionKind.BLUR, severity=2, seed=9),),
    target=(1.5, 2, 30, 40),
    canonical_target=(3, 4, 50, 60.25),
    required=(Operation.ROTATE270, Operation.CROP),
    source="generator:receipt",
    extra={"year": ["NO"]},
)


def test_a_task_comes_back_from_its_json() -> None:
    assert GroundTruth.from_json(json.loads(json.dumps(TASK.to_json()))) == TASK
    small = GroundTruth(id="a", question="q", answers=("x",))
    assert small.to_json() == {"id": "a", "question": "q", "answers": ["x"]}
    assert GroundTruth.from_json(json.dumps(small.to_json())) == small


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "12"}, "answers.*list of texts"),
        ({"answers": []}, "answers.*at least one"),
        ({"orientation": "rot45"}, "orientation.*rot90"),
        ({"required": ["rotate45"]}, "required.*rotate90"),
        ({"required": ["crop", "crop"]}, "required.*once"),
        ({"target": [1, 2, 3]}, "target.*4 numbers"),
        ({"target": [5, 2, 3, 9]}, "target.*left < right"),
        ({"canonical_target": [1, 2, 3, True]}, "canonical_target.*4 numbers"),
        ({"size": [0, 4]}, "size"),
        ({"id": "../x"}, "id.*letters"),
        ({"question": " "}, "question"),
        ({"bbox": [1, 2, 3, 4]}, "'bbox' is unknown"),
        ({"corruptions": [{"kind": "blur"}]}, "corruptions.*severity"),
        ({"corruptions": [{"kind": "blur", "severity": 6, "seed": 0}]}, "severity 6"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GroundTruth.from_json({**TASK.to_json(), **change})


def test_a_missing_field_is_named() -> None:
    given = TASK.to_json()
    del given["answers"]
    with pytest.raises(InputError, match="'answers' is missing"):
        GroundTruth.from_json(given)


@pytest.mark.parametrize("orientation", list(Orientation))
def test_the_correction_is_what_pillow_would_be_told(orientation: Orientation) -> None:
    from PIL import Image, ImageOps

    image = Image.effect_noise((7, 5), 90)
    shown = orientation.apply(image)
    operation = correction(orientation)
    undone = {
        None: lambda: shown,
        Operation.ROTATE90: lambda: shown.rotate(90, expand=True),
        Operation.ROTATE180: lambda: shown.rotate(180, expand=True),
        Operation.ROTATE270: lambda: shown.rotate(270, expand=True),
        Operation.FLIP_HORIZONTAL: lambda: ImageOps.mirror(shown),
        Operation.FLIP_VERTICAL: lambda: ImageOps.flip(shown),
    }[operation]()
    assert undone.tobytes() == image.tobytes()


def test_a_dataset_is_read_as_it_was_written(tmp_path: Path) -> None:
    other = replace(TASK, id="b", image=None)
    absolute = replace(TASK, id="c", image=str(tmp_path / "images" / "c.png"))
    assert write_tasks(tmp_path, [TASK, other, absolute]) == 3
    read = list(read_tasks(tmp_path))
    assert [task.image for task in read] == [str(tmp_path / TASK.image), None, str(tmp_path / "images/c.png")]  # type: ignore[operator]
    assert replace(read[0], image=TASK.image) == TASK
    assert '"images/c.png"' in (tmp_path / "tasks.jsonl").read_text()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_tasks(tmp_path, [TASK])
    with pytest.raises(InputError, match="comes twice"):
        write_tasks(tmp_path, [TASK, TASK])
    assert len(list(read_tasks(tmp_path))) == 1


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    write_tasks(tmp_path, [TASK])
    with (tmp_path / "tasks.jsonl").open("a") as out:
        out.write('{"id": "x"}\n')
    tasks = read_tasks(tmp_path)
    assert next(tasks).id == TASK.id
    with pytest.raises(InputError, match=r"tasks.jsonl, line 2: task field 'answers' is missing"):
        next(tasks)
    with pytest.raises(InputError, match="no file"):
        next(read_tasks(tmp_path / "nothing"))


def test_one_task_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps(TASK.to_json(), indent=2))
    assert read_task(tmp_path / "task.json").answers == TASK.answers
