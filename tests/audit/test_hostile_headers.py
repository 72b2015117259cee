"""Headers that ask for more than memory holds: views, names. And what is taken of an honest one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from forging import record
from PIL import Image

from kernel_agent import __version__
from kernel_agent.api import recorded_options
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import InputError
from kernel_agent.protocols import get_protocol
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Names

HUGE = {"min_pixels": 1_500_000_000, "max_pixels": 10**10, "max_side": 10**9}
WIDE = {"min_pixels": 3136, "max_pixels": 10**18, "max_side": 10**9}
CODE = """
import asyncio, json, resource, sys
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.rerun_setup import RerunOptions
resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
report, _ = asyncio.run(audit_file(sys.argv[1], RerunOptions(code=False)))
with open("/proc/self/status") as status:  # ru_maxrss has that of the process before exec too
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps([peak // 1024, [[item.field, item.message] for item in report.findings]]))
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("honest") / "run.ipynb"
    run_blocking(record(["image_0.rotate(90)"], Image.new("RGB", (120, 90), "teal"), path=path))
    return path


def _with(notebook: Path, folder: Path, **header: Any) -> Path:
    """The run with another header, as a file."""
    run = orjson.loads(notebook.read_bytes())
    run["metadata"]["codevision"]["header"].update(header)
    forged = folder / "forged.ipynb"
    forged.write_bytes(orjson.dumps(run))
    return forged


@pytest.mark.parametrize(
    ("header", "field", "told"),
    [
        (
            {"view_bounds": HUGE},
            "view_bounds",
            "min_pixels=1500000000 asks for larger views than the 100,000,000 pixels",
        ),
        ({"names": {"pattern": "image_{i:>300000000}", "first": 0}}, "record", "header.names.pattern 'image_{i:>3000"),
        ({"names": {"pattern": "image_{i.__class__}", "first": 0}}, "record", "header.names.pattern 'image_{i.__cl"),
        ({"names": {"pattern": "image_{i}", "first": 10**15}}, "record", "header.names.first=1000000000000000 is no"),
    ],
)
def test_a_header_that_would_fill_the_memory_is_refused_in_little_of_it(
    notebook: Path, tmp_path: Path, header: dict[str, Any], field: str, told: str
) -> None:
    forged = _with(notebook, tmp_path, **header)
    done = subprocess.run([sys.executable, "-c", CODE, str(forged)], capture_output=True, text=True, check=True)
    peak, findings = json.loads(done.stdout)
    assert [name for name, message in findings if told in message] == [field], findings
    assert "MemoryError" not in done.stdout
    assert peak < 400, f"{peak} MiB"
    assert all(len(message) <= 500 for _, message in findings)


def test_names_and_bounds_of_honest_runs_are_taken(notebook: Path, tmp_path: Path) -> None:
    for name in ("native", "pyvision", "deepeyes", "thyme"):
        names = get_protocol(name).names
        assert names(0) == names.pattern.format(i=names.first)
    assert Names(pattern="img{i}_b", first=7)(3) == "img10_b"
    for pattern in ("{i}", "image_", "image_{i}{i}", "image_{i!r}", "image-{i}", "image_{i}\n"):
        with pytest.raises(InputError, match=r"names\.pattern"):
            Names(pattern=pattern)
    for header in ({}, {"view_bounds": WIDE}):  # bounds that never bind make nothing larger
        report, _ = run_blocking(audit_file(_with(notebook, tmp_path, **header), RerunOptions(code=False)))
        assert report.findings == ()


def test_a_run_is_not_gone_on_with_under_bounds_that_would_fill_the_memory(notebook: Path, tmp_path: Path) -> None:
    assert recorded_options(Trajectory.load(notebook).header)["bounds"].min_pixels == 3136
    with pytest.raises(InputError, match="at least 1500000000 pixels, and 100,000,000 are made at most"):
        recorded_options(Trajectory.load(_with(notebook, tmp_path, view_bounds=HUGE)).header)


def test_names_that_are_long_are_cut_where_they_are_told(notebook: Path, tmp_path: Path) -> None:
    run = orjson.loads(notebook.read_bytes())
    step = next(cell for cell in run["cells"] if cell["id"] == "step-0")["metadata"]["codevision"]["record"]
    step["images"][0]["name"] = "x" * 100_000
    forged = tmp_path / "forged.ipynb"
    forged.write_bytes(orjson.dumps(run))
    report, _ = run_blocking(audit_file(forged, RerunOptions(code=False)))
    assert [item.message for item in report.findings] == [
        f"step 1: image 1 is named '{'x' * 80}': a name is a plain word, as in image_0"
    ]


def test_a_report_says_when_with_what_and_how_it_was_made(notebook: Path, tmp_path: Path) -> None:
    from kernel_agent.audit.html import to_html

    options = RerunOptions(code=False, tolerance=0.25, pixel_tolerance=2, seconds=77)
    report, run = run_blocking(audit_file(notebook, options))
    made = report.as_json()["audited"]
    assert made["version"] == __version__
    assert made["time"].endswith("+00:00")
    told = made["options"]
    assert (told["tolerance"], told["pixel_tolerance"], told["seconds"], told["isolation"]) == (0.25, 2, 77, "auto")
    assert (told["code"], told["max_pixels"], told["memory_mb"]) == (False, 100_000_000, 4096)
    page = to_html(report, run)
    assert f"{made['time']}, kernel-agent {__version__}; code False, tolerance 0.25, pixel_tolerance 2," in page
    refused, _ = run_blocking(audit_file(tmp_path / "none.ipynb", options))
    assert refused.audited["options"] == told
