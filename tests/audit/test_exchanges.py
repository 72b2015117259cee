"""What the model was asked and said, and asking it again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from kernel_agent import Agent, Budget, Task
from kernel_agent.audit.exchanges import divergence, exchanges, replay
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.session.images_view import ViewBounds
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, TextPart, TokenLogprob

REPLIES = ["I look.\n```python\nimage_0.rotate(90, expand=True)\n```", "neither", "<answer>7</answer>"]


def _run(picture: Image.Image, path: Path | None = None) -> Trajectory:
    agent = Agent(
        ScriptedModel(REPLIES),
        protocol="fenced",
        budget=Budget(steps=4),
        bounds=ViewBounds(max_pixels=1500, min_pixels=100),
    )
    return run_blocking(agent.arun(Task(question="How many?", images=(picture,)), save_to=path))


def test_every_request_is_told_with_its_hash_and_its_images_before_and_after_resizing(picture: Image.Image) -> None:
    run = _run(picture)
    told = exchanges(run)
    assert [item["codevision.request.messages"] for item in told] == [2, 4, 6]
    assert told[0]["gen_ai.request.seed"] == 0
    assert told[1]["gen_ai.usage.output_tokens"] == 1
    (first,) = told[0]["codevision.request.new_images"]
    assert (first["name"], first["size"], first["sent_size"]) == ("image_0", [60, 40], [47, 31])
    assert told[1]["codevision.request.new_images"][0]["name"] == "image_1"
    assert exchanges(run) == told
    asked = replace(run.steps[0].new_messages[1], content=(TextPart(text="How few?"),))
    changed = replace(run.steps[0], new_messages=(run.steps[0].new_messages[0], asked))
    other = Trajectory(replace(run._state, steps=[changed, *run.steps[1:]]))
    hashes = [[item["codevision.request.sha256"] for item in exchanges(each)] for each in (run, other)]
    assert not set(hashes[0]) & set(hashes[1])  # of the later requests too


async def test_the_model_again_is_compared_step_by_step(picture: Image.Image) -> None:
    import asyncio

    run = await asyncio.to_thread(_run, picture)
    assert await replay(run, ScriptedModel(REPLIES)) == []
    other = [REPLIES[0].replace("90", "91"), *REPLIES[1:]]
    (found,) = await replay(run, ScriptedModel(other))
    assert (found.cell, found.outcome) == ("step 1", "unchecked")
    assert "from character 35 on" in found.message
    found = (await replay(run, ScriptedModel(REPLIES[:1])))[0]
    assert (found.cell, "could not be asked" in found.message) == ("step 2", True)


def test_the_first_other_token_is_told_where_tokens_are_known() -> None:
    def said(*tokens: str) -> Completion:
        return Completion(text="".join(tokens), logprobs=tuple(TokenLogprob(token=t, logprob=-0.1) for t in tokens))

    assert divergence(said("a", "bc"), said("a", "bc")) is None
    message = divergence(said("a", "bc", "d"), said("a", "bx", "d"))
    assert message is not None
    assert "from token 2 of 3, character 3 on" in message


def test_the_command_asks_no_server_that_only_the_file_names(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    _run(picture, path)
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code", "--json"])
    assert len(json.loads(done.stdout)["exchanges"]) == 3
    run = Trajectory.load(path)
    header = {**run.header, "model": {"kind": "openai", "model": "x", "base_url": "http://127.0.0.1:9/v1"}}
    events = [event for event in run.events if event.kind != "model_described"]
    Trajectory(replace(run._state, header=header, events=events)).save(path.with_stem("other"))
    done = CliRunner().invoke(app, ["audit", str(path.with_stem("other")), "--no-code", "--replay-model"])
    assert done.exit_code == 2
    assert "--base-url" in done.output
