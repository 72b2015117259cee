"""`codevision score` on a saved run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from reward_runs import TARGET, Run, png, scene, task
from typer.testing import CliRunner

from kernel_agent.cli import app
from kernel_agent.operations import Applied
from kernel_agent.rewards import Rewards, score
from kernel_agent.tasks.ground_truth import Operation


@pytest.fixture
def saved(tmp_path):
    turned = scene().rotate(180)
    target = (320 - TARGET[2], 240 - TARGET[3], 320 - TARGET[0], 240 - TARGET[1])
    run = Run(turned).turn(Applied.ROTATE180).turn(None, crop=TARGET, of=1).answer("HARBOR")
    run.save(tmp_path / "run.ipynb")
    (tmp_path / "input.png").write_bytes(png(turned))
    truth = replace(task(Operation.ROTATE180, Operation.CROP, target=target), image="input.png", size=(320, 240))
    (tmp_path / "task.json").write_text(json.dumps(truth.to_json()))
    return tmp_path, truth, run


@pytest.mark.parametrize("rewards", list(Rewards))
def test_every_component_weight_and_the_total(saved, rewards):
    folder, truth, run = saved
    command = ["score", str(folder / "run.ipynb"), "--task", str(folder / "task.json"), "--rewards", str(rewards)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads(json.dumps(score(truth, run, rewards).to_json()))
    assert told["total"] == pytest.approx(sum(one["value"] * one["weight"] for one in told["components"]))
    assert all(set(one) == {"name", "value", "weight", "contribution", "explanation"} for one in told["components"])
    table = CliRunner().invoke(app, command, env={"COLUMNS": "200"}).stdout
    assert all(one["name"] in table for one in told["components"])
    assert f"{told['total']:+.3f}" in table


@pytest.mark.parametrize(
    ("run", "truth", "rewards", "says"),
    [
        ("run.ipynb", "task.json", "best", "give one of paper, reference, default"),
        ("run.ipynb", "none.json", "default", "give a JSON file"),
        ("run.ipynb", "input.png", "default", "give a JSON file"),
        ("none.ipynb", "task.json", "default", "cannot be read"),
        ("task.json", "task.json", "default", "task"),
    ],
)
def test_what_cannot_be_scored_is_named(saved, run, truth, rewards, says):
    folder, _, _ = saved
    result = CliRunner().invoke(app, ["score", str(folder / run), "--task", str(folder / truth), "--rewards", rewards])
    assert result.exit_code == 1
    assert says in result.stderr
