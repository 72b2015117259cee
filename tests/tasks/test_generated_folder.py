import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from kernel_agent.errors import InputError
from kernel_agent.tasks.annotation import read_hiertext
from kernel_agent.tasks.dataset import read_tasks
from kernel_agent.tasks.generate import Series, generate
from kernel_agent.tasks.generated_folder import ANNOTATIONS, write_dataset
from kernel_agent.tasks.ground_truth import Corruption, CorruptionKind


def contents(folder: Path) -> dict[str, bytes]:
    """By name; of a picture its pixels, as the bytes of a PNG are its writer's affair."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): pixels(p) if p.suffix == ".png" else p.read_bytes() for p in files}


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return repr(image.size).encode() + image.tobytes()


def different(one: Path, other: Path) -> list[str]:
    """The names of what is not the same, with how much of it that is."""
    left, right = contents(one), contents(other)
    return [
        f"{name}: {sum(a != b for a, b in zip(left.get(name, b''), right.get(name, b''), strict=False))} bytes"
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    ]


def test_a_folder_holds_what_was_drawn(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, Series.DIAL, 9, 4, workers=1) == 9
    tasks = list(read_tasks(tmp_path))
    annotations = list(read_hiertext(tmp_path / ANNOTATIONS))
    assert [a.image_id for a in annotations] == [t.id for t in tasks]
    for index, task in enumerate(tasks):
        made = generate(Series.DIAL, 4, index)
        assert task.image is not None
        assert Path(task.image).read_bytes() == made.packed()
        assert (task.question, task.answers, task.target) == (made.task.question, made.task.answers, made.task.target)


def test_stopped_it_goes_on_and_the_result_is_the_same(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "a", Series.CHART, 30, 4, workers=1, progress=stop)
    assert not (tmp_path / "a" / "tasks.jsonl").exists()
    told: list[int] = []
    assert write_dataset(tmp_path / "a", Series.CHART, 30, 4, workers=1, progress=told.append) == 14
    assert told == [16, 24, 30]
    assert write_dataset(tmp_path / "b", Series.CHART, 30, 4, workers=2) == 30
    assert different(tmp_path / "a", tmp_path / "b") == []
    assert write_dataset(tmp_path / "a", Series.CHART, 30, 4) == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    write_dataset(tmp_path, Series.DIAL, 2, 4, workers=1)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds other tasks.*seed=4"):
        write_dataset(tmp_path, Series.DIAL, 2, 5, workers=1)
    (tmp_path / "generate.json").unlink()
    with pytest.raises(InputError, match="not generated here"):
        write_dataset(tmp_path, Series.DIAL, 2, 4, workers=1)
    assert {k: v for k, v in before.items() if k != "generate.json"} == contents(tmp_path)


def test_damage_is_recorded_and_boxes_go_with_it(tmp_path: Path) -> None:
    damage = (Corruption(kind=CorruptionKind.SKEW, severity=4, seed=1), Corruption(kind=CorruptionKind.NOISE, seed=1))
    write_dataset(tmp_path, Series.RECEIPT, 3, 6, corruptions=damage, workers=1)
    for index, task in enumerate(read_tasks(tmp_path)):
        assert [(c.kind, c.severity, c.seed) for c in task.corruptions] == [
            ("skew", 4, 1 + index),
            ("noise", 3, 1 + index),
        ]
        plain = generate(Series.RECEIPT, 6, index).task
        assert task.canonical_target == plain.canonical_target
        assert plain.target is None or task.target != plain.target


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kernel_agent.cli", "data", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path: Path) -> None:
    out = str(tmp_path / "made")
    run = command("generate", "--kind", "label", "--n", "10", "--seed", "3", "--split", "test", "--corrupt", "blur:2", "--out", out)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "drawing 10/10" in run.stderr
    tasks = list(read_tasks(out))
    assert len(tasks) == 10
    assert {task.split for task in tasks} == {"test"}
    assert tasks[3].corruptions == (Corruption(kind=CorruptionKind.BLUR, severity=2, seed=6),)
    assert "10 of them from before" in command("generate", "--kind", "label", "--n", "10", "--seed", "3", "--split", "test", "--corrupt", "blur:2", "--out", out).stdout  # fmt: skip
    for arguments, said in (
        (("--kind", "dog"), "give one of mvtool"),
        (("--split", "dev"), "give one of train"),
        (("--corrupt", "blur:9"), "severity 9"),
        (("--corrupt", "fog"), "give one of skew"),
        (("--kind", "label"), "holds other tasks"),
    ):
        wrong = command("generate", *arguments, "--n", "2", "--out", out)
        assert wrong.returncode == 1
        assert said in wrong.stderr
        assert "Traceback" not in wrong.stderr
    assert json.loads((tmp_path / "made" / "generate.json").read_text())["count"] == 10


def drawing(folder: Path) -> "subprocess.Popen[str]":
    """The command at work, far from its end."""
    given = [sys.executable, "-m", "kernel_agent.cli", "data", "generate", "--kind", "geometry", "--n", "2000", "--out", str(folder)]  # fmt: skip
    return subprocess.Popen(
        [*given, "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )


def interrupted(process: "subprocess.Popen[str]") -> None:
    """Ctrl-C, which goes to all its processes, is one line."""
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    told = [line for line in rest.splitlines() if not line.startswith("drawing ")]
    assert told == ["codevision: Interrupted. The same command goes on where it was."]


@pytest.mark.parametrize("number", range(1, 4))
def test_ctrl_c_is_quiet_while_processes_start(number: int, tmp_path: Path) -> None:
    process = drawing(tmp_path)
    children, deadline = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + 60
    while len(children.read_text().split()) < number:  # the first keeps count of what is shared, two draw
        assert time.monotonic() < deadline
    interrupted(process)


@pytest.mark.slow
def test_ctrl_c_is_quiet_and_the_same_command_goes_on(tmp_path: Path) -> None:
    process = drawing(tmp_path)
    assert process.stderr is not None
    assert next(line for line in process.stderr if line.startswith("drawing 2"))
    interrupted(process)
    again = subprocess.run(process.args, capture_output=True, text=True, check=True)
    assert re.search(r"2000 tasks in .*, \d+ of them from before", again.stdout)
    assert len(list(read_tasks(tmp_path))) == 2000
