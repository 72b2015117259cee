"""Bundles and differences: what a stranger gets, and what somebody may have done to it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import venv
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from forging import record
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit import bundle as bundles
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.finding import Report
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import StorageError, TrajectoryError
from kernel_agent.trajectory import Trajectory
from tests.trajectory.making import random_run


@pytest.fixture
def notebook(picture: Image.Image, tmp_path: Path) -> Path:
    run_blocking(record(["image_0.rotate(90, expand=True)"], picture, path=tmp_path / "a.ipynb"))
    return tmp_path / "a.ipynb"


def _audit(path: Path) -> Report:
    return run_blocking(audit_file(path, RerunOptions(code=False)))[0]


def _rewritten(path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    with zipfile.ZipFile(path) as old:
        held = {name: old.read(name) for name in old.namelist()}
    change(held)
    with zipfile.ZipFile(path, "w") as new:
        for name, data in held.items():
            new.writestr(name, data)
    return path


def test_a_bundle_is_audited_like_its_notebook_and_never_unpacked(notebook: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    done = CliRunner().invoke(app, ["bundle", str(notebook), "-o", str(path)])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["bundle", str(notebook), "-o", str(path)]).exit_code == 1  # it exists
    done = CliRunner().invoke(app, ["audit", str(path)])
    assert (done.exit_code, "All holds" in done.output) == (0, True)
    before = sorted(tmp_path.rglob("*"))
    changes: list[tuple[Callable[[dict[str, bytes]], object], str]] = [
        (lambda held: held.update({"images/image_1.png": held["images/image_0.png"]}), "images/image_1.png"),
        (lambda held: held.update({"requirements.txt": b"x==1\n"}), "requirements.txt"),
        (lambda held: held.pop("README.txt"), "README.txt"),
        (lambda held: held.update({"../../evil.py": b"x"}), "../../evil.py"),
        (lambda held: held.update({"/etc/evil": b"x"}), "/etc/evil"),
        (lambda held: held.update({"a\x1b[2J\u202e": b"x"}), "a\x1b[2J\u202e"),
    ]
    for change, field in changes:
        write_bundle(notebook, path, force=True)
        report = _audit(_rewritten(path, change))
        assert [(finding.cell, finding.field) for finding in report.findings] == [("bundle", field)]
        done = CliRunner().invoke(app, ["audit", str(path), "--no-code"])
        assert done.exit_code == 1
        assert "\x1b[2J" not in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_is_a_process_run_crate(notebook: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    with pytest.raises(StorageError, match="there is no folder"):
        write_bundle(notebook, tmp_path / "none" / "run.zip")
    names = write_bundle(notebook, path)
    with pytest.raises(TrajectoryError, match="is a zip file, no notebook: where it is a bundle, unzip it first"):
        Trajectory.load(path)
    with zipfile.ZipFile(path) as bundle:
        crate = json.loads(bundle.read("ro-crate-metadata.json"))
        data = bundle.read("images/image_1.png")
    known = {item["@id"]: item for item in crate["@graph"]}
    root = known["./"]
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert {item["@id"] for item in root["hasPart"]} == set(names) - {"ro-crate-metadata.json"}
    assert known["images/image_1.png"]["sha256"] == hashlib.sha256(data).hexdigest()
    step = known["#step-1"]
    assert (step["@type"], step["description"]) == ("CreateAction", "image_0.rotate(90, expand=True)")
    assert step["object"] == {"@id": "images/image_0.png"}
    assert step["result"] == {"@id": "images/image_1.png"}

    def references(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(references, value))
        if isinstance(value, dict):
            inner = {key: item for key, item in value.items() if key not in ("@id", "@context")}
            own = {value["@id"]} if set(value) == {"@id"} else set()
            return own | references(list(inner.values()))
        return set()

    assert references(crate) - known.keys() == {"https://w3id.org/ro/crate/1.1"}


def test_a_time_that_is_no_number_is_written_as_some_time() -> None:
    run = Trajectory.start(images=[], header={})
    run.begin_turn("?")
    run._state.turns[0] = replace(run._state.turns[0], seconds=float("nan"))
    assert b"1970-01-01T00:00:00.000+00:00" in bundles.members(run)["ro-crate-metadata.json"]


def test_any_run_can_be_bundled() -> None:
    for seed in range(20):  # half characters, NULs, runs without a question, ...
        held = bundles.members(random_run(seed))
        assert json.loads(held["ro-crate-metadata.json"])["@graph"]


def test_the_model_has_the_address_that_is_known() -> None:
    models = (
        {"kind": "transformers", "model": "embedded"},
        {"kind": "openai", "model": "a/b c", "base_url": "http://127.0.0.1:8000/v1"},
        {"kind": "transformers", "model": "/home/ann/checkpoint", "weights_sha256": "0" * 64},
    )
    found = []
    for model in models:
        crate = bundles.members(Trajectory.start(images=[], header={"model": model}))["ro-crate-metadata.json"]
        software = [item for item in json.loads(crate)["@graph"] if item["@type"] == "SoftwareApplication"]
        found.append((software[2]["@id"], software[2].get("url")))
    assert found[0] == ("https://pypi.org/project/kernel-agent/#model", "https://pypi.org/project/kernel-agent/")
    assert found[1] == ("http://127.0.0.1:8000/v1/models/a%2Fb%20c", "http://127.0.0.1:8000/v1")
    assert (found[2][0][:9], found[2][1]) == ("urn:uuid:", None)


def _resized(path: Path, held: int, told: int) -> None:
    """A file of `held` zeros that says it has `told` bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("run.ipynb", bytes(held))
    path.write_bytes(made.getvalue().replace(held.to_bytes(4, "little"), told.to_bytes(4, "little")))


