"""Audits of files and folders: the command, hostile notebooks, the report, results that are continued."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import zipfile
from pathlib import Path

import orjson
import pytest
from forging import record
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.batch import audit_folder
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.finding import Outcome
from kernel_agent.audit.html import to_html
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import InputError, StorageError
from kernel_agent.trajectory.reading import MAX_BYTES

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\u202egnp"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of results of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def notebook(picture: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "run.ipynb"
    run_blocking(record([f"print({SCRIPT!r})", "image_0.rotate(90, expand=True)"], picture, path=path))
    return path


def test_the_command_says_by_its_exit_code_what_holds(notebook: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["audit", str(notebook), "--json", "--html", str(page)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["outcome"], told["rerun"]["counts"]["identical"], told["findings"]) == ("holds", 2, [])
    text = page.read_text()
    assert "Content-Security-Policy" in text
    assert "<script" not in text
    assert "onerror=alert(1)&gt;" in text
    assert "\u202e" not in text
    assert not re.search(r"""\b(?:src|href)\s*=\s*["']?(?!data:image/png;base64,)[^>]*<img""", text)
    cut = tmp_path / "cut.ipynb"
    cut.write_bytes(notebook.read_bytes()[:-200])
    done = CliRunner().invoke(app, ["audit", str(cut), "--json"])
    assert done.exit_code == 1
    assert "no whole notebook" in json.loads(done.stdout)["findings"][0]["message"]
    loose = CliRunner().invoke(app, ["audit", str(notebook), "--isolation", "none"])
    assert loose.exit_code == 2
    assert "--unsafe-no-sandbox" in loose.output
    gone = CliRunner().invoke(app, ["audit", str(tmp_path / "gone.ipynb")])
    assert (gone.exit_code, "gone.ipynb is not there" in gone.output) == (2, True)
    for option in ("--jobs", "--results"):
        done = CliRunner().invoke(app, ["audit", str(notebook), option, "1"])
        assert (done.exit_code, "for a folder" in done.output) == (2, True)


def _deep(run: dict) -> None:
    inner: dict = {}
    run["metadata"]["codevision"]["header"]["deep"] = inner
    for _ in range(900):
        inner["x"] = inner = {}  # type: ignore[assignment]


def _bomb(run: dict) -> None:
    run["metadata"]["codevision"]["header"]["names"] = {"pattern": "{i:>999999999}", "first": 0, "saved_files": False}


def _negative(run: dict) -> None:
    run["metadata"]["codevision"]["steps"] = 10**15


def _cyclic(run: dict) -> None:
    for cell in run["cells"]:
        record = cell["metadata"].get("codevision", {})
        for image in record.get("record", {}).get("images", []):
            image["parent"] = image["index"]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_deep, "nested deeper"),
        (_bomb, "names.pattern"),
        (_negative, "is gone"),
        (_cyclic, "lineage"),
        (lambda run: run.update(cells=[]), "is gone"),
        (lambda run: run["metadata"]["codevision"].update(schema=99), "schema 99"),
        (lambda run: run["metadata"]["codevision"]["header"].update(budget={"images": 10**300}), "source"),
        (lambda run: run["metadata"]["codevision"]["header"].update(names=7), "header.names"),
    ],
)
def test_a_notebook_made_to_harm_gives_a_finding_and_no_exception(notebook: Path, harm: object, told: str) -> None:
    run = orjson.loads(notebook.read_bytes())
    harm(run)  # type: ignore[operator]
    notebook.write_text(json.dumps(run))
    report, trajectory = run_blocking(audit_file(notebook))
    to_html(report, trajectory)
    assert report.exit_code == 1
    assert any(told in finding.message or told in finding.field for finding in report.findings)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.ipynb"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    report, trajectory = run_blocking(audit_file(huge))
    assert (report.exit_code, trajectory) == (1, None)
    assert "1,073,741,825 bytes" in report.findings[0].message


def test_a_record_that_does_not_fit_together_gives_a_finding(notebook: Path) -> None:
    run = orjson.loads(notebook.read_bytes())
    record = next(cell for cell in run["cells"] if cell["id"] == "step-1")["metadata"]["codevision"]["record"]
    record["step"]["cell"]["outputs"][0]["index"] = 99
    notebook.write_bytes(orjson.dumps(run))
    report, _ = run_blocking(audit_file(notebook))
    assert report.exit_code == 1
    assert {finding.check: finding.message for finding in report.findings} == {
        "reading": "step 2 shows image 99, which the record does not have"
    }


