"""Supervised training itself: real trainer, real checkpoints, small. Needs accelerate and peft (make test-train)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sft_runs import ACROSS, ANSWER, CLOSER, RAISES, four, run

from kernel_agent.errors import InputError, ModelFailed, StorageError
from kernel_agent.models import TransformersModel
from kernel_agent.types import StopReason

pytestmark = pytest.mark.train

SCRIPTS = ([ACROSS, CLOSER, ANSWER], [ANSWER], [RAISES, ACROSS, ANSWER], [ACROSS, ANSWER])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny"), context=4096)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for index in range(8):
        images = [four((120 + 10 * index, 80))]
        asyncio.run(run(folder, SCRIPTS[index % len(SCRIPTS)], name=f"run-{index}", images=images))
    return folder


def options(runs: Path, tiny: Path, **changes: Any) -> Any:
    from kernel_agent.train.sft import Options

    plain = {"data": (str(runs),), "model": str(tiny), "batch": 2, "lr": 1e-3, "epochs": 2, "eval_share": 0.2}
    return Options(**{**plain, **changes})


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def changed(before: Path, after: Path) -> set[str]:
    one, other = weights(before), weights(after)
    assert one.keys() == other.keys()
    return {name for name in one if not one[name].equal(other[name])}


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_the_command_teaches_the_embedded_model_an_answer(tmp_path: Path) -> None:
    """A few steps on runs that all say the same: the held-out loss falls, and the model says it through the agent."""
    from kernel_agent.train.embedded import policy
    from kernel_agent.train.sft import Options, sft

    (tmp_path / "runs").mkdir()
    for index in range(8):
        asyncio.run(
            run(tmp_path / "runs", [policy.answer("FOUR")], name=f"r{index}", images=[four((100 + 20 * index, 80))])
        )
    (tmp_path / "runs" / "broken.ipynb").write_text("{}")
    out = tmp_path / "tuned"
    arguments = [sys.executable, "-m", "kernel_agent.cli", "train", "sft", "--data", str(tmp_path / "runs"), "--model", "embedded",
                 "--batch", "6", "--epochs", "25", "--lr", "2e-3", "--eval-share", "0.25", "--out", str(out)]  # fmt: skip
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"Left out {tmp_path / 'runs' / 'broken.ipynb'}, row 0: " in ran.stderr
    assert "training 25/25" in ran.stderr
    assert "Writing model shards" not in ran.stderr
    record = json.loads((out / "train.json").read_text())
    before, after = record["held_out"]["before"], record["held_out"]["after"]
    assert before["all"] > 3
    assert after["all"] < 0.5
    assert before.keys() == after.keys() == {"all", "notebook"}
    assert f"held-out loss, all: {before['all']:.4f} before, {after['all']:.4f} after" in ran.stdout
    assert [row["step"] for row in losses(out)] == list(range(1, 26))
    assert record["data"]["runs"] == 8
    assert record["data"]["held_out_runs"] == 2
    assert record["base"]["weights_sha256"]
    assert record["versions"]["transformers"]
    assert record["tokens_per_second"] > 0
    assert record["peak_memory_mb"] > 100
    assert sorted(file.name for file in out.iterdir() if file.is_dir()) == []
    _, trajectory = asyncio.run(run(tmp_path, TransformersModel(out), images=[four((310, 200))]))
    assert trajectory.stop_reason is StopReason.ANSWER
    assert trajectory.answer == "FOUR"
    plan = Options(data=(str(tmp_path / "runs"),), model="embedded", batch=6, epochs=25, lr=2e-3, eval_share=0.25)
    assert sft(plan, out) == record  # it is there already
    with pytest.raises(
        InputError, match=r"holds another training \(options\.seed=0.*\): give the same arguments to go on"
    ):
        sft(replace(plan, seed=1), out)


def test_killed_and_started_again_it_ends_where_it_would_have(tmp_path: Path, runs: Path, tiny: Path) -> None:
    from kernel_agent.train.sft import sft

    plan = options(runs, tiny, epochs=3)
    code = (
        "import os, signal, sys; from kernel_agent.train.sft import Options, sft\n"
        "def told(what, done, total):\n"
        "    if what == 'training' and done == 4: os.kill(os.getpid(), signal.SIGKILL)\n"  # with checkpoints behind it
        f"sft(Options(**{ {**plan.__dict__}!r}), sys.argv[1], told)"
    )
    killed = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", code, str(killed)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(killed.glob("checkpoints/checkpoint-*/trainer_state.json"))
    assert not (killed / "model.safetensors").exists()
    (killed / "checkpoints" / "checkpoint-999").mkdir()  # one that was not written to its end
    told: list[tuple[str, int]] = []
    resumed = sft(plan, killed, lambda what, done, total: told.append((what, done)))
    whole = sft(plan, tmp_path / "whole")
    assert next(done for what, done in told if what == "training") > 0
    assert ("held out", 1) in told
    assert len(losses(tmp_path / "whole")) == len(losses(killed)) == 9
    assert resumed["held_out"]["before"] == whole["held_out"]["before"]
    assert resumed["held_out"]["after"]["all"] == pytest.approx(whole["held_out"]["after"]["all"], abs=1e-5)
    for one, other in zip(losses(killed), losses(tmp_path / "whole"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    for name, tensor in weights(tmp_path / "whole").items():
        assert weights(killed)[name].allclose(tensor, atol=1e-5), name
    assert changed(tiny, killed)


def test_micro_batches_make_no_difference(tmp_path: Path, runs: Path, tiny: Path) -> None:
    """Examples differ in length and in how much of them is learned: a mean of means would."""
    from kernel_agent.train.sft import sft

    for name, size in (("one", 1), ("three", 3)):
        sft(options(runs, tiny, batch=3, epochs=1, micro_batch=size), tmp_path / name)
    one, three = ([row["loss"] for row in losses(tmp_path / name)] for name in ("one", "three"))
    assert one == pytest.approx(three, abs=1e-4)
    for name, tensor in weights(tmp_path / "one").items():
        assert weights(tmp_path / "three")[name].allclose(tensor, atol=2e-5), name


def test_only_what_is_not_frozen_learns(tmp_path: Path, runs: Path, tiny: Path) -> None:
    from kernel_agent.train.sft import sft

    sft(options(runs, tiny, epochs=1), tmp_path / "frozen")
    learned = changed(tiny, tmp_path / "frozen")
    assert {name.split(".")[1] for name in learned if name.startswith("model.")} == {"text_model"}
    assert "lm_head.weight" in learned
    sft(options(runs, tiny, epochs=1, freeze="none"), tmp_path / "all")
    parts = {name.split(".")[1] for name in changed(tiny, tmp_path / "all") if name.startswith("model.")}
    assert parts == {"text_model", "vision_model", "connector"}
    lora = sft(options(runs, tiny, epochs=1, lora=4, lr=1e-2), tmp_path / "lora")
    touched = changed(tiny, tmp_path / "lora")
    assert touched
    assert all(".text_model.layers." in name and name.endswith("_proj.weight") for name in touched)
    assert lora["held_out"]["after"]["all"] < lora["held_out"]["before"]["all"]


def test_gradients_of_qwens_family(tmp_path: Path, runs: Path) -> None:
    from tiny_qwen import qwen_model, qwen_processor

    from kernel_agent.train.examples import Collator, Writer
    from kernel_agent.train.runs import read_notebook
    from kernel_agent.train.sft import freeze_vision

    processor = qwen_processor()
    model: Any = qwen_model(processor)
    freeze_vision(model)
    writer = Writer(processor, [model.generation_config.eos_token_id], 4096)
    examples = [one for path in sorted(runs.glob("*.ipynb"))[:3] for one in writer.write(read_notebook(path)).examples]
    model(**Collator(processor)(examples)).loss.backward()
    learning = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert learning
    assert all(name.startswith(("model.language_model.", "lm_head.")) for name in learning)
    assert not any(one.requires_grad for one in model.model.visual.parameters())


def test_the_checkpoint_keeps_its_dtype_and_bf16_trains(tmp_path: Path, runs: Path, tiny: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from kernel_agent.train.sft import sft

    half = tmp_path / "half"
    AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(half)
    AutoProcessor.from_pretrained(tiny).save_pretrained(half)
    for lora in (None, 4):
        record = sft(options(runs, half, precision="bf16", lora=lora, lr=1e-2), tmp_path / f"out-{lora}")
        assert {tensor.dtype for tensor in weights(tmp_path / f"out-{lora}").values()} == {torch.bfloat16}
        assert record["held_out"]["after"]["all"] < record["held_out"]["before"]["all"]


def test_what_cannot_be_done_is_said(tmp_path: Path, runs: Path, tiny: Path) -> None:
    from kernel_agent.train.sft import Options, sft

    plain = options(runs, tiny)
    for changes, message in (
        ({"batch": 3, "micro_batch": 2}, "batch 3 is no multiple of micro_batch 2"),
        ({"warmup": 1.5}, r"warmup 1\.5: give a share from 0 to below 1"),
        ({"freeze": "text"}, "freeze text: give one of vision, none"),
        ({"lora": 0}, "lora 0: give a rank"),
        ({"epochs": 0}, "epochs 0: give more than 0"),
    ):
        with pytest.raises(InputError, match=message):
            replace(plain, **changes)
    with pytest.raises(
        InputError, match=r"no run is left to learn from; the first of 8 problems.*tokens are more than 50"
    ):
        sft(replace(plain, max_tokens=50), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and holds no training"):
        sft(plain, tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another folder"):
        sft(plain, tmp_path / "file" / "out")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text("{}")
    with pytest.raises(ModelFailed, match="could not be loaded"):
        sft(replace(plain, model=str(tmp_path / "hollow")), tmp_path / "out")
    assert Options(data=("x",), model="embedded").lr == 5e-6
