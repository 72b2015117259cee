"""The agent endpoint over a real socket: what clients get, and what they are told when they ask wrongly."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from kernel_agent import KernelOptions, Trajectory
from kernel_agent.endpoint import EndpointOptions
from kernel_agent.endpoint.app import build_app
from kernel_agent.errors import ModelFailed
from kernel_agent.models import Model, OpenAIModel, ScriptedModel
from kernel_agent.session import Session
from kernel_agent.types import ImagePart, Message, Request, TextPart
from kernel_agent.waiting import end
from tests.dictated import Dictated

CALL = '<tool_call>{"name": "code_image_tool", "arguments": {"code": "result = image.rotate(180)", "description": "turn", "image_index": 0}}</tool_call>'


def picture(size: tuple[int, int] = (40, 30)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 40)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def body(question: str = "What colour?", **more: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": picture()}}, {"type": "text", "text": question}]
    return {"model": "agent", "messages": [{"role": "user", "content": content}], **more}


async def until_running(client: httpx.AsyncClient, count: int) -> None:
    """Wait until so many runs go on."""
    async with asyncio.timeout(60):
        while (await client.get("/health")).json()["running"] != count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(model: Model, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(EndpointOptions(model=model, name="agent", kernel=KernelOptions(isolation="none"), **options))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not running.done(), "the server did not start"
        await asyncio.sleep(0.01)
    address = server.servers[0].sockets[0].getsockname()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def test_the_answer_is_bare_and_the_run_is_kept(tmp_path: Path) -> None:
    model = ScriptedModel([CALL, "<think>It is red.</think><answer>red</answer>"])
    async with served(model, at_once=1, save=tmp_path) as client:
        reply = (await client.post("/v1/chat/completions", json=body(temperature=0.3, seed=7))).json()
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "red"}
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] > 0
    assert (reply["codevision"]["steps"], reply["codevision"]["stop_reason"]) == (2, "answer")
    kept = Trajectory.load(tmp_path / reply["codevision"]["notebook"])
    assert kept.answer == "red"
    assert (model.requests[0].sampling.temperature, model.requests[0].sampling.seed) == (0.3, 7)


async def test_our_own_client_streams_from_it() -> None:
    model = ScriptedModel([CALL, "<answer>red</answer>"])
    async with served(model, at_once=1) as client:
        ours = OpenAIModel("agent", base_url=f"{client.base_url}/v1")
        async with Session((Image.new("RGB", (9, 9)),), kernel=KernelOptions(isolation="none")) as session:
            parts = (ImagePart(image=session.images[0]), TextPart(text="What?"))
            said = await ours.complete(Request(messages=(Message(role="user", content=parts),)))
        await ours.aclose()
    assert said.text == "red"
    assert said.usage.prompt_tokens > 0


async def test_what_was_said_before_is_context() -> None:
    model = ScriptedModel(["<answer>yes</answer>"])
    asked = body("And now?")
    asked["messages"] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it large?"},
        {"role": "assistant", "content": "no"},
        *asked["messages"],
    ]
    async with served(model, at_once=1) as client:
        assert (await client.post("/v1/chat/completions", json=asked)).status_code == 200
    text = str(model.requests[0].messages[-1].content)
    assert text.index("Be brief.") < text.index("Earlier question: Is it large?") < text.index("Earlier answer: no") < text.index("And now?")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model": "other"}, 404, "does not exist"),
        ({"n": 2}, 400, "one answer"),
        ({"tools": [{}]}, 400, "tools"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "no picture"}]}, 400, "no image"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}, 400, "not fetched"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, {"type": "text", "text": "q"}]}]}, 400, "image"),
        ({"temperature": "hot"}, 400, "not a number"),
    ],
)  # fmt: skip
async def test_wrong_requests_are_told_in_openais_form(change: dict[str, Any], status: int, word: str) -> None:
    async with served(ScriptedModel([]), at_once=1) as client:
        reply = await client.post("/v1/chat/completions", json={**body(), **change})
    error = reply.json()["error"]
    assert (reply.status_code, word in error["message"]) == (status, True), error
    assert set(error) == {"message", "type", "param", "code"}


async def test_keys_bodies_and_paths() -> None:
    async with served(ScriptedModel(["<answer>x</answer>"]), at_once=1, client_key="secret", max_body=5_000) as client:
        for given in ({}, {"Authorization": "Bearer wrong"}):
            refused = await client.post("/v1/chat/completions", json=body(), headers=given)
            assert refused.status_code == 401
            assert "secret" not in refused.text
        client.headers["Authorization"] = "Bearer secret"
        large = body()
        large["messages"][0]["content"][1]["text"] = "x" * 6_000
        assert (await client.post("/v1/chat/completions", json=large)).status_code == 413
        assert (await client.post("/v1/chat/completions", content=json.dumps(body()))).status_code == 415
        assert (await client.post("/v1/chat/completions", content="{", headers={"content-type": "application/json"})).status_code == 400  # fmt: skip
        assert (await client.get("/v1/nothing")).json()["error"]["message"].startswith("GET /v1/nothing")
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == ["agent"]
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (await client.post("/v1/chat/completions", json=body())).status_code == 200


async def test_a_failing_model_and_a_full_house_are_told() -> None:
    async with served(ScriptedModel([ModelFailed("no such thing")]), at_once=1) as client:
        failed = await client.post("/v1/chat/completions", json=body())
        assert failed.status_code == 502
        assert "no such thing" in failed.json()["error"]["message"]
    slow = Dictated("<answer>slow words</answer>")
    async with served(slow, at_once=1, waiting=0) as client:
        first = asyncio.ensure_future(client.post("/v1/chat/completions", json=body()))
        await until_running(client, 1)
        second = await client.post("/v1/chat/completions", json=body())
        slow.let()
        assert second.status_code == 429
        assert second.headers["retry-after"]
        assert (await first).status_code == 200


async def test_a_client_that_hangs_up_ends_its_run() -> None:
    async with served(Dictated("<answer>never said</answer>"), at_once=1) as client:
        asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=body()))
        await until_running(client, 1)
        await end(asking)
        await until_running(client, 0)  # it would wait for ever for its model
