"""Evaluations without inspect_ai, in the process and as a command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playing import colour_set, play
from test_eval_command import command, lines, played
from test_evaluation import options

from kernel_agent.benchmarks import plain_run
from kernel_agent.benchmarks.evaluation import open_evaluation
from kernel_agent.errors import ModelFailed
from kernel_agent.models import ScriptedModel
from kernel_agent.types import Request

__all__ = ["played"]


def test_it_goes_on_and_tries_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = 2

    def sometimes(request: Request) -> str:
        nonlocal failing
        if "Colour of 1?" in str(request.messages) and failing > 0:
            failing -= 1
            raise ModelFailed("busy")
        return play(request)

    told: list[int] = []
    model = ScriptedModel([sometimes] * 1000, name="colours")
    with open_evaluation(options(tmp_path, controls=(), model=model)) as evaluation:
        assert plain_run.run(evaluation, retries=0, progress=told.append) == 2
        assert evaluation.left == 2
    assert told == [0, 1, 2, 3, 4]
    assert "c/1, tools/source: busy" in capsys.readouterr().err
    asked = len(model.requests)
    failing, told = 1, []
    with open_evaluation(options(tmp_path, controls=(), model=model)) as evaluation:
        assert plain_run.run(evaluation, retries=1, progress=told.append) == 0
        assert evaluation.left == 0
    assert told == [4, 5, 6]
    assert len(model.requests) == asked + 1 + 2 * 3  # a failure, and two runs of three messages


@pytest.mark.slow
def test_the_command_writes_scores_and_report(tmp_path: Path, played: Any) -> None:
    colour_set(tmp_path / "data", 3)
    given = command(tmp_path, played, "--transforms", "rot90", "--controls", "none", "--limit", "2")
    done = subprocess.run(given, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["failed"] == 0
    assert report["conditions"]["tools"]["columns"] == {
        "source": {"score": 50.0, "n": 2},
        "rot90": {"score": 50.0, "n": 2},
    }
    assert "worst drop" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "report.ipynb").is_file()
    assert all((tmp_path / "out" / line["notebook"]).is_file() for line in lines(tmp_path))
    played.asked.clear()
    assert subprocess.run(given, capture_output=True, timeout=240, check=False).returncode == 0
    assert played.asked == []
