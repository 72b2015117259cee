"""The client against a server that behaves badly on purpose."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from bad_server import USAGE, BadServer, Exchange, Reply, delta, fail, say
from tiny_model import ask, picture

from kernel_agent.errors import InputError, ModelError, ModelFailed, ModelRefused, ModelTimeout, ModelUnreachable
from kernel_agent.models import Model, OpenAIModel, Timeouts
from kernel_agent.models.openai import RESTARTED
from kernel_agent.types import Completion, ImagePart, Message, TextPart, ToolCall

KEY = "sk-verysecret-0123456789"


async def complete(
    replies: Sequence[Reply],
    request: Any = None,
    *,
    seen: list[str] | None = None,
    model: str | None = "m",
    **options: Any,
) -> tuple[Completion, BadServer]:
    server = BadServer(replies, **{k: options.pop(k) for k in ("models", "vllm") if k in options})
    async with server.running():
        client = OpenAIModel(model, base_url=server.url, **options)
        try:
            return await client.complete(
                request or ask("hi"), on_text=seen.append if seen is not None else None
            ), server
        finally:
            await client.aclose()


async def refusal(replies: Sequence[Reply], request: Any = None, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await complete(replies, request, **options)
    return caught.value


async def test_a_plain_answer() -> None:
    seen: list[str] = []
    completion, server = await complete([say("two ", "words")], ask("hi", stop=("x",), top_p=0.5), seen=seen)
    assert completion.text == "two words" == "".join(seen)
    assert len(seen) == 2
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (7, 3, 4)
    assert completion.uploaded_bytes == server.exchanges[0].size
    assert completion.events == ()
    body = server.exchanges[0].body
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["temperature"], body["seed"], body["stop"], body["top_p"]) == (0.0, 0, ["x"], 0.5)
    assert isinstance(OpenAIModel("m", base_url="http://x/v1"), Model)


async def test_nobody_listens() -> None:
    error = await raised("http://127.0.0.1:9/v1", retries=1)
    assert isinstance(error, ModelUnreachable)
    assert "127.0.0.1:9" in str(error)
    assert "codevision serve" in str(error)
    assert "Asked 2 times" in str(error)


async def raised(url: str, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await OpenAIModel("m", base_url=url, **options).complete(ask("hi"))
    return caught.value


async def test_a_host_that_does_not_exist_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    patient = Timeouts(connect=300.0)  # it is the resolver that gives up
    error = await raised("http://no-such-host.invalid/v1", timeout=patient)
    assert "The host of http://no-such-host.invalid/v1 has no address" in str(error)
    assert "Asked" not in str(error)


async def slow(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(delta("beginning"))
    await exchange.closed_by_client.wait()


async def drip(exchange: Exchange) -> None:
    await exchange.begin()
    for _ in range(200):
        await exchange.event(delta("."))
        await asyncio.sleep(0.02)


async def test_a_server_that_goes_silent() -> None:
    error = await refusal([slow], timeout=Timeouts(read=2.0))
    assert isinstance(error, ModelTimeout)
    assert "nothing for 2 s (after 9 characters)" in str(error)


async def test_a_server_that_never_ends() -> None:
    error = await refusal([drip], timeout=0.5)
    assert isinstance(error, ModelTimeout)
    assert "within 0.5 s" in str(error)


async def test_cancelling_closes_the_connection() -> None:
    server = BadServer([slow])
    async with server.running():
        client = OpenAIModel("m", base_url=server.url)
        seen: list[str] = []
        task = asyncio.create_task(client.complete(ask("hi"), on_text=seen.append))
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.exchanges[0].closed_by_client.wait(), 60)
        server.replies = [say("fine")]
        assert (await client.complete(ask("hi"))).text == "fine"


async def test_no_key_and_a_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODEVISION_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # meant for another host: it is not sent to this one
    error = await refusal([fail(401)])
    assert isinstance(error, ModelRefused)
    assert (error.status, error.retryable) == (401, False)
    assert "CODEVISION_API_KEY" in str(error)
    echo = fail(401, {"error": {"message": f"Incorrect API key provided: {KEY} in Authorization: Bearer {KEY}"}})
    error = await refusal([echo], api_key=KEY)
    assert KEY not in str(error)
    assert "***" in str(error)
    assert "refused" in str(error)


async def test_no_secret_anywhere() -> None:
    async def reply(exchange: Exchange) -> None:
        sent = f"{exchange.headers.get('authorization')} {exchange.path}"
        await exchange.whole(500, {"error": {"message": f"dump: {sent} user:hunter22pass api_key=abcdefgh"}})

    async with BadServer([reply, reply, say("ok")]).running() as server:
        url = server.url.replace("http://", "http://user:hunter22pass@") + "?token=tok-secret-1"
        client = OpenAIModel("m", base_url=url, retries=3)
        completion = await client.complete(ask("hi"))
        assert "authorization" in server.exchanges[0].headers
        assert server.exchanges[0].path.endswith("?token=tok-secret-1")
        text = repr((completion, client, client.describe(), vars(client)))
        for secret in (
            "hunter22pass",
            "tok-secret-1",
            "abcdefgh",
            server.exchanges[0].headers["authorization"].split()[1],
        ):
            assert secret not in text
        assert len(completion.events) == 2


async def test_a_key_that_cannot_be_a_header_is_refused_without_showing_it() -> None:
    with pytest.raises(InputError) as caught:
        OpenAIModel("m", base_url="http://x/v1", api_key="sk-abc def")
    assert "abc" not in str(caught.value)


async def test_an_unknown_model_and_a_missing_v1() -> None:
    missing = fail(404, {"error": {"message": "no model x"}})
    error = await refusal([missing], model="x", models=("a", "b"))
    assert "does not serve 'x' but: a, b" in str(error)
    async with BadServer([say("ok")]).running() as server:
        error = await raised(server.url.removesuffix("/v1"))
        assert f"use --base-url {server.url}" in str(error)
    completion, _ = await complete([say("ok")], model=None, models=("only",))
    assert completion.text == "ok"
    assert "serves a, b: choose one" in str(await refusal([say("ok")], model=None, models=("a", "b")))


async def test_too_many_requests_waits_as_told() -> None:
    started = time.monotonic()
    completion, server = await complete([fail(429, retry_after="1"), say("ok")])
    assert time.monotonic() - started >= 1
    assert completion.text == "ok"
    (event,) = completion.events
    assert event.kind == "model_retry"
    assert (event.data["status"], event.data["pause"]) == (429, 1.0)
    assert completion.uploaded_bytes == sum(exchange.size for exchange in server.exchanges)
    error = await refusal([fail(429, retry_after="60")], timeout=5.0)
    assert "60 s, beyond the limit of 5 s" in str(error)
    error = await refusal([fail(429, {"error": {"message": "pay", "code": "insufficient_quota"}})])
    assert not error.retryable


async def test_500_then_ok_and_500_for_ever() -> None:
    completion, _ = await complete([fail(500), fail(503, b"<html>proxy</html>", mime="text/html"), say("ok")])
    assert [event.data["status"] for event in completion.events] == [500, 503]
    error = await refusal([fail(500)], retries=1)
    assert isinstance(error, ModelFailed)
    assert "Asked 2 times" in str(error)
    assert "failure 500" in str(error)


async def breaks(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(delta("half of"))
    exchange.writer.transport.abort()
    raise ConnectionError


async def stops_short(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event(delta("half of"))
    await exchange.end(done=False)


@pytest.mark.parametrize("bad", [breaks, stops_short])
async def test_closing_in_the_middle(bad: Reply) -> None:
    seen: list[str] = []
    completion, server = await complete([bad, say("the whole")], seen=seen)
    assert completion.text == "the whole"
    assert "".join(seen) == f"half of{RESTARTED}the whole"
    assert server.exchanges[0].body == server.exchanges[1].body
    assert completion.events[0].data["received"] == 7
    error = await refusal([bad], retries=0)
    assert isinstance(error, ModelUnreachable)
    assert "after 7 characters" in str(error)


async def test_garbage() -> None:
    async def garbage(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event(delta("ok so far"))
        await exchange.event(b'{"choices": [{"del')
        await exchange.end()

    error = await refusal([garbage], retries=0)
    assert isinstance(error, ModelFailed)
    assert "no JSON" in str(error)
    error = await refusal([fail(200, b"<html>Welcome</html>", mime="text/html")])
    assert "no chat completion" in str(error)
    assert "Welcome" in str(error)
    for odd in ({"hello": 1}, [1], {"choices": ["x"]}, {"choices": []}, None):
        assert isinstance(await refusal([fail(200, json.dumps(odd).encode())]), ModelFailed)


async def test_an_error_inside_the_stream() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event({"error": {"message": "engine died", "code": 500}})
        await exchange.end()

    error = await refusal([reply], retries=0)
    assert (error.status, "engine died" in str(error)) == (500, True)


async def test_an_answer_that_is_not_streamed() -> None:
    body = {
        "choices": [{"index": 0, "message": {"content": "all at once"}, "finish_reason": "stop"}],
        "usage": USAGE["usage"],
    }
    seen: list[str] = []
    completion, _ = await complete([fail(200, body)], seen=seen)
    assert completion.text == "all at once" == "".join(seen)


async def test_lone_surrogates_korean_and_odd_line_ends() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for piece in ("안녕 ", "\ud83d", "\ude00", " lone \udc00 end", "\u2028\x85x"):
            await exchange.event(delta(piece))
        await exchange.raw('data: {"choices":[{"index":0,"delta":{"content":"raw\u2028한글"},'.encode())
        await exchange.raw(b'"finish_reason":"stop"}]}\r\n\r\n')
        await exchange.end()

    seen: list[str] = []
    completion, _ = await complete([reply], ask("질문 \ud800 ?"), seen=seen)
    assert completion.text == "안녕 😀 lone \ufffd end\u2028\x85xraw\u2028한글" == "".join(seen)
    assert completion.raw_json is not None
    assert completion.raw_json.isascii()
    assert "\\udc00" in completion.raw_json
    assert [event.kind for event in completion.events] == ["usage_missing"]


async def test_a_flood_is_cut() -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.begin()
        block = b"data: " + json.dumps(delta("x" * 2**20)).encode() + b"\n\n"
        for _ in range(80):
            await exchange.raw(block)

    error = await refusal([flood])
    assert isinstance(error, ModelFailed)
    assert str(64 * 2**20) in str(error)
    assert not error.retryable


async def test_tool_calls_choices_reasoning_and_logprobs() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.event(delta(reasoning_content="hm"))
        for piece in ('{"co', 'de": 1}'):
            await exchange.event(
                delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": None, "arguments": piece}}])
            )
        await exchange.event(
            delta(
                tool_calls=[
                    {"index": 0, "function": {"name": "tool"}},
                    {"index": 1, "id": "c2", "function": {"name": "b", "arguments": "{}"}},
                ]
            )
        )
        await exchange.event(delta("other", index=1, finish="stop"))
        last = delta(finish="tool_calls")
        last["choices"][0]["logprobs"] = {"content": [{"token": "t", "logprob": -0.5}]}
        await exchange.event(last)
        await exchange.event(USAGE)
        await exchange.end()

    completion, server = await complete([reply], replace(ask("hi", n=2, logprobs=True), tools=({"type": "function"},)))
    assert [(c.id, c.name, c.arguments) for c in completion.tool_calls] == [
        ("c1", "tool", '{"code": 1}'),
        ("c2", "b", "{}"),
    ]
    assert completion.text == "<think>hm</think>"
    assert completion.alternatives == ("other",)
    assert completion.logprobs[0].logprob == -0.5
    assert completion.finish_reason == "tool_calls"
    assert server.exchanges[0].body["n"] == 2


async def test_a_server_with_other_parameters() -> None:
    replies = [
        fail(400, {"error": {"message": "Unsupported: use 'max_completion_tokens' instead."}}),
        fail(400, {"error": {"message": "unknown field stream_options"}}),
        say("ok"),
    ]
    completion, server = await complete(replies)
    assert [event.kind for event in completion.events] == ["max_tokens_renamed", "stream_options_left_out"]
    assert "max_completion_tokens" in server.exchanges[2].body
    assert "stream_options" not in server.exchanges[2].body
    told = "This model's maximum context length is 100 tokens and your request has 60 input tokens (too large)"
    completion, server = await complete([fail(400, {"error": {"message": told}}), say("ok")], ask("hi", max_tokens=64))
    assert server.exchanges[1].body["max_tokens"] == 40
    error = await refusal([fail(400, {"message": "maximum context length is 10 tokens, prompt has 50"})])
    assert "fewer or smaller images" in str(error)


async def test_vllm_gets_each_image_once() -> None:
    miss = fail(400, {"error": {"message": "Cache miss for image at index 0 but data is not provided."}})
    async with BadServer([say("a"), say("b"), miss, say("c")], vllm=True).running() as server:
        client = OpenAIModel("m", base_url=server.url)
        results = [await client.complete(ask("look ", picture(0), "!")) for _ in range(3)]
        parts = [exchange.body["messages"][0]["content"][1] for exchange in server.exchanges]
        assert [part["image_url"] is None for part in parts] == [False, True, True, False]
        assert len({part["uuid"] for part in parts}) == 1
        assert [event.kind for event in results[2].events] == ["image_resend"]
        assert results[1].uploaded_bytes < 1000 < results[0].uploaded_bytes
        assert results[2].uploaded_bytes == server.exchanges[2].size + server.exchanges[3].size
        assert client.describe()["server_version"] == "0.32.0"
        await client.aclose()


async def test_an_image_token_in_text_takes_no_images_place() -> None:
    call = ToolCall(id="c", name="code_image_tool", arguments='{"code": "print(\'<|image_pad|>\')"}')
    asked = ask("What is <image>? ", picture(0))
    told = (
        *asked.messages,
        Message(role="assistant", content=(), tool_calls=(call,)),
        Message(role="tool", content=(TextPart(text="<|image_pad|>"),), tool_call_id="c"),
    )
    completion, server = await complete([say("ok")], replace(asked, messages=told), vllm=True)
    sent = json.dumps(server.exchanges[0].body["messages"])
    assert "< image>" in sent
    assert sent.count("< |image_pad|>") == 2
    assert "<image>" not in sent
    assert [(event.kind, event.data["token"], event.data["role"]) for event in completion.events] == [
        ("image_token_in_text", "<image>", "user"),
        ("image_token_in_text", "<|image_pad|>", "assistant"),
        ("image_token_in_text", "<|image_pad|>", "tool"),
    ]
    plain, server = await complete([say("ok")], asked)
    assert "<image>" in json.dumps(server.exchanges[0].body["messages"])
    assert plain.events == ()


async def test_other_servers_get_tool_images_in_a_user_message() -> None:
    request = ask("look ", picture(0))
    call = ToolCall(id="c", name="t", arguments="{}")
    request = replace(request, messages=(
        *request.messages,
        Message(role="assistant", content=(), tool_calls=(call,)),
        Message(role="tool", content=(TextPart(text="image_1"), ImagePart(image=picture(1))), tool_call_id="c"),
    ))  # fmt: skip
    _, server = await complete([say("ok")], request)
    roles = [message["role"] for message in server.exchanges[0].body["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]
    assert server.exchanges[0].body["messages"][2]["content"] == "image_1"
    assert (
        server.exchanges[0].body["messages"][3]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    )
    _, server = await complete([say("ok")], request, vllm=True)
    assert [message["role"] for message in server.exchanges[0].body["messages"]] == ["user", "assistant", "tool"]


async def test_many_at_once_and_from_another_loop() -> None:
    async with BadServer([say("ok")]).running() as server:
        client = OpenAIModel("m", base_url=server.url)
        results = await asyncio.gather(*(client.complete(ask(str(index))) for index in range(32)))
        assert [result.text for result in results] == ["ok"] * 32
        other = await asyncio.to_thread(lambda: asyncio.run(client.complete(ask("x"))))
        assert other.text == "ok"
        await client.aclose()
        await client.aclose()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://user:pw123456@:99999/v1"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match="up to /v1") as caught:
        OpenAIModel("m", base_url=url)
    assert "pw123456" not in str(caught.value)


def test_the_whole_endpoint_as_address_is_taken() -> None:
    assert OpenAIModel("m", base_url="http://h:1/v1/chat/completions/").describe()["base_url"] == "http://h:1/v1"
