"""The model in this process, on a tiny random checkpoint; and the scripted model."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import ask, build_tiny, picture

from kernel_agent.errors import InputError, ModelFailed, ModelRefused, ModelUnreachable
from kernel_agent.models import Model, ScriptedModel, TransformersModel
from kernel_agent.types import Completion


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> TransformersModel:
    return TransformersModel(checkpoint, device="cpu")


async def test_greedy_text_streams_and_counts(model: TransformersModel, checkpoint: Path) -> None:
    seen: list[str] = []
    completion = await model.complete(ask("Read ", picture(0), " now", logprobs=True), on_text=seen.append)
    assert completion.text == "".join(seen)
    assert len(seen) > 5
    assert completion.finish_reason == "length"
    assert completion.usage.completion_tokens == 24 == len(completion.logprobs)
    assert all(entry.logprob <= 0 for entry in completion.logprobs)
    # 9 characters and 4 image tokens with 3 around them, and the template's own
    assert completion.usage.prompt_tokens > 9 + 4 + 3
    assert (await model.complete(ask("Read ", picture(0), " now"))).text == completion.text
    assert (await model.complete(ask("Read ", picture(5, "Z"), " now"))).text != completion.text
    about = model.describe()
    assert about["weights_sha256"] == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert (about["dtype"], about["device"]) == ("float32", "cpu")
    assert isinstance(model, Model)


async def test_stop_strings_are_cut_and_never_shown(model: TransformersModel) -> None:
    whole = (await model.complete(ask("Read ", picture(0)))).text
    stop = whole[6:9]
    seen: list[str] = []
    completion = await model.complete(ask("Read ", picture(0), stop=(stop,)), on_text=seen.append)
    assert completion.text == whole[: whole.index(stop)] == "".join(seen)
    assert completion.finish_reason == "stop"
    assert completion.usage.completion_tokens < 24


async def test_seed_and_choices(model: TransformersModel) -> None:
    request = ask("Invent", temperature=1.0, seed=3, n=2)
    first, second = await model.complete(request), await model.complete(request)
    assert (first.text, first.alternatives) == (second.text, second.alternatives)
    assert first.alternatives[0] != first.text
    assert (await model.complete(ask("Invent", temperature=1.0, seed=4))).text != first.text


async def test_cancelling_stops_within_a_token(checkpoint: Path) -> None:
    long = TransformersModel(build_tiny(checkpoint.parent / "long", context=60_000), device="cpu")
    await long.complete(ask("warm", max_tokens=1))
    ticks: list[str] = []
    task = asyncio.create_task(long.complete(ask("Go ", picture(0), max_tokens=50_000), on_text=ticks.append))
    while len(ticks) < 3:  # noqa: ASYNC110  (the loop is free while the model writes)
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    later = asyncio.wait_for(long.complete(ask("next", max_tokens=2)), 60)  # all of the first would take minutes
    assert (await later).usage.completion_tokens == 2
    await long.aclose()
    await long.aclose()


async def test_several_at_once_do_not_mix(model: TransformersModel) -> None:
    requests = [ask(f"Number {index} ", picture(index)) for index in range(4)]
    alone = [(await model.complete(request)).text for request in requests]
    together = await asyncio.gather(*(model.complete(request) for request in requests))
    assert [completion.text for completion in together] == alone


async def test_what_does_not_fit_is_refused_or_shortened(model: TransformersModel) -> None:
    with pytest.raises(ModelRefused, match=r"tokens and the model takes 1024.*smaller images"):
        await model.complete(ask("x" * 2000))
    completion = await model.complete(ask("x" * 900, max_tokens=500))
    assert [event.kind for event in completion.events] == ["max_tokens_reduced"]
    assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 1024


async def test_an_image_token_in_text_is_no_image(model: TransformersModel) -> None:
    completion = await model.complete(ask("What does <image> mean in ", picture(0), " \ud800?"))
    assert [event.kind for event in completion.events] == ["image_token_in_text"]


async def test_checkpoints_that_are_none(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        TransformersModel(tmp_path)
    with pytest.raises(InputError, match="neither the folder of a checkpoint nor a hub name"):
        TransformersModel(tmp_path / "missing")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(ModelFailed, match="could not be loaded"):
        await TransformersModel(tmp_path).complete(ask("hi"))


def test_importing_models_is_light() -> None:
    code = "import sys, kernel_agent.models; print([m for m in ('torch','transformers','openai','httpx','vllm','PIL') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at glibc's table of variables")
def test_loading_does_not_move_the_environment_from_under_other_threads(checkpoint: Path) -> None:
    code = f"""if True:
        import ctypes
        from kernel_agent.models import TransformersModel
        model = TransformersModel({str(checkpoint)!r}, device="cpu")
        table = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
        before = table.value
        model.load()
        assert table.value == before
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_torch_the_error_names_the_extra() -> None:
    code = (
        "import sys, asyncio; sys.modules['torch'] = None\n"
        "from kernel_agent.models import TransformersModel\n"
        "from kernel_agent.types import Request\n"
        "try: asyncio.run(TransformersModel('some/model').complete(Request(messages=())))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ModelFailed")
    assert "pip install 'kernel-agent[local]'" in said


async def test_scripted() -> None:
    boom = ModelUnreachable("gone")
    model = ScriptedModel(
        [
            "one two",
            Completion(text="whole", finish_reason="length"),
            boom,
            lambda request: f"{len(request.messages)} message",
        ],
        delay=0.001,
    )
    seen: list[str] = []
    assert (await model.complete(ask("a"), on_text=seen.append)).text == "one two"
    assert seen == ["one", " two"]
    assert (await model.complete(ask("b"))).finish_reason == "length"
    with pytest.raises(ModelUnreachable, match="gone"):
        await model.complete(ask("c"))
    assert (await model.complete(ask("d"))).text == "1 message"
    with pytest.raises(ModelFailed, match="has 4 replies and was asked a 5th time"):
        await model.complete(ask("e"))
    assert len(model.requests) == 5
    assert isinstance(model, Model)
