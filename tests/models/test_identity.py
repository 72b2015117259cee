"""What is recorded of a model: prompts as rendered, revision and hashes of its files, what a server's machine knows of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from bad_server import TELLING, USAGE, BadServer, Exchange, delta, fail, say
from tiny_model import TEMPLATE, ask, build_tiny, picture

from kernel_agent.models import OpenAIModel, TransformersModel, hashes, nearby
from kernel_agent.models.checkpoint import small_files, weight_files
from kernel_agent.models.tokens import rendered_prompt
from kernel_agent.types import RenderedPrompt


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"))


def ids_sha256(ids: list[int]) -> str:
    return hashlib.sha256(np.asarray(ids, "<u4").tobytes()).hexdigest()


# The prompt


async def test_a_prompt_in_process_is_what_template_and_processor_make(checkpoint: Path) -> None:
    from transformers import AutoProcessor

    model = TransformersModel(checkpoint, device="cpu")
    completion = await model.complete(ask("Read ", picture(0), " now"))
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "text", "text": "Read "}, {"type": "image"}, {"type": "text", "text": " now"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == "<|user|>Read <image> now<end_of_utterance>\n<|assistant|>"
    prompt = completion.prompt
    assert prompt is not None
    assert prompt.text_sha256 == hashlib.sha256(text.encode()).hexdigest()
    image = "<fake_token_around_image><global-img>" + "<image>" * 4 + "<fake_token_around_image>"
    ids = processor.tokenizer(text.replace("<image>", image), add_special_tokens=False)["input_ids"]
    assert (prompt.tokens, prompt.tokens_sha256) == (len(ids), ids_sha256(ids))
    assert prompt.tokens == completion.usage.prompt_tokens
    said = [int(word) for word in completion.token_ids.split()]
    assert processor.tokenizer.decode(said) == completion.text
    assert len(said) == completion.usage.completion_tokens
    other = await model.complete(ask("Read ", picture(5), " now"))
    assert other.prompt == prompt  # what is in an image is told by the request's hash, not by this one


async def test_another_chat_template_is_told_by_every_hash(checkpoint: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    file = changed / "chat_template.jinja"
    assert file.read_text() == TEMPLATE
    file.write_text(TEMPLATE.replace("<|assistant|>", "<|assistant|>!"))
    one, other = TransformersModel(checkpoint, device="cpu"), TransformersModel(changed, device="cpu")
    prompts = [(await model.complete(ask("Read ", picture(0)))).prompt for model in (one, other)]
    assert prompts[0] is not None
    assert prompts[1] is not None
    assert prompts[0].tokens + 1 == prompts[1].tokens
    assert prompts[0].text_sha256 != prompts[1].text_sha256
    was, now = one.describe(), other.describe()
    assert was["chat_template_sha256"] == hashlib.sha256(TEMPLATE.encode()).hexdigest() != now["chat_template_sha256"]
    assert was["files_sha256"] != now["files_sha256"]
    assert was["weights_sha256"] == now["weights_sha256"]
    assert (was["attention"], was["threads"] > 0) == ("sdpa", True)


async def _telling(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event({**delta("", role="assistant"), **TELLING})
    for piece, ids in (("two ", [7]), ("words", [8, 9])):
        event = delta(piece)
        event["choices"][0]["token_ids"] = ids
        await exchange.event(event)
    await exchange.event(delta(finish="stop"))
    await exchange.event({**USAGE, "system_fingerprint": "vllm-0.32.0-abc"})
    await exchange.end()


async def test_vllm_is_asked_for_the_prompt_and_others_are_not() -> None:
    expected = RenderedPrompt(
        tokens=3,
        tokens_sha256=ids_sha256([1, 2, 70_000]),
        text_sha256=hashlib.sha256(b"<|user|>hi").hexdigest(),
    )
    for vllm in (True, False):
        async with BadServer([_telling], vllm=vllm).running() as server:
            model = OpenAIModel("m", base_url=server.url)
            completion = await model.complete(ask("hi"))
            asked = [name in server.exchanges[0].body for name in ("return_token_ids", "return_prompt_text")]
            assert asked == [vllm, vllm]
            assert completion.prompt == expected
            assert (completion.token_ids, completion.system_fingerprint) == ("7 8 9", "vllm-0.32.0-abc")
            await model.aclose()


async def test_a_vllm_that_refuses_to_tell_is_asked_without_and_strange_ids_are_none() -> None:
    refusal = fail(400, {"error": {"message": "extra inputs are not permitted: return_token_ids"}})

    async def strange(exchange: Exchange) -> None:
        whole = {**delta("x", finish="stop"), **USAGE, "prompt_token_ids": [1, -2], "prompt_text": 5}
        whole["choices"] = [{"message": {"content": "x"}, "finish_reason": "stop", "token_ids": ["7"]}]
        await exchange.whole(200, whole)

    async with BadServer([refusal, say("ok"), strange], vllm=True).running() as server:
        model = OpenAIModel("m", base_url=server.url)
        first, second = await model.complete(ask("hi")), await model.complete(ask("hi"))
        assert [event.kind for event in first.events] == ["rendered_left_out"]
        assert first.prompt is None
        assert ["return_token_ids" in exchange.body for exchange in server.exchanges] == [True, False, False]
        assert (second.text, second.prompt, second.token_ids) == ("x", None, "")
        await model.aclose()


def test_a_hash_is_of_ids_and_text_alone() -> None:
    assert rendered_prompt([], "").text_sha256 == hashlib.sha256(b"").hexdigest()
    assert rendered_prompt([1], None).text_sha256 == ""
    assert rendered_prompt([256], None).tokens_sha256 == hashlib.sha256(b"\0\1\0\0").hexdigest()


# The files


def test_hashes_are_what_sha256sum_gives(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "two"))
    told = hashes.identity(folder)
    assert told["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"more")
    for pattern, name in (("*.safetensors", "weights_sha256"), ("*.jinja *.json", "files_sha256")):
        shell = f"LC_ALL=C; sha256sum {pattern} | sort -k2 | sha256sum"
        line = subprocess.run(shell, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
        assert hashes.identity(folder)[name] == line.split()[0]
    assert told["not_told"] == {"revision": "the checkpoint is a folder that is no hub snapshot"}


def test_what_is_not_hashed_says_why(checkpoint: Path) -> None:
    told = hashes.identity(checkpoint, limit=1000)
    assert told["weights_sha256"] is None
    assert "bytes are more than 1,000" in told["not_told"]["weights_sha256"]
    told = hashes.identity(checkpoint, since=0.0)
    assert told["not_told"]["files_sha256"] == "files changed after the server had started"
    assert hashes.identity(checkpoint, since=time.time() + 1)["files_sha256"]


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    big = tmp_path / "model.safetensors"
    with big.open("wb") as file:
        file.truncate(64 * 2**20)
    first = hashes.file_sha256(big)
    (note,) = (tmp_path / "cache/codevision/sha256").iterdir()
    note.write_text("0" * 64)
    assert hashes.file_sha256(big) == "0" * 64  # it was not read
    assert hashes.identity(tmp_path, limit=10)["weights_sha256"] == "0" * 64
    with big.open("r+b") as file:
        file.write(b"x")
    assert hashes.file_sha256(big) not in (first, "0" * 64)


def hub(checkpoint: Path, cache: Path, revision: str = "1" * 40) -> Path:
    """The checkpoint as the hub's client lays it down: blobs by hash, a snapshot of links, a ref."""
    folder = cache / "models--tiny--idefics"
    for name in ("blobs", "refs", f"snapshots/{revision}"):
        (folder / name).mkdir(parents=True)
    for file in (*weight_files(checkpoint), *small_files(checkpoint)):
        data = file.read_bytes()
        blob = (hashlib.sha256 if file.suffix == ".safetensors" else hashlib.sha1)(data).hexdigest()
        (folder / "blobs" / blob).write_bytes(data)
        (folder / "snapshots" / revision / file.name).symlink_to(f"../../blobs/{blob}")
    (folder / "refs" / "main").write_text(revision)
    return folder


