"""The client against a real vLLM server, and that server's life."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from tiny_model import ask, picture
from typer.testing import CliRunner

import kernel_agent
from kernel_agent.audit.exchanges import replay
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import InputError, ModelFailed, ModelRefused
from kernel_agent.models import OpenAIModel, TransformersModel, VLLMServer, wire
from kernel_agent.models.wire import view_id
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Completion, ImagePart, Message, Request, TextPart, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "code_image_tool",
        "description": "Run Python.",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}


@pytest.fixture
async def model(server: VLLMServer) -> AsyncIterator[OpenAIModel]:
    it = OpenAIModel(server.model, base_url=server.url, timeout=120)
    yield it
    await it.aclose()


def conversation(turns: int) -> Request:
    """`turns` user messages with one image each, the assistant answering between."""
    messages: list[Message] = []
    for turn in range(turns):
        content = (TextPart(text=f"Turn {turn}: "), ImagePart(image=picture(turn)), TextPart(text=" Read it."))
        messages.append(Message(role="user", content=content))
        if turn + 1 < turns:
            messages.append(Message(role="assistant", content=(TextPart(text=f"It is {turn}."),)))
    return Request(messages=tuple(messages), sampling=ask("").sampling)


async def test_same_text_as_transformers(model: OpenAIModel, checkpoint: Path) -> None:
    local = TransformersModel(checkpoint, dtype="float32")
    requests = [
        ask("Read ", picture(0, "K7Q"), " please"),
        ask(picture(1), "and", picture(2), "differ?"),
        conversation(2),
        ask("no image at all"),
        ask("What does <image> mean in ", picture(1), "?"),
        ask("안녕하세요 한글 ", picture(3)),
    ]
    for request in requests:
        served, own = await model.complete(request), await local.complete(request)
        assert served.text == own.text
        assert served.finish_reason == own.finish_reason
        assert served.usage.prompt_tokens == own.usage.prompt_tokens
        assert served.usage.completion_tokens == own.usage.completion_tokens
        assert served.prompt is not None
        assert served.prompt == own.prompt
        assert served.prompt.tokens == served.usage.prompt_tokens
        assert served.token_ids == own.token_ids
        assert len(served.token_ids.split()) == served.usage.completion_tokens
    await local.aclose()


async def test_a_prompts_hash_is_that_of_what_vllm_says_otherwise(model: OpenAIModel, server: VLLMServer) -> None:
    """Against /tokenize, and against the ids and the text of a whole answer, for requests with images, tools and old turns."""
    await model.probe()
    for request in (ask(picture(1), "and", picture(2)), conversation(3), replace(ask("Use it"), tools=(TOOL,))):
        completion = await model.complete(request)
        body = json.loads(wire.encode(request, model="small", dialect=model._dialect, known=(), max_tokens=4).data)
        async with httpx.AsyncClient(timeout=60) as client:
            asked = {key: body[key] for key in ("model", "messages", "tools") if key in body}
            ids = (await client.post(f"{server.url.removesuffix('/v1')}/tokenize", json=asked)).json()["tokens"]
            plain = {key: value for key, value in body.items() if key != "stream_options"} | {"stream": False}
            whole = (await client.post(f"{server.url}/chat/completions", json=plain)).json()
        assert whole["prompt_token_ids"] == ids
        assert completion.prompt is not None
        assert completion.prompt.tokens == len(ids)
        assert completion.prompt.tokens_sha256 == hashlib.sha256(np.asarray(ids, "<u4").tobytes()).hexdigest()
        assert completion.prompt.text_sha256 == hashlib.sha256(whole["prompt_text"].encode()).hexdigest()
        assert completion.system_fingerprint == whole["system_fingerprint"]


async def test_its_flags_and_weights_are_known_on_its_machine(
    model: OpenAIModel, server: VLLMServer, checkpoint: Path
) -> None:
    await model.complete(ask("x"))
    about = model.describe()
    assert (about["root"], about["flags"]["--model"]) == (str(checkpoint), str(checkpoint))
    assert about["flags"]["--served-model-name"] == "small"
    assert about["variables"]["VLLM_NO_USAGE_STATS"] == "1"
    own = TransformersModel(checkpoint).describe()
    assert about["weights_sha256"] == own["weights_sha256"] is not None
    assert about["files_sha256"] == own["files_sha256"] is not None
    assert about["not_told"].keys() == {"revision"}


def test_another_server_gives_the_recorded_prompts_again(server: VLLMServer, checkpoint: Path, tmp_path: Path) -> None:
    """A run through vLLM, asked again of vLLM and of transformers in process: prompts, tokens and texts are the same."""
    image = Path(__file__).parents[2] / "notebooks" / "label.png"
    question, path = "What is written on the label?", tmp_path / "run.ipynb"
    with kernel_agent.ask(question, image, model=server.model, base_url=server.url, save_to=path) as run:
        assert all(step.completion.prompt for step in run.steps)
        assert run.model["flags"]["--dtype"] == "float32"
    loaded = Trajectory.load(path)
    for again in (OpenAIModel(server.model, base_url=server.url), TransformersModel(checkpoint, dtype="float32")):
        assert run_blocking(replay(loaded, again)) == []
        run_blocking(again.aclose())
    asked = ["audit", str(path), "--no-code", "--json", "--replay-model", "--base-url", server.url]
    report = json.loads(CliRunner().invoke(app, asked).stdout)
    assert report["exit_code"] == 0
    assert report["exchanges"][0]["codevision.prompt.tokens"] == report["exchanges"][0]["gen_ai.usage.input_tokens"]


def test_the_agent_takes_the_same_way(server: VLLMServer, checkpoint: Path) -> None:
    """One question, real kernels: every message through vLLM is the one from transformers in process."""
    question, image = "What is written on the label?", Path(__file__).parents[2] / "notebooks" / "label.png"
    with kernel_agent.ask(question, image, model=server.model, base_url=server.url) as served:
        with kernel_agent.ask(question, image, model=TransformersModel(checkpoint, dtype="float32")) as own:
            assert [step.completion.text for step in served.steps] == [step.completion.text for step in own.steps]
            assert served.answer == own.answer
            assert served.answer


async def test_logprobs_agree_with_transformers(model: OpenAIModel, checkpoint: Path) -> None:
    request = ask("Read ", picture(0, "K7Q"), logprobs=True)
    local = TransformersModel(checkpoint, dtype="float32")
    served, own = await model.complete(request), await local.complete(request)
    assert len(served.logprobs) == served.usage.completion_tokens == len(own.logprobs)
    assert max(abs(a.logprob - b.logprob) for a, b in zip(served.logprobs, own.logprobs, strict=True)) < 0.02
    await local.aclose()


async def test_streams_what_it_returns(model: OpenAIModel) -> None:
    pieces: list[str] = []
    completion = await model.complete(ask("Read ", picture(0)), on_text=pieces.append)
    assert "".join(pieces) == completion.text
    assert completion.first_token_seconds is not None
    assert 0 < completion.first_token_seconds <= completion.seconds


async def test_images_are_uploaded_once(model: OpenAIModel, server: VLLMServer) -> None:
    once, resent = [], []
    for turn in range(1, 11):
        completion = await model.complete(conversation(turn))
        forgetful = OpenAIModel(server.model, base_url=server.url)
        again = await forgetful.complete(conversation(turn))
        await forgetful.aclose()
        assert completion.text == again.text
        assert not completion.events
        once.append(completion.uploaded_bytes)
        resent.append(again.uploaded_bytes)
        if turn > 1:
            assert completion.usage.cached_tokens > 0
    print(f"upload at turn 10: {once[-1]} bytes, all resent {resent[-1]} bytes, ratio {once[-1] / resent[-1]:.3f}")
    assert once[-1] <= resent[-1] / 8


async def test_an_image_the_server_lost_is_sent_again(model: OpenAIModel) -> None:
    """What a restarted server looks like to a client: it believes that the server holds an image."""
    image = picture(77, "LOST")
    await model.complete(ask("warm ", picture(78)))
    model._held[view_id(image)] = None
    completion = await model.complete(ask("Read ", image))
    assert [event.kind for event in completion.events] == ["image_resend"]
    assert completion.uploaded_bytes > len(image.view)
    after = await model.complete(ask("Read ", image))
    assert after.text == completion.text
    assert not after.events
    assert after.uploaded_bytes < 1000


async def test_sixteen_at_once(model: OpenAIModel) -> None:
    requests = [ask(f"Number {index}: ", picture(index)) for index in range(16)]
    alone = [await model.complete(request) for request in requests[:3]]
    started = time.monotonic()
    together: list[Completion] = await asyncio.gather(*(model.complete(request) for request in requests))
    print(f"16 at once: {time.monotonic() - started:.2f} s")
    assert [one.text for one in together[:3]] == [one.text for one in alone]


async def test_tools_and_images_in_tool_messages_are_taken(model: OpenAIModel) -> None:
    request = ask("Use the tool on ", picture(0))
    call = ToolCall(id="call_0", name="code_image_tool", arguments='{"code": "image"}')
    messages = (
        *request.messages,
        Message(role="assistant", content=(), tool_calls=(call,)),
        Message(role="tool", content=(TextPart(text="image_1: "), ImagePart(image=picture(1))), tool_call_id="call_0"),
    )
    completion = await model.complete(replace(request, messages=messages, tools=(TOOL,)))
    assert completion.finish_reason in ("stop", "length", "tool_calls")
    assert not completion.events


async def test_several_choices_and_seed(model: OpenAIModel) -> None:
    request = ask("Invent ", temperature=1.0, seed=5, n=3)
    first, second = await model.complete(request), await model.complete(request)
    assert len(first.alternatives) == 2
    assert (first.text, first.alternatives) == (second.text, second.alternatives)


async def test_refusals_name_the_remedy(model: OpenAIModel, server: VLLMServer) -> None:
    with pytest.raises(ModelRefused, match=r"does not serve 'nope' but: small"):
        await OpenAIModel("nope", base_url=server.url).complete(ask("x"))
    with pytest.raises(ModelRefused, match=r"lacks /v1: use --base-url http://127.0.0.1:\d+/v1"):
        await OpenAIModel("small", base_url=server.url.removesuffix("/v1")).complete(ask("x"))
    with pytest.raises(ModelRefused, match=r"too long for 'small'.*its limit: .*fewer or smaller images"):
        await model.complete(ask("word " * 20000))
    only = OpenAIModel(None, base_url=server.url)
    assert (await only.complete(ask("x"))).model == "small"
    assert only.describe()["server"] == "vllm"
    assert only.describe()["server_version"]


async def test_cancelling_frees_the_server(model: OpenAIModel, server: VLLMServer) -> None:
    request = ask("Go on ", picture(0), max_tokens=900)
    task = asyncio.create_task(model.complete(request, on_text=lambda piece: task.cancel()))
    with pytest.raises(asyncio.CancelledError):
        await task
    async with httpx.AsyncClient(timeout=60) as client, asyncio.timeout(60):
        while await working(client, server):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (await model.complete(ask("quick", max_tokens=2))).text


async def working(client: httpx.AsyncClient, server: VLLMServer) -> float:
    """How many requests the server is at work on, as it says itself."""
    told = (await client.get(f"{server.url.removesuffix('/v1')}/metrics")).text
    (line,) = [line for line in told.splitlines() if line.startswith("vllm:num_requests_running{")]
    return float(line.split()[-1])


def test_a_checkpoint_that_is_none_is_refused_at_once(tmp_path: Path, python: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        VLLMServer(tmp_path, python=python)


def test_a_failed_start_shows_the_log(tmp_path: Path, python: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "never_heard_of", "architectures": ["NeverHeardOf"]}')
    with pytest.raises(ModelFailed, match=r"(?s)did not start.*architecture.*its end:"):
        with VLLMServer(tmp_path, python=python, log=tmp_path / "log"):
            pass
    with pytest.raises(ModelFailed, match=r"no vLLM.*--python"):
        with VLLMServer(tmp_path, python=sys.executable, log=tmp_path / "log"):
            pass


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_serve_ends(checkpoint: Path, python: Path, end: signal.Signals) -> None:
    """Ctrl-C stops in order; even where the owner is killed, the server goes with it."""
    code = f"from kernel_agent.models import serve; serve({str(checkpoint)!r}, python={str(python)!r})"
    owner = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    assert owner.stdout is not None
    lines: list[str] = []
    for line in owner.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    assert any("http://127.0.0.1:" in line for line in lines), "".join(lines)
    family = descendants(owner.pid)
    assert len(family) >= 3
    owner.send_signal(end)
    assert owner.wait(120) == (0 if end is signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(alive(pid) for pid in family):
        time.sleep(0.2)
    assert not [pid for pid in family if alive(pid)]


def descendants(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):  # a thread or process may end while it is looked at
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children + [one for child in children for one in descendants(child)]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
