"""Reinforcement learning with the real trl on this machine's CPU: the embedded checkpoint writes code, kernels run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernel_agent import KernelPool, Trajectory
from kernel_agent.embedded import checkpoint_path
from kernel_agent.errors import InputError
from kernel_agent.models.tokens import rendered_prompt
from kernel_agent.rewards import Rewards, score_group
from kernel_agent.tasks.dataset import read_task
from kernel_agent.tasks.generate import Series
from kernel_agent.tasks.generated_folder import write_dataset
from kernel_agent.train.grpo import GRPO, build_trainer, train_grpo
from kernel_agent.train.lessons import read_lessons
from kernel_agent.train.scoring import COMPONENTS, Scoring
from kernel_agent.types import Malformed, Request
from tests.models.tiny_model import build_tiny

pytestmark = pytest.mark.train

SMALL = {"batch": 2, "rollouts": 2, "micro_batch": 2, "turn_tokens": 64, "tokens": 1200, "messages": 5, "kl": 0.0}

VARIED = {"rollouts": 4, "micro_batch": 4, "temperature": 1.4}
"""So that rollouts of a task differ, and there is something to learn from."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "reading"
    write_dataset(folder, Series.READING, 6, 3, workers=1)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny"))


@contextmanager
def training(
    tasks: Path, out: Path, source: Path, **more: Any
) -> Iterator[tuple[Any, KernelPool, list[dict[str, Any]]]]:
    """A trainer, its kernels, and the rows of its first batch as its own loader gives them."""
    options = GRPO(**{**SMALL, **more})
    lessons, _ = read_lessons(tasks)
    mine, _ = options.shape()
    with KernelPool(mine, warm=0) as pool:
        out.mkdir(exist_ok=True)
        scoring = Scoring(options.rewards, out / "rollouts.jsonl", out / "notebooks")
        trainer = build_trainer(str(source), lessons, options, out, pool, scoring)
        trainer.model.train()
        yield trainer, pool, next(iter(trainer.get_train_dataloader()))


@pytest.fixture(scope="module")
def batch(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any], Path]]:
    """One batch of rollouts as trl trains on it."""
    out = tmp_path_factory.mktemp("batch")
    with training(tasks, out, checkpoint_path()) as (trainer, pool, rows):
        made = trainer._generate_and_score_completions(rows)
        assert pool.metrics.leased == 0
        yield trainer, made, out


def runs(trainer: Any) -> list[Trajectory]:
    return [environment.rollout.trajectory for environment in trainer.environments]


def test_the_batch_is_of_real_runs(batch: tuple[Any, dict[str, Any], Path]) -> None:
    trainer, made, _ = batch
    assert made["completion_ids"].shape[0] == 4
    names = [environment.lesson.truth.id for environment in trainer.environments]
    assert names[0] == names[1] != names[2] == names[3]
    for run in runs(trainer):
        assert any(step.images for step in run.steps), "the embedded model looks before it answers"
        assert run.isolation != "not started"


def test_what_is_trained_on_is_exactly_what_was_sampled(batch: tuple[Any, dict[str, Any], Path]) -> None:
    trainer, made, _ = batch
    for row, run in enumerate(runs(trainer)):
        learned = made["completion_ids"][row][(made["completion_mask"] * made["tool_mask"])[row].bool()].tolist()
        assert learned == [int(token) for step in run.steps for token in step.completion.token_ids.split()]
        assert made["num_items_in_batch"] == (made["completion_mask"] * made["tool_mask"]).sum()


def test_the_prompts_are_those_that_the_agent_sends(batch: tuple[Any, dict[str, Any], Path]) -> None:
    """Each message was sampled behind the very ids that `models/generate.py` makes of the same conversation."""
    from kernel_agent.models.generate import load

    trainer, made, _ = batch
    loaded = load(str(checkpoint_path()), device="cpu", dtype="float32", revision=None)
    compared = 0
    for row, run in enumerate(runs(trainer)):
        messages: list[Any] = []
        for step in run.steps:
            messages += step.new_messages
            _, prompt = loaded._inputs(Request(messages=tuple(messages)), [])
            assert step.completion.prompt is not None
            again = loaded.processor.tokenizer(step.completion.text, add_special_tokens=False).input_ids
            sampled = [int(token) for token in step.completion.token_ids.split()]
            assert step.completion.prompt.tokens_sha256 == prompt.tokens_sha256, f"rollout {row}, step {step.index}"
            compared += 1
            if again != sampled[:-1] or step.completion.finish_reason != "stop":
                break  # a spelling that the tokenizer would not choose, or a message that was cut: encoded anew it differs
        last = run.steps[-1].completion
        ids = made["prompt_ids"][row][made["prompt_mask"][row].bool()].tolist()
        ids += made["completion_ids"][row][made["completion_mask"][row].bool()].tolist()
        whole = [int(token) for token in last.token_ids.split()]
        assert ids[-len(whole) :] == whole
        assert last.prompt == rendered_prompt(ids[: -len(whole)], None)
    assert compared >= 8