def test_a_hub_snapshot_is_named_by_its_commit_and_its_weights_by_their_blobs(checkpoint: Path, tmp_path: Path) -> None:
    folder = hub(checkpoint, tmp_path / "hub")
    plain = hashes.identity(checkpoint)
    told = hashes.identity(folder / "snapshots" / ("1" * 40), limit=10**6, since=0.0)
    assert told == {**plain, "revision": "1" * 40, "not_told": {}}
    code = (
        "import asyncio, json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tiny_model import ask; from kernel_agent.models import TransformersModel\n"
        "model = TransformersModel('tiny/idefics', device='cpu'); before = dict(model.describe())\n"
        "asyncio.run(model.complete(ask('hi', max_tokens=1)))\n"
        "print(json.dumps([before, dict(model.describe())]))"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], env=env, capture_output=True, text=True, check=True
    )
    for about in json.loads(done.stdout):
        assert {name: about[name] for name in told} == told
    big = next(folder.glob("blobs/" + plain["weights_sha256"]))
    big.write_bytes(b"")  # nothing of it is read
    assert hashes.identity(folder / "snapshots" / ("1" * 40))["weights_sha256"] == plain["weights_sha256"]


async def test_a_hub_name_that_is_not_here_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    about = TransformersModel("tiny/missing", revision="v1").describe()
    assert (about["revision"], about["weights_sha256"]) == ("v1", None)
    assert "not in this machine's hub cache" in about["not_told"]["weights_sha256"]