def _many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for number in range(bundles.MAX_FILES + 1):
            made.writestr(str(number), b"")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: _resized(path, 1 << 20, 2 << 30), "bytes in all: at most"),
        (_many, "20,001 files"),
        (lambda path: _resized(path, 1 << 20, 100), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "no whole bundle"),
        (lambda path: _rewritten(path, lambda held: held.pop("run.ipynb")), "has no run.ipynb"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(10)), "no whole bundle"),
    ],
)
def test_a_bundle_made_to_harm_is_refused(
    harm: Callable[[Path], object], told: str, notebook: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.zip"
    write_bundle(notebook, path)
    harm(path)
    report = _audit(path)
    assert report.exit_code == 1
    assert any(told in finding.message for finding in report.findings), report.findings


@pytest.mark.slow
def test_a_bundle_is_audited_where_there_is_nothing_but_this_package(notebook: Path, tmp_path: Path) -> None:
    write_bundle(notebook, tmp_path / "run.zip")
    venv.create(tmp_path / "clean", with_pip=True)
    root, python = Path(__file__).parents[2], tmp_path / "clean/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", root], check=True, timeout=1800)
    lacks = "import importlib.util as i; print([n for n in ('nbclient', 'jupyter_server', 'torch', 'pytest') if i.find_spec(n)])"
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def said(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert said(python, "-c", lacks) == "[]\n"
    told = json.loads(said(tmp_path / "clean/bin/codevision", "audit", "run.zip", "--json"))
    assert (told["outcome"], told["rerun"]["counts"]["identical"], told["findings"]) == ("holds", 1, [])


def test_two_runs_are_compared_by_cells_and_pictures(notebook: Path, picture: Image.Image, tmp_path: Path) -> None:
    other, page = tmp_path / "b.ipynb", tmp_path / "diff.html"
    run_blocking(record(["image_0.rotate(270, expand=True)", "1 / 0"], picture, path=other))
    done = CliRunner().invoke(app, ["diff", str(notebook), str(other), "--html", str(page)])
    assert done.exit_code == 1, done.output
    assert "image_0.rotate(270, expand=True)" in done.output
    assert "ZeroDivisionError" in done.output
    assert "image_1: 2400 pixels (100.00%) differ" in done.output
    assert page.read_text().count("data:image/png;base64,") == 3
    same = CliRunner().invoke(app, ["diff", str(notebook), str(notebook)])
    assert (same.exit_code, same.output) == (0, "")
    assert CliRunner().invoke(app, ["diff", str(notebook), str(tmp_path / "none.ipynb")]).exit_code == 2
