"""Folders that came from somebody: results that were laid beside the runs, names, links, and what stops no other run's audit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import orjson
import pytest
from forging import record
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit.batch import Batch, audit_folder
from kernel_agent.audit.finding import Outcome
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import StorageError


@pytest.fixture
def folder(picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run that does not hold."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "runs" / "run.ipynb"
    path.parent.mkdir()
    run_blocking(record(["print(5)"], picture, path=path))
    run = orjson.loads(path.read_bytes())
    next(cell for cell in run["cells"] if cell["id"] == "step-0")["outputs"][0]["text"] = ["7\n"]
    path.write_bytes(orjson.dumps(run))
    return path.parent


def _audit(folder: Path, results: Path) -> Batch:
    return run_blocking(audit_folder(folder, results, RerunOptions(code=False), jobs=1))


def test_results_that_came_with_the_runs_are_not_believed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "runs-audit.jsonl"
    assert _audit(folder, results).exit_code == 1
    (line,) = results.read_bytes().splitlines()
    told = orjson.loads(line)
    good = told | {"outcome": "holds", "findings": []}
    without = {key: value for key, value in good.items() if key != "mac"}
    for planted in (good, without, told | {"path": "other.ipynb"}):
        results.write_bytes(orjson.dumps(planted) + b"\n")
        again = _audit(folder, results)
        assert (again.skipped, again.exit_code) == (0, 1)
    results.write_bytes(line + b"\n")
    assert (_audit(folder, results).skipped, len(results.read_bytes().splitlines())) == (1, 1)  # our own are
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state of somebody else"))
    assert _audit(folder, results).skipped == 0
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")  # no key can be kept
    assert [_audit(folder, results).skipped for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("kind", ["link", "pipe", "other", "other, one line"])
def test_results_are_written_to_nothing_else(kind: str, folder: Path, tmp_path: Path) -> None:
    results, other = tmp_path / "results.jsonl", tmp_path / "other"
    if kind == "link":
        results.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(results)
    else:
        results.write_text("# mine\nno end" if kind == "other" else "no end")
    before = None if kind == "pipe" else os.lstat(results)[:7]
    with pytest.raises(StorageError, match="give another --results"):
        _audit(folder, results)
    assert before is None or os.lstat(results)[:7] == before
    assert not other.exists()


def test_whatever_lies_in_a_folder_every_run_is_audited(folder: Path, tmp_path: Path) -> None:
    run = (folder / "run.ipynb").read_bytes()
    os.mkfifo(folder / "a.ipynb")
    (folder / "b.ipynb").write_bytes(b'{"cells": 7}')
    (folder / os.fsdecode(b"\xff.ipynb")).write_bytes(run)
    (folder / ".hidden.ipynb").write_bytes(run)
    (folder / "link.ipynb").symlink_to(folder / "run.ipynb")
    (folder / ".git").mkdir()
    (folder / ".git" / "c.ipynb").write_bytes(run)
    (folder / "linked").symlink_to(folder / ".git")
    results = tmp_path / "results.jsonl"
    batch = _audit(folder, results)
    assert (batch.total, batch.outcomes[Outcome.FAILS], batch.left_out) == (4, 4, 4)
    found = {line["path"]: line["findings"][0]["message"] for line in map(json.loads, results.read_text().splitlines())}
    assert "no regular file" in found["a.ipynb"]
    assert "no list of cells" in found["b.ipynb"]
    assert len(found) == 4
    assert _audit(folder, results).skipped == 3  # the pipe has no content to know it by
    done = CliRunner().invoke(app, ["audit", str(folder), "--results", str(results), "--no-code"])
    assert "Not looked at: 4 links or hidden names" in done.output
    odd = folder.rename(folder.with_name(os.fsdecode(b"\xfe")))
    done = CliRunner().invoke(app, ["audit", str(odd), "--json", "--no-code", "--results", f"{odd}.jsonl"])
    assert json.loads(done.stdout)["results"].endswith("?.jsonl")


def test_it_is_said_that_no_code_was_run(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    run_blocking(record(["print(5)"], picture, path=path))
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code"])
    assert (done.exit_code, "All holds" in done.output) == (0, False)
    assert "the code was not run again" in done.output
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code", "--json"])
    assert json.loads(done.stdout)["code"] is False
    folder = tmp_path / "runs"
    folder.mkdir()
    path.rename(folder / "run.ipynb")
    done = CliRunner().invoke(app, ["audit", str(folder), "--no-code", "--results", str(tmp_path / "results.jsonl")])
    assert "No code was run again" in done.output
