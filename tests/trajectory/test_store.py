import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import nbformat
import pytest
from making import HEADER, answer_step, cell_step, crop_run, kernel_image, noise, random_run, shown_step

from kernel_agent.errors import StorageError, TrajectoryError
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Event, StopReason

HERE = Path(__file__).parent


def in_process(code: str, *arguments: object, timeout: float = 60) -> str:
    """Run code in another Python; its output."""
    script = f"import sys; sys.path.insert(0, {str(HERE)!r})\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def begun(**options: object) -> Trajectory:
    return Trajectory.start(images=[kernel_image(0, noise(30, 20))], header=HEADER, **options)  # type: ignore[arg-type]


def check(path: Path, run: Trajectory) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))
    assert Trajectory.load(path) == run


@pytest.mark.parametrize("seed", [0, 3, 4, 8, 11, 17, 23, 36])
def test_the_file_is_whole_after_every_call(tmp_path: Path, seed: int) -> None:
    whole = random_run(seed)
    path = tmp_path / "run.ipynb"
    run = Trajectory.start(images=[i for i in whole.images if i.origin == "input"], header=whole.header)
    run.record_to(path)
    check(path, run)
    for event in whole.events:
        run.add_event(event)
        check(path, run)
    for number, turn in enumerate(whole.turns):
        run.begin_turn(turn.question)
        check(path, run)
        last = whole.turns[number + 1].first_step if number + 1 < len(whole.turns) else len(whole.steps)
        for step in whole.steps[turn.first_step : last]:
            run.add_step(step)
            check(path, run)
        if turn.stop_reason is not None:
            run.end_turn(turn.answer, turn.stop_reason)
            check(path, run)
    assert (tmp_path / "run.codevision" / "journal.jsonl").exists()
    run.close()
    run.close()
    check(path, run)
    data = path.read_bytes()
    path.unlink()
    run.save(path)
    assert path.read_bytes() == data
    assert [item.name for item in tmp_path.iterdir()] == ["run.ipynb"]


def test_keeping_the_journal(tmp_path: Path) -> None:
    run = crop_run()
    run.record_to(tmp_path / "run.ipynb")
    run.add_event(Event(kind="late", time=1.0))
    run.close(keep=True)
    lines = (tmp_path / "run.codevision" / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["base", "event", "close"]
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2]
    assert Trajectory.recover(tmp_path / "run.ipynb") == run
    assert not (tmp_path / "run.codevision").exists()


def test_an_existing_file_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_text("mine")
    run = begun()
    with pytest.raises(StorageError, match=r"run\.ipynb exists.*--force.*another name"):
        run.record_to(path)
    assert path.read_text() == "mine"
    assert [item.name for item in tmp_path.iterdir()] == ["run.ipynb"]
    run.record_to(path, force=True)
    check(path, run)


def test_bad_paths_are_named(tmp_path: Path) -> None:
    run = begun()
    with pytest.raises(StorageError, match=r"there is no folder .*nowhere.*make it"):
        run.record_to(tmp_path / "nowhere" / "run.ipynb")
    (tmp_path / "folder.ipynb").mkdir()
    with pytest.raises(StorageError, match="no regular file"):
        run.record_to(tmp_path / "folder.ipynb", force=True)
    (tmp_path / "full.ipynb").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="no regular file"):
        run.save(tmp_path / "full.ipynb")
    with pytest.raises(StorageError, match=r"ends in \.ipynb"):
        run.record_to(tmp_path / "run.txt")


def test_a_folder_that_may_not_be_written_to_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        said = in_process(
            """
            import os
            from kernel_agent.errors import StorageError
            from making import crop_run
            run = crop_run()
            import kernel_agent.trajectory.store, kernel_agent.trajectory.export
            if os.geteuid() == 0:
                os.setuid(65534)
            for write in (run.record_to, run.save):
                try:
                    write(sys.argv[1] + "/run.ipynb")
                except StorageError as error:
                    print(error)
            """,
            folder,
        )
    assert said.count("Permission denied") == 2, said
    assert said.count("Give yourself the right to write") == 2


