"""Without any seal: what a notebook shows is what its record gives, and the journal of an unfinished run fits it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import orjson
import pytest
from forging import record
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Outcome, Report
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.blocking import run_blocking
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.export import write_self_contained
from tests.stock_kernels import sockets

CODES = ["print('seen')\nimage_0.rotate(90, expand=True)", "1 / 0"]


@pytest.fixture
def notebook(picture: Image.Image, tmp_path: Path) -> Path:
    run_blocking(record(CODES, picture, path=tmp_path / "run.ipynb"))
    return tmp_path / "run.ipynb"


def _audit(path: Path) -> Report:
    return run_blocking(audit_file(path, RerunOptions(code=False)))[0]


def _cell(run: Any, name: str) -> Any:
    return next(cell for cell in run["cells"] if cell["id"] == name)


CHANGES: list[tuple[Callable[[Any], Any], tuple[str, str], int]] = [
    (lambda run: _cell(run, "step-0").update(source=["1"]), ("step 1", "source"), 1),
    (lambda run: _cell(run, "step-0")["outputs"][0].update(text=["x\n"]), ("step 1", "outputs[0].text"), 1),
    (lambda run: _cell(run, "step-1").update(outputs=[]), ("step 2", "outputs[0].ename"), 1),
    (lambda run: _cell(run, "turn-0-answer").update(source=["# Answer\n\n8"]), ("turn 1, answer", "source"), 1),
    (lambda run: run["cells"].remove(_cell(run, "step-0-thought")), ("step 1, thought", "cell"), 1),
    (lambda run: run["cells"].insert(0, run["cells"].pop()), ("turn 1, answer", "order"), 1),
    (lambda run: run["cells"].append(nbformat.v4.new_markdown_cell("# Answer: 8", id="x")), ("cell 'x'", "cell"), 2),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_cell_that_shows_something_else_than_the_record_is_named(number: int, notebook: Path) -> None:
    change, place, code = CHANGES[number]
    run = orjson.loads(notebook.read_bytes())
    change(run)
    notebook.write_text(json.dumps(run))
    report = _audit(notebook)
    assert report.exit_code == code
    assert place in {(finding.cell, finding.field) for finding in report.findings}


def test_an_exported_notebook_shows_what_its_record_gives(notebook: Path) -> None:
    write_self_contained(Trajectory.load(notebook), alone := notebook.with_name("alone.ipynb"))
    assert _audit(alone).findings == ()


AGAIN = [
    "print('seen')\nimage_0.rotate(90, expand=True)",
    "import warnings\nwarnings.warn('5 dogs')",
    "object(), [1, 2]",
    "1 / 0",
    "import time\nprint(time.time())",
    "t = time.time()",
    "print(t)",
    "import random\nrandom.random()",
    "print('\\r1 of 2', end='')\nprint('\\r2 of 2')",
    "print('5 dogs')",
    "display('5 dogs')",
    "display(image_0)",
]


@pytest.fixture(scope="module")
def run_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook that somebody ran again in Jupyter and saved."""
    path = tmp_path_factory.mktemp("again") / "again.ipynb"
    run_blocking(record(AGAIN, Image.new("RGB", (60, 40), "white"), path=path))
    run, before = nbformat.read(path, as_version=4), path.read_bytes()
    folder = {"metadata": {"path": str(path.parent)}}
    config = Config(KernelManager=sockets(path.parent))
    with pytest.MonkeyPatch.context() as ours:
        ours.setenv("IPYTHONDIR", str(path.parent / "ipython"))
        NotebookClient(run, kernel_name="python3", allow_errors=True, resources=folder, config=config).execute()
    nbformat.write(run, path)
    assert path.read_bytes() != before
    return path


@pytest.fixture
def again(run_again: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(run_again, tmp_path / "again.ipynb"))


def test_a_notebook_that_was_run_again_shows_what_its_record_gives_or_cannot_be_checked(again: Path) -> None:
    found = _audit(again).findings
    assert {finding.outcome for finding in found} == {Outcome.UNCHECKED}
    assert {finding.cell for finding in found} == {f"step {number}" for number in (4, 5, 7, 8, 9)}
    told = {finding.cell: finding.message for finding in found}
    assert "control characters" in told["step 4"]  # colours, perhaps
    assert "step 6 drew on time, and both use t" in told["step 7"]


