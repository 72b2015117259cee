"""What the model was asked and said, and asking it again."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import CliRunner

from kernel_agent import Agent, Budget, Task
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.exchanges import divergence, exchanges, other_prompt, replay
from kernel_agent.audit.html import to_html
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.models import TransformersModel
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.models.tokens import rendered_prompt
from kernel_agent.session.images_view import ViewBounds
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, TextPart, TokenLogprob

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_model import build_tiny

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


def test_tokens_are_compared_by_their_ids_where_both_tell_them() -> None:
    def said(text: str, ids: str) -> Completion:
        return Completion(text=text, token_ids=ids)

    assert "from token 2 of 3, character 2 on" in (divergence(said("abc", "1 2 3"), said("axc", "1 9 3")) or "")
    assert divergence(said("abc", "1 2 3"), said("abc", "1 2 3")) is None
    assert "the same text in other tokens, from token 2 of 3" in (
        divergence(said("abc", "1 2 3"), said("abc", "1 23")) or ""
    )
    assert divergence(said("abc", "1 2 3"), said("abc", "")) is None  # one does not tell
    forged = divergence(said("axc", "1 2 3"), said("abc", "1 2 3")) or ""
    assert "from character 2 on, though its tokens are the recorded ones" in forged
    assert "from character 2 on:" in (divergence(said("axc", "1 2 3"), said("abc", "")) or "")


def test_another_prompt_is_told_before_sampling_is_blamed() -> None:
    def asked(ids: list[int], text: str | None) -> Completion:
        return Completion(text="", prompt=rendered_prompt(ids, text))

    one = asked([1, 2], "a")
    assert other_prompt(one, asked([1, 2], "b")) is None  # the model got the same
    assert "chat template gives another prompt (2 tokens then, 3 now)" in (
        other_prompt(one, asked([1, 2, 3], "b")) or ""
    )
    assert "the same text, but tokenizer or processor" in (other_prompt(one, asked([1, 3], "a")) or "")
    assert "chat template, tokenizer or processor" in (other_prompt(one, asked([1, 3], None)) or "")
    assert other_prompt(one, Completion(text="")) is None


async def test_a_model_with_another_chat_template_is_found_by_its_prompt(tmp_path: Path, picture: Image.Image) -> None:
    """A real checkpoint in process, asked again as it was and with one character more in its template."""
    checkpoint = build_tiny(tmp_path / "tiny", context=8192)
    agent = Agent(
        TransformersModel(checkpoint, device="cpu"),
        protocol="fenced",
        budget=Budget(steps=2, tokens=16),
        bounds=ViewBounds(max_pixels=1500, min_pixels=100),
    )
    run = await agent.arun(Task(question="How many?", images=(picture,)), save_to=tmp_path / "run.ipynb")
    loaded = await asyncio.to_thread(Trajectory.load, tmp_path / "run.ipynb")
    assert loaded == run
    told = exchanges(loaded)[0]
    prompt = run.steps[0].completion.prompt
    assert prompt is not None
    assert told["codevision.prompt.tokens"] == told["gen_ai.usage.input_tokens"] == prompt.tokens
    assert told["codevision.prompt.sha256"] == prompt.text_sha256
    assert told["codevision.prompt.tokens.sha256"] == prompt.tokens_sha256
    assert told["codevision.model.weights.sha256"] == run.model["weights_sha256"]
    assert told["codevision.not_told"] == ["codevision.model.revision"]
    assert await replay(loaded, TransformersModel(checkpoint, device="cpu")) == []
    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|assistant|>!"))
    found = await replay(loaded, TransformersModel(changed, device="cpu"))
    assert {(item.field, item.outcome) for item in found} == {("prompt", "unchecked")}
    assert [item.cell for item in found] == [f"step {step.index + 1}" for step in run.steps]
    counts = f"{prompt.tokens} tokens then, {prompt.tokens + 1} now"
    assert f"the chat template gives another prompt ({counts})" in found[0].message


def test_a_run_of_before_prompts_were_recorded_is_audited_without_alarm() -> None:
    report, run = run_blocking(audit_file(Path(__file__).with_name("run_of_schema_1.ipynb")))
    assert (report.exit_code, report.findings) == (0, ())
    assert report.seal is not None
    assert report.seal.signers
    assert run is not None
    assert run.steps[0].completion.prompt is None
    assert "codevision.prompt.tokens.sha256" in report.exchanges[0]["codevision.not_told"]
    page = to_html(report, run)
    assert page.count("not recorded") == 4
    assert "not told" in page


def test_server_and_model_are_told_in_every_report(picture: Image.Image, tmp_path: Path) -> None:
    class Telling(ScriptedModel):
        def describe(self) -> dict[str, Any]:
            told = {"server_version": "0.32.0", "flags": {"--seed": "5", "--enforce-eager": True}, "revision": None}
            about = {"kind": "openai", "model": "m", "base_url": "https://host.example/v1", "server": "vllm"}
            return {**about, **told, "weights_sha256": "a" * 64, "not_told": {"revision": "not told by the server"}}

    agent = Agent(Telling(REPLIES), protocol="fenced", budget=Budget(steps=4))
    path = tmp_path / "run.ipynb"
    run_blocking(agent.arun(Task(question="How many?", images=(picture,)), save_to=path))
    page = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code", "--html", str(page)])
    for text in (" ".join(done.output.split()), page.read_text()):
        for told in ("m (openai) behind vLLM at https://host.example/v1", "0.32.0", "a" * 64, "--enforce-eager --seed 5",
                     "not told by the server"):  # fmt: skip
            assert told.replace(" ", "") in text.replace(" ", ""), told
    report = json.loads(CliRunner().invoke(app, ["audit", str(path), "--no-code", "--json"]).stdout)
    assert report["model"]["flags"] == {"--seed": "5", "--enforce-eager": True}
    first = report["exchanges"][0]
    assert (first["server.address"], first["server.port"], first["gen_ai.provider.name"]) == (
        "host.example",
        443,
        "vllm",
    )
    assert (first["codevision.server.version"], first["codevision.model.weights.sha256"]) == ("0.32.0", "a" * 64)


def test_each_step_is_told_with_the_model_it_asked(picture: Image.Image) -> None:
    agent = Agent(ScriptedModel(REPLIES, name="first"), protocol="fenced", budget=Budget(steps=4))
    run = run_blocking(agent.arun(Task(question="How many?", images=(picture,))))
    run.ask("and now?", model=ScriptedModel(["<answer>8</answer>"], name="second"))
    run.close()
    assert [item["gen_ai.request.model"] for item in exchanges(run)] == ["first", "first", "first", "second"]


def test_the_command_asks_no_server_that_only_the_file_names(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    _run(picture, path)
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code", "--json"])
    told = json.loads(done.stdout)
    assert (len(told["exchanges"]), told["asked_again"]) == (3, False)
    run = Trajectory.load(path)
    header = {**run.header, "model": {"kind": "openai", "model": "x", "base_url": "http://127.0.0.1:9/v1"}}
    events = [event for event in run.events if event.kind != "model_described"]
    Trajectory(replace(run._state, header=header, events=events)).save(path.with_stem("other"))
    done = CliRunner().invoke(app, ["audit", str(path.with_stem("other")), "--no-code", "--replay-model"])
    assert done.exit_code == 2
    assert "--base-url" in done.output