def test_two_runs_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    first = begun()
    first.record_to(path)
    first.begin_turn("?")
    said = in_process(
        """
        from kernel_agent.errors import StorageError
        from making import crop_run
        from kernel_agent.trajectory import recover
        for force in (False, True):
            try:
                crop_run().record_to(sys.argv[1], force=force)
            except StorageError as error:
                print(error)
        for write in (crop_run().save, recover):
            try:
                write(sys.argv[1])
            except StorageError as error:
                print(error)
        """,
        path,
    )
    assert said.count(f"is being written by process {os.getpid()}: wait until it has ended, or give another name") == 4
    with pytest.raises(StorageError, match=r"\(this one\)"):
        begun().record_to(path, force=True)
    first.end_turn(None, StopReason.INTERRUPTED)
    check(path, first)
    first.close()
    begun().record_to(path, force=True)


def test_a_stale_journal_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    in_process(
        """
        import os
        from making import *
        run = crop_run(); run.record_to(sys.argv[1]); run.begin_turn("and?")
        os._exit(0)
        """,
        path,
    )
    with pytest.raises(StorageError, match=r"did not end: codevision recover run\.ipynb"):
        begun().record_to(path)
    run = begun()
    run.record_to(path, force=True)
    run.close()
    assert (tmp_path / "run-1.codevision" / "journal.jsonl").exists()
    assert run.events[-1].kind == "journal_moved"
    check(path, run)


def test_another_programs_edit_stays_and_the_run_goes_on_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    run = begun()
    run.record_to(path)
    run.begin_turn("?")
    run.add_step(cell_step(0, "1"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("my note"))
    nbformat.write(notebook, path)
    edited = path.read_bytes()
    run.add_step(shown_step(1, 1, "image_0", noise(8, 8)))
    assert path.read_bytes() == edited
    assert run.path == tmp_path / "run-1.ipynb"
    assert run.events[-1].kind == "notebook_moved"
    assert run.events[-1].data["to"] == "run-1.ipynb"
    check(tmp_path / "run-1.ipynb", run)
    run.end_turn(None, StopReason.STEP_LIMIT)
    run.close(keep=True)
    check(tmp_path / "run-1.ipynb", run)
    again = Trajectory.recover(path)
    assert again == run
    assert again.path == tmp_path / "run-1.ipynb"
    assert path.read_bytes() == edited


def test_a_removed_notebook_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    run = crop_run()
    run.record_to(path)
    path.unlink()
    run.begin_turn("and?")
    check(path, run)
    assert run.events[-1].data["reason"] == "it was removed"


def test_going_on_keeps_the_cells_that_are_there(tmp_path: Path) -> None:
    run = crop_run()
    path = run.save(tmp_path / "run.ipynb")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("my note"))
    nbformat.write(notebook, path)
    again = Trajectory.load(path)
    again.record_to(path, force=True)
    again.begin_turn("And below it?")
    again.add_step(shown_step(6, 4, "result", noise(9, 9)))
    again.add_step(answer_step(7, "B8"))
    again.end_turn("B8", StopReason.ANSWER)
    again.close()
    check(path, again)
    cells = nbformat.read(path, as_version=4).cells
    assert cells[1].source == "my note"
    assert [cell.id for cell in cells][-5:] == [
        "turn-1-question",
        "step-6-thought",
        "step-6",
        "step-7",
        "turn-1-answer",
    ]
    again.reopen()
    again.begin_turn("And?")
    again.end_turn(None, StopReason.INTERRUPTED)
    again.close()
    check(path, again)
    assert "my note" in path.read_text()
    again.save(path)
    assert "my note" in path.read_text()
    other = Trajectory.load(path)
    run.begin_turn("another course")
    run.add_step(cell_step(6, "2"))
    with pytest.raises(StorageError, match="another course"):
        run.record_to(path, force=True)
    assert Trajectory.load(path) == other


def test_recording_from_the_middle_and_to_another_file(tmp_path: Path) -> None:
    run = begun()
    run.begin_turn("?")
    run.add_step(shown_step(0, 1, "result", noise(8, 8)))
    run.record_to(tmp_path / "a.ipynb")
    run.add_step(answer_step(1))
    check(tmp_path / "a.ipynb", run)
    run.record_to(tmp_path / "b.ipynb")
    run.end_turn("A7", StopReason.ANSWER)
    run.close()
    check(tmp_path / "b.ipynb", run)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.ipynb", "b.ipynb"]


