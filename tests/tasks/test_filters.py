import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from kernel_agent.errors import InputError
from kernel_agent.tasks import filters
from kernel_agent.tasks.dataset import read_tasks, write_tasks
from kernel_agent.tasks.generate import Series, generate
from kernel_agent.tasks.generated_folder import write_dataset
from kernel_agent.tasks.ground_truth import GroundTruth
from kernel_agent.tasks.image_hash import SAME, nearest, turned
from kernel_agent.tasks.orientation import Orientation

PICTURES = [
    Image.fromarray(generate(series, 5, index, orientation=Orientation.UPRIGHT).shown)
    for series in Series
    for index in range(3)
]


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=35)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: image.point(lambda value: value * 0.6),
        *(orientation.apply for orientation in Orientation),
        lambda image: jpeg(ImageOps.mirror(image.rotate(90, expand=True))),
    ],
)
def test_a_picture_is_known_again(change) -> None:  # type: ignore[no-untyped-def]
    known = np.stack([turned(image)[0] for image in PICTURES])
    queries = np.stack([turned(change(image)) for image in PICTURES])
    where, distance = nearest(queries, known)
    assert list(where) == list(range(len(PICTURES)))
    assert distance.max() < SAME


def test_different_pictures_are_not_the_same() -> None:
    every = np.stack([turned(image) for image in PICTURES])
    for index in range(len(PICTURES)):
        _, distance = nearest(every[index][None], np.delete(every[:, 0], index, axis=0))
        assert distance[0] > 1.4 * SAME


def one(folder: Path, name: str, image: Image.Image, question: str = "What?") -> GroundTruth:
    file = folder / f"{name}.png"
    image.save(file)
    return GroundTruth(id=name, question=question, answers=("x",), image=str(file))


def test_duplicates_and_test_pictures_are_named(tmp_path: Path) -> None:
    a, b, c = PICTURES[0], PICTURES[7], PICTURES[14]
    tasks = [
        one(tmp_path, "a", a),
        one(tmp_path, "b", b),
        one(tmp_path, "a-turned", a.rotate(90, expand=True), "what? "),
        one(tmp_path, "a-other-question", a, "Who?"),
        replace(one(tmp_path, "c", c), image=None),
    ]
    known = filters.hashes(tasks)
    assert set(known) == {"a", "b", "a-turned", "a-other-question"}
    assert filters.duplicates(tasks, known) == {"a-turned": "the same question about the same picture as a"}
    found = filters.contaminated(known, {"test/1": turned(ImageOps.flip(b)), "test/2": turned(c)})
    assert list(found) == ["b"]
    assert "test/1" in found["b"]
    assert filters.contaminated(known, {}) == {}


def test_what_all_or_no_rollouts_solve_is_left_out() -> None:
    given = {"a": [True, True], "b": [False, True], "c": [False, False, False], "d": []}
    assert filters.one_sided(given) == {"a": "all 2 rollouts are right", "c": "all 3 rollouts are wrong"}


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(InputError, match=r"x\.png"):
        filters.hashes([GroundTruth(id="x", question="q", answers=("a",), image=str(tmp_path / "x.png"))])
    with pytest.raises(InputError, match="no pictures"):
        filters.pictures(tmp_path / "nothing")


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "kernel_agent.cli", "data", "filter", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command(tmp_path: Path) -> None:
    write_dataset(tmp_path / "train", Series.DIAL, 6, 1, workers=1)
    tasks = list(read_tasks(tmp_path / "train"))
    write_tasks(tmp_path / "train", [*tasks, replace(tasks[0], id="again")])
    (tmp_path / "test").mkdir()
    Image.open(str(tasks[2].image)).transpose(Image.Transpose.ROTATE_180).save(tmp_path / "test" / "seen.png")
    (tmp_path / "bench").mkdir()
    write_tasks(tmp_path / "bench", [replace(tasks[4], id="bench")])
    out = tmp_path / "out"
    run = command(tmp_path / "train", "--out", out, "--against", tmp_path / "test", "--against", f"mvtool:{tmp_path / 'bench'}")  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "4 tasks" in run.stdout
    kept = list(read_tasks(out))
    assert [task.id for task in kept] == [tasks[k].id for k in (0, 1, 3, 5)]
    assert all(Path(str(task.image)).is_file() for task in kept)
    left = {one["task"]: one["reason"] for one in map(json.loads, (out / "left_out.jsonl").read_text().splitlines())}
    assert set(left) == {"again", tasks[2].id, tasks[4].id}
    assert "seen.png" in left[tasks[2].id]
    assert "mvtool bench" in left[tasks[4].id]
    assert "holds a dataset already" in command(tmp_path / "train", "--out", out).stderr
    assert "no pictures" in command(tmp_path / "train", "--out", tmp_path / "o2", "--against", tmp_path / "none").stderr
