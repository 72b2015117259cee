"""Files made to harm or to show other things than what is audited: notebooks, bundles, folders, things that are no files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from forging import record
from PIL import Image, UnidentifiedImageError
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.finding import MOST, Outcome, Report, sealed
from kernel_agent.audit.html import to_html
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import sign_file
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.notebook import MAX_CELLS
from kernel_agent.trajectory.reading import FOREIGN_VALUES, MAX_BYTES

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\n"


@pytest.fixture
def notebook(picture: Image.Image, tmp_path: Path) -> Path:
    run_blocking(record(["print(5)\nimage_0.rotate(90, expand=True)", "image_1"], picture, path=tmp_path / "run.ipynb"))
    return tmp_path / "run.ipynb"


@pytest.fixture
def signer(tmp_path: Path) -> CryptoSigner:
    make_key(tmp_path / "key.pem")
    return load_signer(tmp_path / "key.pem")


def _audit(path: Path) -> Report:
    return run_blocking(audit_file(path, RerunOptions(code=False)))[0]


def _edited(path: Path, change: Callable[[Any], object]) -> Path:
    run = orjson.loads(path.read_bytes())
    change(run)
    path.write_text(json.dumps(run))
    return path


def _cell(run: Any, name: str) -> Any:
    return next(cell for cell in run["cells"] if cell["id"] == name)


def _put_in(path: Path, data: bytes, *, hashed: bool) -> None:
    """These bytes as the picture of the first step; with their hash throughout the record, or not."""
    run = orjson.loads(path.read_bytes())
    cell = _cell(run, "step-0")
    cell["outputs"][-1]["data"]["image/png"] = base64.b64encode(data).decode()
    old = cell["metadata"]["codevision"]["record"]["images"][0]["data_sha256"]
    text = json.dumps(run)
    path.write_text(text.replace(old, hashlib.sha256(data).hexdigest()) if hashed else text)


@pytest.mark.parametrize("hashed", [False, True])
def test_no_picture_of_a_file_starts_a_program(
    hashed: bool, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript, ran = tmp_path / "bin" / "gs", tmp_path / "ran"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}{os.pathsep}{os.environ['PATH']}")
    _put_in(notebook, EPS, hashed=hashed)
    assert _audit(notebook).exit_code == 1
    if hashed:
        run = Trajectory.load(notebook)
        assert "image_1" in run._repr_html_()
        with pytest.raises(UnidentifiedImageError):
            run.images[1].to_pil()
    else:
        with pytest.raises(TrajectoryError, match="lacks the bytes"):
            Trajectory.load(notebook)
    assert not ran.exists()


def _sheets(run: Any) -> None:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# Answer: 8"]}]
    run.update(nbformat=3, nbformat_minor=0, worksheets=[{"cells": cells, "metadata": {}}])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_sheets, "of nbformat 3.0"),
        (lambda run: run.update(worksheets=[]), "'worksheets' beside its cells"),
        (lambda run: run.update(nbformat="4"), "of nbformat '4'"),
        (lambda run: run.pop("nbformat"), "of nbformat None"),
    ],
)
def test_a_signed_notebook_that_shows_other_cells_elsewhere_is_refused(
    change: Callable[[Any], object], told: str, notebook: Path, signer: CryptoSigner
) -> None:
    sign_file(notebook, signer)
    _edited(notebook, change)
    given = ["audit", str(notebook), "--no-code", "--json", "--require-signer", signer.public_key.keyid]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1
    assert told in done.stdout
    with pytest.raises(TrajectoryError, match=re.escape(told)):
        Trajectory.load(notebook)


def test_a_key_that_stands_twice_is_found_though_the_seal_is_whole(notebook: Path, signer: CryptoSigner) -> None:
    sign_file(notebook, signer)
    data = notebook.read_bytes()
    source = b'"source": [\n    "print(5)'
    assert data.count(source) == 1
    notebook.write_bytes(data.replace(source, b'"source": [\n    "print(7)"\n   ],\n   ' + source))
    (found,) = _audit(notebook).findings
    assert (found.outcome, "'source' stands twice" in found.message) == (Outcome.FAILS, True)


def _same_name(run: Any) -> None:
    cells = run["cells"]
    cells.insert(1, {"cell_type": "raw", "id": "a (again, cell 4)", "metadata": {}, "source": ""})
    for at in (2, 3):
        cells.insert(at, {"cell_type": "raw", "id": "a", "metadata": {}, "source": ""})


def _bomb(run: Any) -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    _cell(run, "step-0")["outputs"][-1]["data"]["image/png"] = base64.b64encode(bomb.getvalue()).decode()


def _far(run: Any) -> None:
    _cell(run, "step-0")["metadata"]["codevision"]["record"]["step"]["index"] = 10**6


@pytest.mark.parametrize(
    ("change", "code"),
    [(_same_name, 2), (_bomb, 1), (_far, 1)],
)
def test_what_no_run_writes_gives_a_report_and_no_exception(
    change: Callable[[Any], object], code: int, notebook: Path, signer: CryptoSigner
) -> None:
    _edited(notebook, change)
    report, trajectory = run_blocking(audit_file(notebook))
    assert report.exit_code == code
    assert "Findings" in to_html(report, trajectory)
    if code == 2:  # it can be read, so it can be sealed, and cells be moved then
        sign_file(notebook, signer)
        run = orjson.loads(notebook.read_bytes())
        run["cells"][1:3] = [run["cells"][2], run["cells"][1]]
        notebook.write_bytes(orjson.dumps(run))
        assert _audit(notebook).exit_code == 1


def test_a_seal_without_a_time_is_damaged(notebook: Path, signer: CryptoSigner) -> None:
    sign_file(notebook, signer)

    def change(run: Any) -> None:
        envelope = run["metadata"]["codevision"]["seal"]["envelope"]
        statement = orjson.loads(base64.b64decode(envelope["payload"]))
        statement["predicate"]["signed"] = "nan"
        envelope["payload"] = base64.b64encode(orjson.dumps(statement)).decode()

    report = _audit(_edited(notebook, change))
    assert (report.exit_code, report.seal) == (1, None)
    assert "no time" in report.findings[0].message
    assert "Not signed" in sealed(report)


def test_text_that_utf_8_cannot_hold_is_printed_and_shown(notebook: Path, tmp_path: Path) -> None:
    def change(run: Any) -> None:
        run["metadata"]["codevision"]["header"]["model"] = {"kind": "x", "model": {"$text": "\\ud800"}}
        run["metadata"]["codevision"]["events"] = []

    _edited(notebook, change)
    odd = os.fsencode(tmp_path) + b"/\xff.ipynb"
    notebook.rename(os.fsdecode(odd))
    page = tmp_path / "page.html"
    command = ["-m", "kernel_agent.cli", "audit", odd, "--no-code", "--json", "--html", page]
    done = subprocess.run([sys.executable, *command], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exchanges"][0]["gen_ai.request.model"] == "?"
    assert "Audit of ?.ipynb" in page.read_text() or "Audit of \ufffd.ipynb" in page.read_text()


def test_values_are_counted_before_they_are_made(notebook: Path, tmp_path: Path) -> None:
    run = orjson.loads(notebook.read_bytes())
    run["cells"] += [{}] * (FOREIGN_VALUES // 2 + 1)
    many = tmp_path / "many.ipynb"
    many.write_bytes(orjson.dumps(run))
    packed = tmp_path / "many.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("run.ipynb", many.read_bytes())
    for path in (many, packed):
        report, trajectory = run_blocking(audit_file(path))
        assert (report.exit_code, trajectory) == (1, None)
        assert "2,000,000 are read at most" in report.findings[0].message
    with pytest.raises(TrajectoryError, match="100,000 are read at most"):  # one's own run may hold more values
        Trajectory.load(many)
    run["cells"] = run["cells"][: MAX_CELLS + 1]
    many.write_bytes(orjson.dumps(run))
    assert "100,001 cells" in _audit(many).findings[0].message


def test_findings_are_listed_up_to_a_number_and_all_count(notebook: Path) -> None:
    def change(run: Any) -> None:
        _cell(run, "turn-0-answer")["source"] = "# Answer\n\n8"
        run["cells"][:0] = [{}] * 5000

    report = _audit(_edited(notebook, change))
    assert {finding.outcome for finding in report.findings[:MOST]} == {Outcome.UNCHECKED}
    assert (len(report.findings), report.exit_code) == (MOST + 1, 1)
    assert "4,000 unchecked, 1 fails" in report.findings[-1].message


def test_cells_in_another_order_are_told_by_their_numbers(notebook: Path, signer: CryptoSigner) -> None:
    sign_file(notebook, signer)
    report = _audit(_edited(notebook, lambda run: run["cells"].reverse()))
    told = [finding.message for finding in report.findings if finding.check == "integrity"]
    pairs = [tuple(map(int, re.findall(r"\d+", message))) for message in told]
    assert len(pairs) == 7
    assert all(old + new == 9 for old, new in pairs)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """An error instead of waiting for ever."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with within(120):
        report, trajectory = asyncio.run(audit_file(path))
        with pytest.raises(TrajectoryError, match="no regular file"):
            Trajectory.load(path)
    assert (report.exit_code, trajectory) == (1, None)
    assert "no regular file" in report.findings[0].message
    assert sealed(report) == "No signature was read."