def test_imitation_reads_a_rollout_as_reinforcement_does(batch: tuple[Any, dict[str, Any], Path]) -> None:
    """Written for `train sft`, a rollout's notebook has the ids, the learned places and the pictures that trl trains on."""
    from kernel_agent.models.generate import load
    from kernel_agent.train.examples import IGNORED, Writer
    from kernel_agent.train.runs import read_notebook

    trainer, made, out = batch
    loaded = load(str(checkpoint_path()), device="cpu", dtype="float32", revision=None)
    writer = Writer(loaded.processor, trainer.eos_token_ids, 100_000)
    notebooks = {Trajectory.load(file).run_id: file for file in out.rglob("rollout-*.ipynb")}
    compared = 0
    for row, run in enumerate(runs(trainer)):
        examples = writer.write(read_notebook(notebooks[run.run_id])).examples
        if len(examples) > 1:
            continue  # a spelling that the tokenizer would not choose: encoded anew, the next prompt differs
        example = examples[0]
        mask = made["completion_mask"][row].bool()
        prompt = made["prompt_ids"][row][made["prompt_mask"][row].bool()].tolist()
        learned = [False] * len(prompt) + made["tool_mask"][row][mask].bool().tolist()
        assert example.ids.tolist() == prompt + made["completion_ids"][row][mask].tolist()
        assert (example.labels != IGNORED).tolist() == learned
        assert len(example.pictures) == made["num_images"][row]
        compared += 1
    assert compared >= 2


def test_pictures_and_their_tokens_agree(batch: tuple[Any, dict[str, Any], Path]) -> None:
    """Rows of pixels are those of the pictures each rollout saw, in order; the model gives the same for a rollout alone."""
    import torch

    from kernel_agent.models.generate import load
    from kernel_agent.types import ImagePart

    trainer, made, _ = batch
    loaded = load(str(checkpoint_path()), device="cpu", dtype="float32", revision=None)
    token, each = trainer.model.config.image_token_id, trainer.processing_class.image_seq_len
    logps = trained_logps(trainer, made)
    for row, run in enumerate(runs(trainer)):
        messages = tuple(message for step in run.steps for message in step.new_messages)
        inputs, _ = loaded._inputs(Request(messages=messages), [])
        shown = sum(isinstance(part, ImagePart) for message in messages for part in message.content)
        ids = torch.cat([made["prompt_ids"][row], made["completion_ids"][row]])
        mask = torch.cat([made["prompt_mask"][row], made["completion_mask"][row]]).bool()
        assert shown == made["num_images"][row] > 1
        assert (ids == token).sum() == shown * each
        pixels = made["pixel_values"][row]
        assert torch.equal(pixels[:shown], inputs["pixel_values"][0])
        assert not pixels[shown:].any()
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids[mask][None], pixel_values=inputs["pixel_values"]).logits[0, :-1].float()
        alone = torch.log_softmax(logits, -1).gather(1, ids[mask][1:, None])[:, 0]
        count = int(made["completion_mask"][row].sum())
        torch.testing.assert_close(logps[row, :count], alone[-count:], atol=2e-4, rtol=2e-4)


def trained_logps(trainer: Any, made: dict[str, Any]) -> Any:
    import torch

    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], 1)
    mask = torch.cat([made["prompt_mask"], made["completion_mask"]], 1)
    pictures = {name: made[name] for name in ("pixel_values", "pixel_attention_mask", "num_images")}
    with torch.no_grad():
        found, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, made["completion_ids"].shape[1], batch_size=2, **pictures
        )
    return found