def test_a_lossy_run_that_was_run_again_holds(tmp_path: Path) -> None:
    """Its captions name the loss still, and its pictures have none any more."""
    path = tmp_path / "lossy.ipynb"
    run_blocking(
        record(["image_0.rotate(90)", "1"], Image.effect_noise((60, 40), 60).convert("RGB"), path=path, jpeg=True)
    )
    run = nbformat.read(path, as_version=4)
    NotebookClient(run, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.write(run, path)
    assert [image.lossless for image in Trajectory.load(path).images] == [True, True]
    assert _audit(path).findings == ()
    write_self_contained(Trajectory.load(path), alone := tmp_path / "alone.ipynb")
    assert _audit(alone).findings == ()
    plain = orjson.loads(path.read_bytes())
    thought = _cell(plain, "step-0-thought")
    thought["source"] = "".join(thought["source"]).replace(", kept as a lossy JPEG", "")
    path.write_text(json.dumps(plain))
    assert [(item.cell, item.field) for item in _audit(path).findings] == [("step 1, thought", "source")]


@pytest.mark.parametrize(
    ("step", "old", "new", "code"),
    [
        (0, "seen", "said", 1),
        (1, "5 dogs", "7 dogs", 1),
        (2, "[1, 2]", "[1, 7]", 1),
        (2, " at 0x", " or 7 at 0x", 1),
        (3, "division", "division of 7 dogs", 1),
        (8, "2 of 2", "7 of 2", 1),
        (9, "5 dogs", "5 dogs \r7 dogs", 1),
        (9, "5 dogs", "\x1b[8m5 dogs\x1b[0m", 2),
        (4, ".", ".7", 2),
    ],
)
def test_an_edit_is_no_run_of_the_code(step: int, old: str, new: str, code: int, again: Path) -> None:
    run = orjson.loads(again.read_bytes())
    cell = _cell(run, f"step-{step}")
    before = orjson.dumps(cell["outputs"])
    cell["outputs"] = orjson.loads(json.dumps(cell["outputs"], ensure_ascii=False).replace(old, json.dumps(new)[1:-1]))
    assert orjson.dumps(cell["outputs"]) != before
    again.write_bytes(orjson.dumps(run))
    found = [finding for finding in _audit(again).findings if finding.cell == f"step {step + 1}"]
    assert {finding.outcome for finding in found} == {Outcome.FAILS if code == 1 else Outcome.UNCHECKED}


@pytest.mark.parametrize(
    ("step", "output_type"),
    [
        (0, "pyout"),
        (0, "display_data"),
        (0, "execute_result"),
        (2, "pyout"),
        (9, "pyout"),
        (10, "pyout"),
        (11, "pyout"),
    ],
)
def test_an_output_of_a_type_that_viewers_do_not_show_is_no_run_of_the_code(
    step: int, output_type: str, again: Path
) -> None:
    run = orjson.loads(again.read_bytes())
    shown = _cell(run, f"step-{step}")["outputs"][-1]
    was, shown["output_type"] = shown["output_type"], output_type
    again.write_bytes(orjson.dumps(run))
    found = {finding.outcome for finding in _audit(again).findings if finding.cell == f"step {step + 1}"}
    assert found == (set() if was == output_type else {Outcome.FAILS})


@pytest.fixture
def unfinished(notebook: Path) -> Path:
    """A run whose process is gone: journal and notebook as they lay on the disk after the first step."""
    run = Trajectory.load(notebook)
    half = run.branch(0, in_turn=True)
    path = notebook.with_name("half.ipynb")
    half.record_to(path)
    half.reopen_turn()
    half.add_step(run.steps[0])
    half.add_step(run.steps[1])
    for source in (path, path.with_suffix(".codevision")):
        copy = source.with_stem("crashed")
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    half.close()
    return path.with_stem("crashed")


def test_a_run_that_crashed_in_a_step_holds_once_it_is_recovered(unfinished: Path) -> None:
    recovered = Trajectory.recover(unfinished)
    assert str(recovered.stop_reason) == "crashed"
    report, _ = run_blocking(audit_file(unfinished))
    assert report.rerun is not None
    assert (report.findings, len(report.rerun.cells)) == ((), 2)


def test_a_run_that_was_cut_off_is_unchecked_and_its_journal_must_fit(unfinished: Path) -> None:
    folder = unfinished.with_suffix(".codevision")
    (link := unfinished.with_name("link.ipynb")).symlink_to(unfinished)
    for path in (unfinished, link):
        found = {(finding.cell, finding.field): finding for finding in _audit(path).findings}
        assert found.keys() == {("turn 1", "stop_reason"), ("journal", "journal.jsonl")}
        assert {finding.outcome for finding in found.values()} == {Outcome.UNCHECKED}
        assert "codevision recover crashed.ipynb" in found["journal", "journal.jsonl"].message
    alone = Path(shutil.copy(unfinished, unfinished.with_name("alone.ipynb")))  # its journal was taken away
    assert [finding.field for finding in _audit(alone).findings] == ["stop_reason"]
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)

    def findings() -> set[tuple[Outcome, str, str]]:
        return {(finding.outcome, finding.field, finding.message) for finding in _audit(unfinished).findings}

    journal.write_bytes(b"".join([lines[0], lines[1].replace(b"seen", b"said"), *lines[2:]]))
    assert any("line 3 does not follow line 2" in message for _, _, message in findings())
    journal.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b"ZeroDivision", b"NoDivision")]))
    assert (Outcome.FAILS, "record 2", "the notebook has another step 1") in findings()
    journal.write_bytes(b"".join(lines) + b'{"seq":3')
    assert any("torn" in message for _, _, message in findings())
    journal.write_bytes(b"".join(lines))
    blob = max((folder / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1])
    assert any("is damaged" in message for _, _, message in findings())
    half = orjson.loads(unfinished.read_bytes())
    half["cells"] = [cell for cell in half["cells"] if not cell["id"].startswith("step-1")]
    half["metadata"]["codevision"]["steps"] = 1
    unfinished.write_bytes(orjson.dumps(half))
    assert any("1 records are not in the notebook yet" in message for _, _, message in findings())