@pytest.mark.parametrize("kind", ["pipe", "link", "huge"])
def test_a_journal_is_read_within_bounds(kind: str, notebook: Path, tmp_path: Path) -> None:
    half = Trajectory.load(notebook).branch(0, in_turn=True)
    path = tmp_path / "half.ipynb"
    half.record_to(path)
    shutil.copytree(path.with_suffix(".codevision"), tmp_path / "kept.codevision")
    shutil.copy(path, tmp_path / "kept.ipynb")
    half.close()
    (blob,) = (tmp_path / "kept.codevision" / "blobs").iterdir()
    blob.unlink()
    if kind == "pipe":
        os.mkfifo(blob)
    elif kind == "link":
        blob.symlink_to("/dev/zero")
    else:
        with blob.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
    with within(120):
        report = asyncio.run(audit_file(tmp_path / "kept.ipynb", RerunOptions(code=False)))[0]
    assert report.exit_code == 1
    told = next(finding.message for finding in report.findings if finding.outcome is Outcome.FAILS)
    assert ("1,073,741,824 are read at most" if kind == "huge" else "no regular file") in told


def _before(path: Path) -> None:
    """A notebook before the first file of the bundle, in no directory: what reads a zip from its beginning finds it."""
    orphan = io.BytesIO()
    with zipfile.ZipFile(orphan, "w") as other:
        other.writestr("run.ipynb", b'{"cells": []}')
        end = other.start_dir
    path.write_bytes(orphan.getvalue()[:end] + path.read_bytes())