def test_rewards_are_those_of_codevision_score(batch: tuple[Any, dict[str, Any], Path]) -> None:
    from typer.testing import CliRunner

    from kernel_agent.cli.commands import app

    trainer, _, out = batch
    lines = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for folder in sorted((out / "notebooks" / "step-000000").iterdir()):
        of_task = [line for line in lines if line["task"] == folder.name]
        saved = [Trajectory.load(folder / f"rollout-{number}.ipynb") for number in range(2)]
        scores = score_group(read_task(folder / "task.json"), saved, Rewards.DEFAULT)
        assert [score.total for score in scores] == [line["total"] for line in of_task]
        for line, score, run in zip(of_task, scores, saved, strict=True):
            assert line["run"] == run.run_id
            assert line["components"] == {
                one.name: {"value": one.value, "weight": one.weight} for one in score.components
            }
        command = ["score", str(folder / "rollout-0.ipynb"), "--task", str(folder / "task.json"), "--json"]
        told = json.loads(CliRunner().invoke(app, command).stdout)
        assert {one["name"]: one["value"] for one in told["components"] if one["name"] != "necessity"} == {
            name: one["value"] for name, one in of_task[0]["components"].items() if name != "necessity"
        }
    columns = [trainer._logs["rewards"][name] for name in COMPONENTS[Rewards.DEFAULT]]
    totals = [sum(value for value in row if value == value) for row in zip(*columns, strict=True)]
    assert totals == pytest.approx([line["total"] for line in lines], abs=1e-6)


