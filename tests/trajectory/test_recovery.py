import os
import random
import select
import shutil
import signal
import time
from pathlib import Path

import nbformat
import pytest
from making import HEADER, cell_step, crop_run, kernel_image, noise, shown_step

from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory import Trajectory, recover
from kernel_agent.trajectory.journal import read_journal
from kernel_agent.types import Event, StopReason

INPUT = kernel_image(0, noise(30, 20), view=9)
PICTURES = [noise(240, 160, seed) for seed in range(4)]


def write_until_killed(path: Path, told: int) -> None:
    """Record steps, telling after each that it is done."""
    run = Trajectory.start(images=[INPUT], header=HEADER)
    run.record_to(path)
    os.write(told, b"r")
    run.begin_turn("first?")
    for index in range(1000):
        run.add_step(shown_step(index, index + 1, f"result = {index}", PICTURES[index % 4]))
        os.write(told, b"s")
        if index % 3 == 2:
            run.add_event(Event(kind="note", time=1.0, data={"after": index}))
        if index % 10 == 9:
            run.end_turn("A", StopReason.ANSWER)
            run.begin_turn("next?")


def test_killed_at_any_moment_it_loses_at_most_the_step_in_flight(tmp_path: Path) -> None:
    r = random.Random(5)
    lost, reached = 0, []
    for attempt in range(16):
        path = tmp_path / str(attempt) / "run.ipynb"
        path.parent.mkdir()
        listen, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(listen)
                write_until_killed(path, told)
            finally:
                os._exit(1)
        os.close(told)
        done, wanted = b"", 0 if attempt < 4 else r.randint(1, 12)
        while done.count(b"s") < wanted:
            assert select.select([listen], [], [], 60)[0], f"{wanted} steps were not made within 60 s"
            done += os.read(listen, 1) or pytest.fail("it ended by itself")
        time.sleep(r.uniform(0.001, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(listen, "rb") as pipe:
            done += pipe.read()
        if b"r" not in done:
            shutil.rmtree(path.parent)
            continue
        reached.append(steps := done.count(b"s"))
        run = recover(path)
        lost += len(run.steps) < steps
        assert steps <= len(run.steps) <= steps + 1
        assert [step.cell and step.cell.source for step in run.steps] == [
            f"result = {k}" for k in range(len(run.steps))
        ]
        assert run.images[0] == INPUT
        if run.turns:
            assert run.stop_reason in (StopReason.CRASHED, StopReason.ANSWER)
        nbformat.validate(nbformat.read(path, as_version=4))
        assert Trajectory.load(path) == run
        assert [item.name for item in path.parent.iterdir()] == ["run.ipynb"]
        assert recover(path) == run
    assert lost == 0
    assert max(reached) > 5


def test_cut_at_every_byte_of_its_last_records(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    run = Trajectory.start(images=[INPUT], header=HEADER)
    run.record_to(path)
    run.begin_turn("?")
    for index in range(3):
        run.add_step(shown_step(index, index + 1, "result", noise(6, 6, index)))
    run.add_event(Event(kind="note", time=1.0))
    run.end_turn("A7", StopReason.ANSWER)
    run.close(keep=True)
    data = (tmp_path / "run.codevision" / "journal.jsonl").read_bytes()
    lines = data.splitlines(keepends=True)
    begins = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]
    whole = path.read_bytes()
    folder = tmp_path / "again" / "run.codevision"
    shutil.copytree(tmp_path / "run.codevision", folder)
    journal = folder / "journal.jsonl"
    for cut in range(begins[4], len(data) + 1):
        journal.write_bytes(data[:cut])
        entries, torn = read_journal(folder)
        assert len(entries) == sum(begin <= cut for begin in begins[1:])
        assert torn == (cut not in begins)
    near = {begin + by for begin in begins[2:] for by in (-1, 0, 1) if begin + by <= len(data)}
    for cut in sorted(near | set(range(begins[1], len(data), 997))):
        shutil.rmtree(folder.parent)
        shutil.copytree(tmp_path / "run.codevision", folder)
        journal.write_bytes(data[:cut])
        (folder.parent / "run.ipynb").write_bytes(whole if cut % 3 == 0 else whole[: cut * 7 % len(whole)])
        count = sum(begin <= cut for begin in begins[1:])
        again = recover(folder)
        assert again.steps == run.steps[: min(max(count - 2, 0), 3)]
        if count >= 2:
            assert again.stop_reason == (StopReason.ANSWER if count > 6 else StopReason.CRASHED)
        assert again.path is not None
        assert Trajectory.load(again.path) == again


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrajectoryError, match="nothing to recover"):
        recover(tmp_path / "run.ipynb")
    (tmp_path / "run.codevision").mkdir()
    (tmp_path / "run.codevision" / "journal.jsonl").write_bytes(b'{"seq":0,"pre')
    with pytest.raises(TrajectoryError, match="before anything was recorded"):
        recover(tmp_path / "run.ipynb")
    run = crop_run()
    run.save(tmp_path / "run.ipynb")
    assert recover(tmp_path / "run.ipynb") == run
    assert not (tmp_path / "run.codevision").exists()


def test_a_crash_in_a_follow_up_keeps_notes_and_edits(tmp_path: Path) -> None:
    path = crop_run().save(tmp_path / "run.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("my note"))
    nbformat.write(notebook, path)
    child = os.fork()
    if child == 0:
        run = Trajectory.load(path)
        run.record_to(path, force=True)
        run.begin_turn("and?")
        run.add_step(cell_step(6, "1"))
        os._exit(0)
    os.waitpid(child, 0)
    shutil.copytree(tmp_path, tmp_path / "edited", ignore=lambda *_: ["edited"])
    run = recover(path)
    assert run.path == path
    assert (len(run.steps), run.stop_reason) == (7, StopReason.CRASHED)
    assert run.turns[0].answer == "A7"
    assert [event.kind for event in run.events] == ["note", "recovered"]
    assert "my note" in path.read_text()
    assert Trajectory.load(path) == run
    run.record_to(path, force=True)
    run.begin_turn("go on?")
    run.end_turn("yes", StopReason.ANSWER)
    run.close()
    assert Trajectory.load(path) == run

    other = tmp_path / "edited" / "run.ipynb"
    other.write_text(other.read_text().replace("my note", "my other note"))
    before = other.read_bytes()
    run = recover(other)
    assert other.read_bytes() == before
    assert run.path == tmp_path / "edited" / "run-1.ipynb"
    assert run.events[-1].kind == "notebook_moved"
    assert Trajectory.load(run.path) == run


def test_an_open_turn_that_was_loaded_is_closed_by_the_next_question(tmp_path: Path) -> None:
    run = Trajectory.start(images=[INPUT], header=HEADER)
    run.begin_turn("?")
    path = run.save(tmp_path / "run.ipynb")
    again = Trajectory.load(path)
    assert again.stop_reason is None
    again.record_to(path, force=True)
    again.begin_turn("again?")
    assert again.turns[0].stop_reason is StopReason.CRASHED
    again.end_turn("A", StopReason.ANSWER)
    again.close()
    assert Trajectory.load(path) == again


def test_interrupted_anywhere_it_writes_nothing_twice(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a write: the next call writes what is missing, once."""
    r = random.Random(3)
    path = tmp_path / "run.ipynb"
    run = Trajectory.start(images=[INPUT], header=HEADER)
    run.record_to(path)
    run.begin_turn("?")
    old = signal.getsignal(signal.SIGALRM)

    armed = False  # an alarm that comes too late for the call must not end the tests

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    interrupts, took = 0, 0.004
    signal.signal(signal.SIGALRM, interrupt)
    try:
        for index in range(120):
            step = shown_step(index, index + 1, f"result = {index}", PICTURES[index % 4])
            try:
                armed, began = True, time.perf_counter()
                signal.setitimer(signal.ITIMER_REAL, r.uniform(0.0002, max(0.0004, 1.5 * took)))
                run.add_step(step)
                armed = False
                took = min(time.perf_counter() - began, 0.1)
            except KeyboardInterrupt:
                interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            if len(run.steps) == index:
                run.add_step(step)
    finally:
        signal.signal(signal.SIGALRM, old)
    assert interrupts > 5
    run.end_turn(None, StopReason.INTERRUPTED)
    assert run.path is not None
    nbformat.validate(nbformat.read(run.path, as_version=4))
    assert Trajectory.load(run.path) == run
    cells = [cell.id for cell in nbformat.read(run.path, as_version=4).cells]
    assert len(cells) == len(set(cells)) == 2 + 2 * 120 + 1
    run.close(keep=True)
    assert recover(path) == run