def _between(path: Path) -> None:
    """The same between the last file and the directory."""
    orphan = io.BytesIO()
    with zipfile.ZipFile(orphan, "w") as other:
        other.writestr("run.ipynb", b'{"cells": []}')
        end = other.start_dir
    data = path.read_bytes()
    with zipfile.ZipFile(path) as bundle:
        start = bundle.start_dir
    moved = struct.pack("<I", start + end)
    path.write_bytes(data[:start] + orphan.getvalue()[:end] + data[start:-6] + moved + data[-2:])


def _noted(path: Path, **facts: Any) -> None:
    with zipfile.ZipFile(path) as old:
        held = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", facts.pop("kind", zipfile.ZIP_STORED)) as new:
        for name, data in held.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = new.compression
            for key, value in facts.items():
                setattr(entry, key, value)
            new.writestr(entry, data)


def _renamed(path: Path) -> None:
    """Another name before the file than in the directory."""
    path.write_bytes(path.read_bytes().replace(b"README.txt", b"ANSWER.txt", 1))


@pytest.mark.parametrize(
    "change",
    [
        _before,
        _between,
        _renamed,
        lambda path: path.write_bytes(path.read_bytes() + b"after"),
        lambda path: _noted(path, comment=b"x"),
        lambda path: _noted(path, extra=b"\x01\x00\x00\x00"),
        lambda path: _noted(path, kind=zipfile.ZIP_LZMA),
        lambda path: _noted(path, kind=zipfile.ZIP_BZIP2),
    ],
)
def test_a_bundle_that_could_be_read_as_another_one_is_refused(
    change: Callable[[Path], object], notebook: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.zip"
    write_bundle(notebook, path)
    assert _audit(path).exit_code == 0
    change(path)
    report = _audit(path)
    assert (report.exit_code, report.run_id) == (1, "")


def test_a_damaged_bundle_with_another_packing_gives_a_finding(notebook: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    write_bundle(notebook, path)
    _noted(path, kind=zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    data[len("run.ipynb") + 30 : len("run.ipynb") + 50] = bytes([255] * 20)
    path.write_bytes(data)
    assert _audit(path).exit_code == 1


@pytest.mark.parametrize("command", [["audit", "--no-code", "--replay-model"], ["counterfactuals"]])
def test_no_file_chooses_the_checkpoint_that_is_loaded(command: list[str], notebook: Path) -> None:
    def change(run: Any) -> None:
        run["metadata"]["codevision"]["header"]["model"] = {"kind": "transformers", "model": str(notebook.parent)}
        run["metadata"]["codevision"]["events"] = []

    _edited(notebook, change)
    done = CliRunner().invoke(app, [command[0], str(notebook), *command[1:]])
    assert (done.exit_code, "--model" in done.output) == (2, True), done.output