FULL = """
    import os, resource
    from kernel_agent.errors import StorageError
    from kernel_agent.trajectory import Trajectory
    from making import *
    path, limit, elsewhere = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    run = Trajectory.start(images=[kernel_image(0, noise(30, 20))], header=HEADER)
    failed = 0
    if limit:
        soft = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, soft[1]))
    def tried(call, *arguments):
        global failed
        try:
            call(*arguments)
        except StorageError as error:
            failed += 1
            text = str(error)
            assert path in text and "Needed" in text and "free" in text and "Free some space" in text, text
            return
        if os.path.exists(path) and not failed:
            assert Trajectory.load(path) == run
    tried(run.record_to, path)
    tried(run.begin_turn, "?")
    for k in range(8):
        tried(run.add_step, shown_step(k, k + 1, "result", noise(200, 100 + 40 * k, k)))
        if os.path.exists(path):
            Trajectory.load(path)  # never torn
    tried(run.end_turn, "A7", StopReason.ANSWER)
    assert failed, "nothing failed"
    assert len(run.steps) == 8 and run.answer == "A7"
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    run.save(elsewhere)
    assert Trajectory.load(elsewhere) == run
    if limit and run._store is not None:
        run.close()  # there is room again
        assert Trajectory.load(path) == run and not os.path.exists(path[:-6] + ".codevision")
    print(failed)
"""


@pytest.mark.parametrize("limit", [2_000, 9_000, 60_000, 100_000, 333_333, 500_000, 700_001])
def test_a_limit_on_file_sizes_anywhere(tmp_path: Path, limit: int) -> None:
    assert int(in_process(FULL, tmp_path / "run.ipynb", limit, tmp_path / "else.ipynb")) > 0


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one: a tmpfs of 900 kB in a user namespace of its own."""
    script = "mount -t tmpfs -o size={size}k none {disk} && exec {python} -c {code} {disk}/run.ipynb 0 {other}"
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n" + textwrap.dedent(FULL)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here; the limit on file sizes covers the same paths")
    import shlex

    for size in (200, 900, 1500):
        (tmp_path / str(size)).mkdir()
        line = script.format(
            size=size, disk=tmp_path / str(size), python=sys.executable, code=shlex.quote(code), other=tmp_path / f"{size}.ipynb"
        )  # fmt: skip
        done = subprocess.run(["unshare", "-rm", "sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 0


def test_the_cost_of_a_step_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In calls of functions, and in bytes read and written; perf/steps.py measures the time."""
    calls = moved = 0

    def called(frame: object, event: str, given: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def counted(name: str, of: Any) -> None:
        def move(file: int, data: Any, *where: int) -> Any:
            nonlocal moved
            moved += data if isinstance(data, int) else len(data)
            return of(file, data, *where)

        monkeypatch.setattr(os, name, move)

    run = begun()
    run.record_to(tmp_path / "run.ipynb")
    run.begin_turn("?")
    image = noise(640, 540)
    for name in ("read", "pread", "write", "pwrite"):
        counted(name, getattr(os, name))
    cost = []
    for k in range(30):
        step, calls, moved = shown_step(k, k + 1, "result", image), 0, 0
        sys.setprofile(called)
        run.add_step(step)
        sys.setprofile(None)
        cost.append((calls, moved))
    monkeypatch.undo()
    size = len(run.images[1].data)
    assert size > 1_000_000
    assert max(moved for _, moved in cost[2:]) < 2 * size, cost  # the picture as base64
    assert max(calls for calls, _ in cost[24:]) <= 1.1 * min(calls for calls, _ in cost[2:8]), cost
    run.close()
    check(tmp_path / "run.ipynb", run)


def test_importing_is_light() -> None:
    said = in_process(
        """
        import kernel_agent.trajectory
        print([name for name in ("nbformat", "jupyter_client", "PIL", "numpy", "pydantic", "IPython") if name in sys.modules])
        """
    )
    assert said.strip() == "[]"


def test_damage_in_the_middle_of_a_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    run = begun()
    run.record_to(path)
    run.begin_turn("?")
    run.add_step(cell_step(0, "1"))
    run.close(keep=True)
    journal = tmp_path / "run.codevision" / "journal.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b'"question":"?"', b'"question":"!"'))
    with pytest.raises(TrajectoryError, match="does not follow"):
        Trajectory.recover(path)
    journal.write_bytes(data.replace(b'"type":"turn"', b'"type":"turn'))
    with pytest.raises(TrajectoryError, match="line 2 of 4 is damaged"):
        Trajectory.recover(path)
    lines = data.splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(TrajectoryError, match="no record with the number 1"):
        Trajectory.recover(path)