def test_versions_that_are_not_as_recorded_are_told_and_pixels_still_count(notebook: Path) -> None:
    run = orjson.loads(notebook.read_bytes())
    packages = run["metadata"]["codevision"]["header"]["environment"]["packages"]
    packages.update(pillow="1.0", matplotlib="2.0")
    cell = next(cell for cell in run["cells"] if cell["id"] == "step-1")
    (output,) = cell["outputs"]
    with Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))) as picture:
        again = io.BytesIO()
        picture.save(again, "PNG", compress_level=0)  # as another Pillow writes it
    output["data"]["image/png"] = base64.b64encode(again.getvalue()).decode()
    notebook.write_bytes(orjson.dumps(run))
    report, trajectory = run_blocking(audit_file(notebook))
    assert report.findings == ()
    assert report.rerun is not None
    assert report.rerun.environment["pillow"][0] == "1.0"
    assert "pillow: 1.0, here" in to_html(report, trajectory)


@pytest.mark.browser
def test_the_report_of_a_hostile_run_does_nothing_in_a_browser(notebook: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(to_html(*run_blocking(audit_file(notebook))))
    given = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    done = subprocess.run(["chromium", *given], capture_output=True, text=True, timeout=120, check=True)
    assert "<title>Audit of run.ipynb</title>" in done.stdout
    assert "&lt;script&gt;" in done.stdout
    assert "<script" not in done.stdout


def test_a_folder_is_continued_where_it_was_left(notebook: Path, tmp_path: Path) -> None:
    folder, results = tmp_path / "runs", tmp_path / "results.jsonl"
    (folder / "inner").mkdir(parents=True)
    for number in range(3):
        (folder / "inner" / f"{number}.ipynb").write_bytes(notebook.read_bytes())
    (folder / "cut.ipynb").write_bytes(notebook.read_bytes()[:500])
    first = run_blocking(audit_folder(folder, results, jobs=2))
    assert (first.total, first.skipped, first.exit_code) == (4, 0, 1)
    assert (first.outcomes[Outcome.HOLDS], first.outcomes[Outcome.FAILS]) == (3, 1)
    assert (tmp_path / "state" / "codevision" / "results-key").stat().st_mode & 0o777 == 0o600
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:3]) + lines[3][:50])  # a crash in the middle of a line
    (folder / "inner" / "3.ipynb").write_bytes(notebook.read_bytes())
    second = run_blocking(audit_folder(folder, results, jobs=2))
    assert (second.total, second.skipped, second.outcomes.total()) == (5, 3, 5)
    assert len([json.loads(line) for line in results.read_text().splitlines()]) == 5
    with pytest.raises(StorageError, match="no file of audit results"):
        run_blocking(audit_folder(folder, notebook, jobs=1))
    with pytest.raises(InputError, match="holds no notebook"):
        run_blocking(audit_folder(tmp_path / "nothing", results))


def test_a_folder_may_hold_bundles_and_other_zips_are_told(notebook: Path, tmp_path: Path) -> None:
    folder, results = tmp_path / "runs", tmp_path / "results.jsonl"
    folder.mkdir()
    (folder / "a.ipynb").write_bytes(notebook.read_bytes())
    write_bundle(notebook, folder / "b.zip")
    (folder / "torn.zip").write_bytes((folder / "b.zip").read_bytes()[:-30])
    (folder / "text.zip").write_text("no zip at all")
    with zipfile.ZipFile(folder / "photos.zip", "w") as other:
        other.writestr("photo.jpg", b"x")
    batch = run_blocking(audit_folder(folder, results, jobs=2))
    assert (batch.total, batch.exit_code) == (5, 1)
    lines = {line["path"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert lines["b.zip"]["cells"] == lines["a.ipynb"]["cells"] == {"identical": 2}
    assert lines["b.zip"]["run"] == lines["a.ipynb"]["run"]
    told = {path: line["findings"][0]["message"] for path, line in lines.items() if line["findings"]}
    assert told.keys() == {"torn.zip", "text.zip", "photos.zip"}
    assert "photos.zip is no bundle of a run: it has no run.ipynb" in told["photos.zip"]
    assert all("is no whole bundle" in told[name] for name in ("torn.zip", "text.zip"))
    with zipfile.ZipFile(folder / "b.zip", "a") as bundle:
        bundle.writestr("more.txt", b"x")
    again = run_blocking(audit_folder(folder, results, jobs=2))
    assert (again.skipped, again.outcomes[Outcome.FAILS]) == (4, 4)


def test_a_folder_without_runs_is_told_and_nothing_is_drawn(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["audit", str(tmp_path)], env={"FORCE_COLOR": "1"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"codevision: {tmp_path} holds no notebook (*.ipynb) and no bundle (*.zip): give a folder of saved runs\n"
    )


@pytest.mark.slow
def test_sixty_honest_runs_raise_no_alarm(tmp_path: Path) -> None:
    from perf import honest

    run_blocking(honest.make(tmp_path, 60))
    batch = run_blocking(audit_folder(tmp_path, tmp_path / "results.jsonl", jobs=2))
    assert batch.outcomes[Outcome.FAILS] == 0, batch.worst
    assert batch.outcomes[Outcome.HOLDS] >= 45  # the others print clocks or temporary names