def test_a_saved_rollout_passes_the_audit(batch: tuple[Any, dict[str, Any], Path]) -> None:
    _, _, out = batch
    notebook = next((out / "notebooks").rglob("rollout-0.ipynb"))
    done = subprocess.run(
        [sys.executable, "-m", "kernel_agent.cli", "audit", str(notebook), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 1, done.stdout[-2000:]


# ------------------------------------------------------------------ faults


def test_no_kernel_is_kept_when_sampling_fails(tasks: Path, tmp_path: Path) -> None:
    with training(tasks, tmp_path, checkpoint_path()) as (trainer, pool, rows):
        generate, asked = trainer.model.generate, 0

        def failing(*arguments: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 2:
                assert pool.metrics.leased == 4
                raise RuntimeError("out of memory")
            return generate(*arguments, **options)

        trainer.model.generate = failing
        with pytest.raises(RuntimeError, match="out of memory"):
            trainer._generate_and_score_completions(rows)
        assert pool.metrics.leased == 0
        made = trainer._generate_and_score_completions(rows)  # and it goes on
        assert made["completion_ids"].shape[0] == 4
        assert pool.metrics.leased == 0


def test_messages_that_nobody_can_read_are_answered(tasks: Path, tiny: Path, tmp_path: Path) -> None:
    """A model that writes noise: each message is cut or malformed, comes back with the remedy, and three in a row end it."""
    with training(tasks, tmp_path, tiny, turn_tokens=24, tokens=900) as (trainer, pool, rows):
        from transformers import GenerationConfig

        assert isinstance(trainer.generation_config, GenerationConfig)
        with __import__("torch").no_grad():
            trainer.model.lm_head.weight[trainer.model.config.image_token_id] *= 50  # it would say little else
        made = trainer._generate_and_score_completions(rows)
        for run in runs(trainer):
            assert run.stop_reason in ("malformed", "model_error")
            assert all(isinstance(step.action, Malformed) for step in run.steps)
            sampled = {int(token) for step in run.steps for token in step.completion.token_ids.split()}
            assert trainer.model.config.image_token_id not in sampled
        assert pool.metrics.leased == 0
        assert made["tool_mask"].sum() > 0
        lines = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
        assert {line["unscored"] for line in lines} == {None}
        assert all(line["components"]["failures"]["value"] > 0 for line in lines)


def test_vllm_is_refused_where_rollouts_would_go_wrong(tmp_path: Path) -> None:
    from transformers import AutoProcessor
    from trl import GRPOConfig

    from kernel_agent.train.grpo_trainer import RolloutTrainer

    args = GRPOConfig(str(tmp_path), use_vllm=True, vllm_mode="colocate", bf16=False, use_cpu=True)
    processor = AutoProcessor.from_pretrained(checkpoint_path())
    with pytest.raises(InputError, match=r"colocate.*--vllm-base-url"):
        RolloutTrainer(
            turn_tokens=8, args=args, processing_class=processor, model=str(checkpoint_path()), reward_funcs=[]
        )

    several = SimpleNamespace(use_vllm=True, vllm_mode="server", world_size=2)
    with pytest.raises(InputError, match="2 processes and a vLLM server"):
        RolloutTrainer(turn_tokens=8, args=several, processing_class=processor)


# ------------------------------------------------------------------ whole trainings


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def changed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a tensor differs; they have the same names (those that are tied are not written twice)."""
    assert before.keys() - after.keys() <= {"lm_head.weight"}
    assert after.keys() <= before.keys()
    return any(not (before[name].float() == after[name].float()).all() for name in after)


def test_two_updates_change_the_weights_and_leave_a_checkpoint(tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = GRPO(**{**SMALL, **VARIED, "kl": 0.001}, updates=2, lr=1e-4, rewards=Rewards.PAPER)
    model = train_grpo(tasks, "embedded", out, options)
    assert changed(weights(checkpoint_path()), weights(model))
    for name in ("chat_template.jinja", "tokenizer.json"):
        assert (model / name).read_text() == (checkpoint_path() / name).read_text()
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(f"rewards/{name}/mean" in step for step in steps for name in COMPONENTS[Rewards.PAPER])
    assert all(step["kl"] is not None and step["seconds/kernels"] > 0 for step in steps)
    told = json.loads((out / "train.json").read_text())
    assert told["options"]["kl"] == 0.001
    assert told["versions"]["trl"].startswith("1.16")
    assert len(told["tasks"]["sha256"]) == len(told["model"]["weights_sha256"]) == 64
    said: list[str] = []
    assert train_grpo(tasks, "embedded", out, options, tell=said.append) == model
    assert said == [f"{out} is trained already"]
    with pytest.raises(InputError, match=r"options\.lr="):
        train_grpo(
            tasks, "embedded", out, GRPO(**{**SMALL, **VARIED, "kl": 0.001}, updates=2, lr=1e-3, rewards=Rewards.PAPER)
        )


def test_low_rank_adapters_are_merged(tasks: Path, tmp_path: Path) -> None:
    model = train_grpo(tasks, "embedded", tmp_path / "out", GRPO(**{**SMALL, **VARIED}, updates=1, lr=1e-3, lora=4))
    assert changed(weights(checkpoint_path()), weights(model))


PROGRAM = """
import typer
from kernel_agent.cli.train_grpo import grpo
app = typer.Typer()
app.command()(grpo)
app()
"""
KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
def until_then():
    while not Path(sys.argv[sys.argv.index("--out") + 1], "checkpoints/checkpoint-1/trainer_state.json").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=until_then, daemon=True).start()
"""
"""By itself: whoever watches from outside may come too late."""


def test_a_training_that_was_killed_goes_on(tasks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = [
        "--tasks", tasks, "--model", "embedded", "--out", out, "--batch", "2", "--rollouts", "2",
        "--micro-batch", "2", "--turn-tokens", "64", "--tokens", "1200", "--steps", "5", "--kl", "0", "--lr", "1e-4",
        "--updates", "2", "--epochs", "5", "--save-every", "1", "--save-rollouts", out.with_name("saved"),
    ]  # fmt: skip

    def train(program: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *map(str, given)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, start_new_session=True, check=False)

    first = train(KILLED + PROGRAM)
    assert first.returncode == -signal.SIGKILL, first.stderr[-2000:]
    assert not (out / "model").exists()
    with (out / "steps.jsonl").open("a") as file:
        file.write('{"step": 2, "reward": 9}\n{"ste')  # what a kill may leave
    again = train(PROGRAM)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Going on after " in again.stderr
    assert again.stdout.strip() == str(out / "model")
    steps = [json.loads(line)["step"] for line in (out / "steps.jsonl").read_text().splitlines()]
    assert steps == [1, 2]
    lines = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0] * 4 + [1] * 4
    assert len({line["run"] for line in lines}) == 8
    saved = sorted(path.parts[-3] for path in out.with_name("saved").rglob("rollout-*.ipynb"))
    assert saved == ["step-000000"] * 4 + ["step-000001"] * 4
