"""`train_grpo`: reinforcement learning of a checkpoint on tasks, through TRL (paper, sections 5 and 6).

The folder it writes:

    train.json       what was asked, versions, hashes of checkpoint and tasks
    steps.jsonl      TRL's metrics a step: rewards/COMPONENT/mean, seconds/..., kl, entropy, ...
    rollouts.jsonl   each rollout: components with weights, answer, how it ended, what each message did
    checkpoints/     of the trainer; the same call goes on from the last whole one
    model/           the trained checkpoint, when it is done

Importing this imports neither torch nor trl. One call a process; under `accelerate launch` each process has kernels of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernel_agent.agent import Agent
from kernel_agent.blocking import run_blocking
from kernel_agent.environment import environment
from kernel_agent.errors import InputError
from kernel_agent.models.checkpoint import resolve
from kernel_agent.models.hashes import identity
from kernel_agent.protocols import get_protocol
from kernel_agent.rewards import Rewards
from kernel_agent.session import KernelPool
from kernel_agent.train.environment import Environment, reward_functions
from kernel_agent.train.folder import last_checkpoint, read_record, write_record
from kernel_agent.train.lessons import read_lessons
from kernel_agent.train.quiet import quiet
from kernel_agent.train.rollout import Lesson, Rollout, rollout_agent
from kernel_agent.train.scoring import Scoring
from kernel_agent.types import Json, KernelOptions

STEPS, ROLLOUTS, CHECKPOINTS, MODEL = "steps.jsonl", "rollouts.jsonl", "checkpoints", "model"
_PACKAGES = ("trl", "transformers", "torch", "peft", "accelerate", "datasets", "kernel-agent")
_MAY_DIFFER = ("path", "kernels", "save_every", "vllm")  # between the calls of one training


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """How to train. Defaults are the paper's (section 5) and, where that is silent, those of the released script.

    Attributes:
        rewards: set of `kernel_agent.rewards`.
        rollouts: of one task; advantages compare them with each other.
        batch: tasks of one update, over all processes.
        micro_batch: rollouts in one forward and backward pass of one process.
        kl: weight of the divergence from the checkpoint; 0 needs no second model.
        updates: most updates; None for those of `epochs`.
        messages, turn_tokens, tokens: of one rollout: messages, tokens of one message, tokens of all, reports included.
        cell_seconds: of one cell before it is interrupted.
        images: made by one rollout.
        kernels: at a time, in this process; None for one a rollout.
        vllm: address of `trl vllm-serve`; None samples with transformers.
        lora: rank; None trains all weights.
        save_every: updates between checkpoints.
    """

    rewards: Rewards = Rewards.DEFAULT
    rollouts: int = 8
    batch: int = 64
    micro_batch: int = 1
    lr: float = 1e-6
    epochs: float = 1.0
    updates: int | None = None
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.001
    temperature: float = 1.0
    messages: int = 12
    turn_tokens: int = 2048
    tokens: int = 16_384
    cell_seconds: float = 60.0
    images: int = 32
    kernels: int | None = None
    kernel: KernelOptions = KernelOptions()
    vllm: str | None = None
    lora: int | None = None
    limit: int | None = None
    dtype: str = "float32"
    save_every: int = 20
    seed: int = 0

    def shape(self, processes: int = 1) -> tuple[int, int]:
        """Rollouts of a process in one update, and forward passes. Raises InputError with the remedy."""
        total = self.batch * self.rollouts
        if total % (processes * self.micro_batch):
            raise InputError(
                f"{self.batch} tasks x {self.rollouts} rollouts = {total} are not divided by {processes} processes x micro_batch "
                f"{self.micro_batch}: give a batch or a micro batch that fits"
            )
        mine, passes = total // processes, total // processes // self.micro_batch
        check_groups(self.micro_batch, passes, self.rollouts)
        if self.kernels is not None and self.kernels < mine:
            raise InputError(
                f"--kernels {self.kernels}: {mine} rollouts of a batch hold a kernel at the same time in each process; give at least "
                f"{mine}, or a smaller batch"
            )
        return mine, passes


def train_grpo(
    tasks: Path,
    model: str | Path,
    out: Path,
    options: GRPO = GRPO(),
    *,
    save_rollouts: Path | None = None,
    every: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train, or go on with a training that was stopped; the folder of the trained checkpoint.

    Raises InputError for options, tasks or a folder that do not fit, ModelError, KernelError, ImportError without `[train]`.
    """
    for name in ("torch", "transformers", "datasets", "trl"):
        if find_spec(name) is None:  # before anything is read or written
            raise ImportError(f"No module named {name!r}")
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    mine, _ = options.shape(processes)
    lessons, left_out = read_lessons(tasks, options.limit)
    for why in left_out[:10]:
        tell(f"Left out {why}")
    if len(lessons) < options.batch:
        raise InputError(
            f"{tasks} has {len(lessons)} tasks, an update takes {options.batch}: give a smaller batch, or more tasks"
        )
    source = resolve(model)
    asked = _asked(lessons, source, options)
    going_on = read_record(out, asked, _MAY_DIFFER) is not None
    if not going_on and rank == 0:
        write_record(out, {**asked, "versions": _versions(), "environment": environment()})
    if (out / MODEL / "config.json").exists():
        tell(f"{out} is trained already")
        return out / MODEL
    checkpoint = last_checkpoint(out / CHECKPOINTS) if going_on else None
    done = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    records = out / (ROLLOUTS if rank == 0 else f"rollouts-{rank}.jsonl")
    _cut(records, done)
    if rank == 0:
        _cut(out / STEPS, done + 1)
    if going_on:
        tell(f"Going on after {done} updates")
    scoring = Scoring(options.rewards, records, save_rollouts, every)
    with quiet():
        pool = KernelPool(options.kernels or mine, kernel=options.kernel)
        try:
            trainer = build_trainer(source, lessons, options, out, pool, scoring, processes, tell)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            run_blocking(pool.aclose())
        if rank == 0:
            _export(trainer, source, out / MODEL)
    return out / MODEL


