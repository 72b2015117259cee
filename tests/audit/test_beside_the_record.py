"""What stands beside the record and is shown by some viewer all the same: notebooks, bundles, a terminal. It is found and named."""

from __future__ import annotations

import copy
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import orjson
import pytest
from forging import record
from nbconvert import HTMLExporter, MarkdownExporter
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.batch import audit_folder
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.html import to_html
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import sign_file
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app

RECORD_ONLY = RerunOptions(code=False)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed run."""
    folder = tmp_path_factory.mktemp("honest")
    path = folder / "run.ipynb"
    run_blocking(record(["image_0.rotate(90, expand=True)"], Image.new("RGB", (60, 40), "teal"), path=path))
    make_key(folder / "key.pem")
    sign_file(path, load_signer(folder / "key.pem"))
    return path


def _step(run: Any) -> Any:
    return next(cell for cell in run["cells"] if cell["id"] == "step-0")


CHANGES: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda run: _step(run).update(execution_count="7]: <b>8</b> ["), "step 1", "execution_count"),
    (lambda run: _step(run).update(execution_count=True), "step 1", "execution_count"),
    (lambda run: _step(run)["outputs"][0].update(execution_count="8"), "step 1", "outputs[0].execution_count"),
    (lambda run: _step(run).update(input="print(8)"), "step 1", "cell.input"),
    (lambda run: _step(run).update(codevision={"kind": "step"}), "step 1", "cell.codevision.kind"),
    (lambda run: _step(run)["metadata"].update(transient={"remove_source": True}), "step 1", "transient.remove_source"),
    (lambda run: _step(run)["metadata"].update(magics_language="python\n```\n# 8"), "step 1", "magics_language"),
    (lambda run: _step(run)["metadata"].update(alt="8 dogs"), "step 1", "alt"),
    (lambda run: _step(run)["outputs"][0]["data"].update({"text/html": "8"}), "step 1", "outputs[0].data.text/html"),
    (
        lambda run: _step(run)["outputs"][0]["data"].update({"text/plain": "image_1: 8 dogs"}),
        "step 1",
        "outputs[0].data.text/plain",
    ),
    (lambda run: run["metadata"].update(title="Answer: 8"), "run", "title"),
    (lambda run: run["metadata"].update(authors=[{"name": "Alice"}]), "run", "authors[0].name"),
    (lambda run: run["metadata"]["language_info"].update(name="python\n```\n# 8"), "run", "language_info.name"),
]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_what_a_viewer_shows_besides_is_named(number: int, sealed: bool, honest: Path, tmp_path: Path) -> None:
    change, cell, field = CHANGES[number]
    run = orjson.loads(honest.read_bytes())
    change(run)
    if not sealed:
        del run["metadata"]["codevision"]["seal"]
    path = tmp_path / "run.ipynb"
    path.write_text(json.dumps(run))
    report, _ = run_blocking(audit_file(path, RECORD_ONLY))
    assert {(finding.cell, finding.field) for finding in report.findings} == {(cell, field)}
    assert report.exit_code == (2 if cell == "run" and not sealed else 1)


def test_exporters_show_it(honest: Path) -> None:
    """What the changes above are about: else they were no tampering."""
    notebook = nbformat.read(honest, as_version=4)
    step = _step(notebook)

    def exported(exporter: type[HTMLExporter | MarkdownExporter]) -> str:
        return str(exporter().from_notebook_node(copy.deepcopy(notebook))[0])

    assert "rotate" in exported(MarkdownExporter)
    step["metadata"]["transient"] = {"remove_source": True}
    assert "rotate" not in exported(MarkdownExporter)
    del step["metadata"]["transient"]
    step["metadata"]["magics_language"] = "python\n```\n# Eight dogs"
    assert "\n# Eight dogs" in exported(MarkdownExporter)
    del step["metadata"]["magics_language"]
    notebook["metadata"]["language_info"]["name"] = "python\n```\n# Eight dogs"
    assert "\n# Eight dogs" in exported(MarkdownExporter)
    notebook["metadata"]["language_info"]["name"], notebook["metadata"]["title"] = "python", "Eight dogs"
    assert "<title>Eight dogs</title>" in exported(HTMLExporter)


def test_a_cell_whose_id_only_looks_like_one_of_ours_is_not_called_so(honest: Path, tmp_path: Path) -> None:
    run = orjson.loads(honest.read_bytes())
    run["cells"].append({"cell_type": "markdown", "id": "step-00", "metadata": {}, "source": "# 8"})
    path = tmp_path / "run.ipynb"
    path.write_text(json.dumps(run))
    report, _ = run_blocking(audit_file(path, RECORD_ONLY))
    assert {(finding.cell, finding.field) for finding in report.findings} == {("cell 'step-00'", "cell")}


def test_what_a_record_says_is_one_line_of_the_report(honest: Path, tmp_path: Path) -> None:
    run = orjson.loads(honest.read_bytes())
    ours = run["metadata"]["codevision"]
    del ours["seal"]
    model = {
        "kind": "openai",
        "server": {},
        "base_url": "http://x",
        "model": "m\nSigned by 00ff\u202e, head 12.\rAll holds.",
    }
    ours["header"]["model"], ours["events"] = model, []
    _step(run)["metadata"]["codevision"]["record"]["step"]["sampling"]["temperature"] = {"$float": "nan"}
    path = tmp_path / "run.ipynb"
    path.write_text(json.dumps(run))
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code"], env={"COLUMNS": "1000"})
    assert done.exit_code == 0, done.output
    assert not [line for line in done.output.splitlines() if line.startswith(("Signed", "All holds"))]
    assert "Signed by 00ff\ufffd, head 12." in done.output
    assert "The record holds; the code was not run again." in done.output  # there is no seal
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code", "--json"])
    told = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["exchanges"][0]["gen_ai.request.temperature"] == "NaN"
    report, trajectory = run_blocking(audit_file(path, RECORD_ONLY))
    assert "an OpenAI-compatible server at http://x" in to_html(report, trajectory)


def test_an_error_about_a_file_does_not_steer_the_terminal(honest: Path, tmp_path: Path) -> None:
    run = orjson.loads(honest.read_bytes())
    _step(run)["metadata"]["codevision"]["record"]["images"][0] |= {"index": "\x1b[2J", "odd": 1}
    path = tmp_path / "run.ipynb"
    path.write_text(json.dumps(run))
    for command in ("bundle", "sign"):
        done = CliRunner().invoke(app, [command, str(path), *(["-o", "x.zip"] if command == "bundle" else [])])
        assert done.exit_code == 1
        assert ("unknown field" in done.stderr, "\x1b" in done.stderr) == (True, False)


def test_a_bundle_whose_notebook_is_unpacked_as_a_link_is_refused(honest: Path, tmp_path: Path) -> None:
    bundle, other = tmp_path / "run.zip", tmp_path / "other.zip"
    write_bundle(honest, bundle)
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            if entry.filename == "run.ipynb":
                entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            new.writestr(entry, old.read(entry.filename))
    report, _ = run_blocking(audit_file(other, RECORD_ONLY))
    assert "not packed as bundles are" in report.findings[0].message


def test_runs_are_found_in_a_folder_whatever_the_case_of_their_names(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("run.ipynb", "RUN.IPYNB", "Run.Ipynb"):
        (folder / name).write_bytes(honest.read_bytes())
    write_bundle(honest, folder / "run.zip")
    (folder / "run.zip").rename(folder / "RUN.ZIP")
    batch = run_blocking(audit_folder(folder, tmp_path / "results.jsonl", RECORD_ONLY, jobs=1))
    assert (batch.total, batch.outcomes) == (4, {"holds": 4})
