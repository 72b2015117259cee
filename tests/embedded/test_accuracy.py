"""The shipped model really looks: the evaluation command on a few fresh pictures. Minutes, so marked slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_it_reads_and_does_not_read_blanks(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "kernel_agent.embedded.evaluate",
        "--n",
        "36",
        "--seed",
        "11",
        "--json",
        str(report),
    ]
    subprocess.run(command, check=True)
    found = json.loads(report.read_text())
    assert found["overall"]["n"] == 36
    assert found["overall"]["accuracy"] >= 0.4
    assert found["blank_observation"]["accuracy"] <= 0.1
    assert found["tool_off"]["accuracy"] < found["overall"]["accuracy"]