def build_trainer(
    source: str,
    lessons: Mapping[str, Lesson],
    options: GRPO,
    out: Path,
    pool: KernelPool,
    scoring: Scoring,
    processes: int = 1,
    tell: Callable[[str], None] = lambda text: None,
    parts: tuple[Any, Any] | None = None,
) -> Any:
    """The `RolloutTrainer` of these lessons, with kernels out of `pool`. `parts`: model and processor, where they are in memory."""
    import torch
    from datasets import Dataset
    from transformers import AutoProcessor, PrinterCallback, TrainerCallback
    from trl import GRPOConfig
    from trl.trainer.utils import create_model_from_path

    from kernel_agent.models.rendering import image_tokens
    from kernel_agent.train.grpo_trainer import RolloutTrainer, image_ids

    loaded, processor = parts or (
        create_model_from_path(source, dtype=options.dtype),
        AutoProcessor.from_pretrained(source),
    )
    processor.tokenizer.padding_side = "left"
    pads = image_ids(loaded)
    if not pads:
        raise InputError(f"{source} names no image token in its configuration: give an image-text-to-text checkpoint")
    gpu = torch.cuda.is_available()
    _, passes = options.shape(processes)
    sampling: dict[str, Json] = (
        {"max_new_tokens": options.turn_tokens, "suppress_tokens": pads}
        if options.vllm is None
        else {"max_tokens": options.turn_tokens, "logit_bias": {str(token): -100.0 for token in pads}}
    )
    args = GRPOConfig(
        output_dir=str(out / CHECKPOINTS),
        num_generations=options.rollouts,
        per_device_train_batch_size=options.micro_batch,
        steps_per_generation=passes,
        gradient_accumulation_steps=passes,
        learning_rate=options.lr,
        lr_scheduler_type="constant",
        num_train_epochs=options.epochs,
        max_steps=-1 if options.updates is None else options.updates,
        epsilon=options.clip_low,
        epsilon_high=options.clip_high,
        delta=10.0,  # the released script's dual clip
        beta=options.kl,
        loss_type="dapo",  # the mean over all sampled tokens of an update
        temperature=options.temperature,
        top_p=1.0,
        top_k=0,
        max_completion_length=options.tokens,
        generation_kwargs=sampling,
        use_vllm=options.vllm is not None,
        vllm_mode="server",
        vllm_server_base_url=None if options.vllm is None else options.vllm.removesuffix("/").removesuffix("/v1"),
        seed=options.seed,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        save_steps=options.save_every,
        save_total_limit=3,
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
        dataloader_num_workers=0,
    )
    lora = None
    if options.lora is not None:
        from peft import LoraConfig

        lora = LoraConfig(r=options.lora, lora_alpha=2 * options.lora, target_modules="all-linear")

    def agent(rollout: Rollout) -> Agent:
        return rollout_agent(
            rollout,
            pool,
            messages=options.messages,
            turn_tokens=options.turn_tokens,
            cell_seconds=options.cell_seconds,
            images=options.images,
            temperature=options.temperature,
        )

    def about() -> dict[str, Json]:
        return {"model": source, "updates": int(trainer.state.global_step) if trainer is not None else 0}

    prompt = [{"role": "system", "content": get_protocol("native").system()}, {"role": "user", "content": ""}]
    trainer: Any = None
    trainer = RolloutTrainer(
        turn_tokens=options.turn_tokens,
        model=loaded,
        args=args,
        processing_class=processor,
        train_dataset=Dataset.from_list([{"id": name, "prompt": prompt} for name in lessons]),
        reward_funcs=reward_functions(scoring, options.rollouts),
        environment_factory=lambda: Environment(lessons, agent, about, image_tokens(processor)),
        peft_config=lora,
        callbacks=[_log(TrainerCallback, out / STEPS, tell)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def check_groups(per_device: int, steps: int, rollouts: int) -> None:
    """InputError where a process would see a part of a group: terms that compare the rollouts of a task need them all."""
    if rollouts < 2:
        raise InputError(f"{rollouts} rollouts a task: advantages compare them with each other, give at least 2")
    if per_device * steps % rollouts:
        raise InputError(
            f"a process generates {per_device} x {steps} = {per_device * steps} rollouts at a time, which {rollouts} a task do not "
            "divide: a group would be scored in parts. Give per-device batch and steps whose product is a multiple of it"
        )


def _log(base: Any, file: Path, tell: Callable[[str], None]) -> Any:
    """A callback that adds each step's metrics to a JSON lines file; what is no number is null."""

    class Log(base):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if state.is_world_process_zero and "reward" in (logs or {}):
                numbers = {
                    name: value if math.isfinite(value) else None
                    for name, value in logs.items()
                    if isinstance(value, int | float)
                }
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps({"step": state.global_step, **numbers}) + "\n")
                tell(
                    f"Update {state.global_step} of {state.max_steps}: reward {numbers['reward']:.3f}, "
                    f"right {numbers['rollouts/right']:.0%}, {numbers['step_time']:.0f} s"
                )

    return Log()


def _export(trainer: Any, source: str, folder: Path) -> None:
    """The trained checkpoint, with the processor (and its chat template) as it was. It appears whole."""
    from transformers import AutoProcessor

    model = trainer.accelerator.unwrap_model(trainer.model)
    part = folder.with_name(folder.name + ".part")
    (model.merge_and_unload() if hasattr(model, "merge_and_unload") else model).save_pretrained(part)
    AutoProcessor.from_pretrained(source).save_pretrained(part)
    part.replace(folder)


def _asked(lessons: Mapping[str, Lesson], source: str, options: GRPO) -> dict[str, Json]:
    """All that decides what is learned, as JSON."""
    digest = hashlib.sha256()
    for lesson in lessons.values():
        digest.update(json.dumps({**lesson.truth.to_json(), "image": None}, sort_keys=True).encode())
        for image in lesson.images:
            digest.update(hashlib.sha256(image if isinstance(image, bytes) else Path(image).read_bytes()).digest())
    told: dict[str, Json] = json.loads(
        json.dumps(
            {
                "model": {"path": source, **(identity(source) if Path(source).is_dir() else {})},
                "tasks": {"count": len(lessons), "sha256": digest.hexdigest()},
                "options": asdict(options),
            }
        )
    )
    return told


def _versions() -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cut(file: Path, until: int) -> None:
    """Leave out the lines of steps that are made again, and one that was cut short."""
    if not file.exists():
        return
    kept = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    part = file.with_name(file.name + ".part")
    part.write_text("".join(line for line in kept if json.loads(line)["step"] < until), encoding="utf-8")
    part.replace(file)