# Servers


LISTEN = """
import json, os, socket, sys
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listener(folder: Path, *words: str, **variables: str) -> Iterator[int]:
    """The port of a process that listens and whose command line is that of a vLLM server."""
    program = folder / "bin" / "vllm"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(LISTEN)
    process = subprocess.Popen(
        [sys.executable, str(program), "serve", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate("")


def test_the_machine_tells_flags_variables_and_files_without_secrets(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "own")
    time.sleep(1.1)  # the clock of /proc
    secrets = ("topsecret1", "topsecret2", "topsecret3", "topsecret4", "topsecret5")
    words = ("own", "--api-key", "topsecret1", "topsecret2", "--api-k=topsecret3", "--seed", "-1", "--enforce-eager",
             "--kv-events-config", '{"endpoint": "tcp://me:topsecret4@host:1"}', "--lora_modules", "a=x", "b=y")  # fmt: skip
    with listener(tmp_path, *words, VLLM_API_KEY="topsecret5", VLLM_LOGGING_LEVEL="INFO", HF_TOKEN="hf_x") as port:
        told = nearby.server_at(port, "own", ["own"])
        assert nearby.server_at(port, "other", ["other"])["flags"] is None
    assert not [secret for secret in (*secrets, "hf_x") if secret in json.dumps(told)]
    flags = told["flags"]
    assert (flags["--model"], flags["--seed"], flags["--enforce-eager"]) == ("own", "-1", True)
    assert (flags["--lora-modules"], flags["--api-key"]) == (["a=x", "b=y"], "[redacted]")
    assert told["variables"]["VLLM_LOGGING_LEVEL"] == "INFO"
    assert told["weights_sha256"] == hashes.identity(checkpoint)["weights_sha256"]
    assert told["not_told"].keys() == {"revision"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert "no vLLM process" in nearby.server_at(free.getsockname()[1], "own", ["own"])["not_told"]["flags"]


def test_a_secret_in_a_part_of_a_flag_or_in_json_is_taken_out_and_the_rest_is_readable(tmp_path: Path) -> None:
    words = ["--model-loader-extra-config", '{"aws_secret_access_key": "S1", "concurrency": 4}']
    words += ["--speculative-config", '[{"deep": [{"hf_token": "S2", "num_speculative_tokens": 3}]}]']
    words += ["--kv-transfer-config.x.token", "S3", "--hf-overrides.token=S4", "-cc.token", "S5", '-O{"apiKey": "S6="}']
    words += ["--lora-modules", '{"name": "a", "hfToken": "S7"}', '{"name": "b", "token": 57, "token": null}']
    words += ["--additional-config", '{"inner": "{\\"password\\": \\"S8\\"}", "pass": ["S9"]}']
    kept = {
        "--max-num-batched-tokens": "8192",
        "--tokenizer": "own",
        "--enable-prompt-tokens-details": True,
        "--tool-call-parser": "hermes",
        "--hf-overrides": '{"image_token_id": 5, "eos_token_id": [1, 2]}',
        "--compilation-config": '{"pass_config": {"enable_fusion": true}}',
        "--stop": "{no JSON",
    }
    for name, value in kept.items():
        words += [name] if value is True else [name, str(value)]
    variables = {"VLLM_X_PASS": "S10", "VLLM_X_PWD": "S11", "VLLM_X_JWT": "S12", "VLLM_OTLP_HEADERS": "S13"}
    variables |= {"VLLM_X": '{"client_secret": "S14"}'}
    with listener(tmp_path, "own", *words, **variables, VLLM_PASSES="2", TORCH_LOGS="dynamo") as port:
        told = nearby.server_at(port, "own", ["own"])
    assert not [secret for secret in (*(f"S{n}" for n in range(1, 15)), "57") if secret in json.dumps(told)]
    flags = told["flags"]
    assert {name: flags[name] for name in kept} == kept
    assert flags["--model-loader-extra-config"] == '{"aws_secret_access_key": "[redacted]", "concurrency": 4}'
    assert flags["--speculative-config"] == '[{"deep": [{"hf_token": "[redacted]", "num_speculative_tokens": 3}]}]'
    assert flags["-cc.token"] == flags["--hf-overrides.token"] == "[redacted]"
    assert flags["-O"] == '{"apiKey": "[redacted]"}'
    assert flags["--lora-modules"][0] == '{"name": "a", "hfToken": "[redacted]"}'
    assert (told["variables"]["VLLM_PASSES"], told["variables"]["TORCH_LOGS"]) == ("2", "dynamo")


def test_a_hub_name_is_looked_up_in_the_servers_own_cache(checkpoint: Path, tmp_path: Path) -> None:
    hub(checkpoint, tmp_path / "hub")
    name = "tiny/idefics"
    with listener(tmp_path, name, HF_HUB_CACHE=str(tmp_path / "hub")) as port:
        told = nearby.server_at(port, name, [name])
    assert (told["revision"], told["not_told"]) == ("1" * 40, {})
    assert told["weights_sha256"] == hashes.identity(checkpoint)["weights_sha256"]
    with listener(tmp_path, name, HF_HUB_CACHE=str(tmp_path / "none")) as port:
        told = nearby.server_at(port, name, [name])
    assert told["flags"] == {"--model": name}
    assert "not in the hub cache" in told["not_told"]["weights_sha256"]


def test_files_that_changed_under_a_server_are_not_what_it_loaded(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "own")
    with listener(tmp_path, "own") as port:
        time.sleep(1.1)
        (tmp_path / "own" / "model.safetensors").touch()
        told = nearby.server_at(port, "own", ["own"])
    assert told["weights_sha256"] is None
    assert told["not_told"]["weights_sha256"] == "files changed after the server had started"
    assert told["files_sha256"]


async def test_what_no_server_tells_is_said_to_be_untold() -> None:
    for vllm in (True, False):
        async with BadServer([say("ok")], vllm=vllm).running() as server:
            model = OpenAIModel("m", base_url=server.url)
            assert "not_told" not in model.describe()  # not asked yet
            await model.complete(ask("hi"))
            about = model.describe()
            untold = {name for name in nearby.FACTS if about[name] is None}
            assert untold == set(nearby.FACTS)
            assert about["not_told"].keys() == untold | (set() if vllm else {"server_version"})
            assert all(why.startswith("not told by the server") for why in about["not_told"].values())
            await model.aclose()
