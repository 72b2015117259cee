"""Supervised fine-tuning of any vision-language checkpoint on runs (paper, section 4), by transformers' Trainer.

Guarantees: the loss of a batch is the mean over all its tokens with a label, however it is cut into micro-batches; the same
arguments give the same runs, split and order; killed and started again with the same arguments it goes on from its last
checkpoint to the same weights (on a CPU to the bit, as far as torch's kernels repeat themselves); with others it refuses. The folder is
a checkpoint like the one it came from (same dtype, a LoRA merged), `train.json` says what it was made of, and `steps.jsonl` the loss
of each step as it goes. Not covered: more than one process.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import accelerate  # noqa: F401  (the Trainer needs it, and would say so late)
import torch
from torch import nn
from transformers import AutoConfig, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from kernel_agent.errors import InputError, ModelFailed, StorageError
from kernel_agent.models.checkpoint import resolve, snapshot
from kernel_agent.models.generate import Loaded, load
from kernel_agent.models.hashes import identity
from kernel_agent.train.dataset import Data, Told, gather
from kernel_agent.train.examples import IGNORED, Collator, Example, Writer
from kernel_agent.train.folder import check_free, last_checkpoint, read_record, write_record
from kernel_agent.train.quiet import quiet
from kernel_agent.train.runs import files_of
from kernel_agent.types import Json

STEPS = "steps.jsonl"
_LOGGED = ("step", "loss", "learning_rate", "grad_norm")
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train and how; the defaults are the paper's, and as in its released configuration vision tower and projector are frozen.

    Attributes:
        data: folders of `codevision data sft`, JSON files, notebooks or folders of them.
        model: checkpoint folder, hub name, or "embedded".
        batch, micro_batch: examples a step, and of these at once in memory.
        warmup: share of the steps.
        max_tokens: longest example; a run is cut before the step that goes beyond.
        freeze: "vision" is all but the language model.
        lora: rank of low-rank adapters on every linear layer that is not frozen, merged in the end; None trains the weights.
        precision: "bf16" computes in it (the weights stay in float32, those under a LoRA are held in it); "auto" is that on a GPU that can.
        eval_share: of each kind of run, held out.
        skip_mistakes: learn nothing from messages that went wrong.
        limit: only the first so many runs.
    """

    data: tuple[str, ...]
    model: str
    epochs: float = 2
    lr: float = 5e-6
    batch: int = 128
    micro_batch: int = 1
    warmup: float = 0.05
    max_tokens: int = 32_768
    freeze: Literal["vision", "none"] = "vision"
    lora: int | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    eval_share: float = 0.02
    skip_mistakes: bool = False
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("epochs", 0), ("lr", 0), ("batch", 0), ("micro_batch", 0), ("max_tokens", 0)):
            if not getattr(self, name) > low:
                raise InputError(f"{name} {getattr(self, name)}: give more than {low}")
        for name in ("warmup", "eval_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: give a share from 0 to below 1")
        for name, allowed in (("freeze", ("vision", "none")), ("precision", ("auto", "bf16", "fp32"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} {getattr(self, name)}: give one of {', '.join(allowed)}")
        if self.batch % self.micro_batch:
            raise InputError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}: make it one")
        if self.lora is not None and self.lora < 1:
            raise InputError(f"lora {self.lora}: give a rank of at least 1, such as 16")


def sft(options: Options, out: str | Path, told: Told = lambda what, done, total: None) -> dict[str, Json]:
    """Train, and write the checkpoint to `out`; the record that lies beside it as train.json.

    Where `out` holds it already it is only read. Raises InputError, ModelFailed, StorageError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or torch.cuda.device_count() > 1:
        raise InputError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '1')} and {torch.cuda.device_count()} GPUs: this trains in one process on "
            "one device; start it without torchrun, with CUDA_VISIBLE_DEVICES=0"
        )
    if options.lora is not None:
        import peft  # noqa: F401  (missing, it is missed before anything is read)
    folder = Path(out)
    files_of(Path(one).expanduser() for one in options.data)  # what is wrong is said before a model is loaded
    check_free(folder)
    loaded, base = _base(options)
    ends = loaded.model.generation_config.eos_token_id
    writer = Writer(
        loaded.processor,
        ends if isinstance(ends, list) else [ends],
        min(options.max_tokens, loaded.context()),
        skip_mistakes=options.skip_mistakes,
    )
    data = gather(options.data, writer, told, limit=options.limit, eval_share=options.eval_share, seed=options.seed)
    claim = {"options": _told_options(options), "base": base, "data": data.about}
    try:
        same = {**claim, "data": {"examples_sha256": data.about["examples_sha256"]}}
        record = read_record(folder, same)
        if record is None:
            record = claim
            write_record(folder, record)
        if "finished" in record:
            return record
        with quiet():
            return _train(options, loaded, data, folder, record, told)
    except torch.OutOfMemoryError as error:
        raise ModelFailed(
            f"{options.model} does not fit on the device ({str(error)[:200]}): lower --max-tokens or --micro-batch, or train a LoRA"
        ) from error
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}; choose another folder or make room") from error


def _base(options: Options) -> tuple[Loaded, dict[str, Json]]:
    """The checkpoint to start from, in memory, and what it is."""
    source = resolve(options.model)
    bf16 = _bf16(options)
    found = load(source, device="auto", dtype="bfloat16" if bf16 and options.lora else "float32", revision=None)
    local = Path(source) if Path(source).is_dir() else snapshot(source, None, os.environ)
    return found, {"model": _name(options.model), **(identity(local, limit=None) if local else {})}


def _told_options(options: Options) -> dict[str, Json]:
    told = asdict(options)
    return {**told, "data": [_name(one) for one in options.data], "model": _name(options.model)}


def _name(given: str) -> str:
    """A hub's name as it is, of a path its end."""
    path = Path(given).expanduser()
    return path.resolve().name if path.exists() else given


def _train(
    options: Options, loaded: Loaded, data: Data, folder: Path, record: dict[str, Json], told: Told
) -> dict[str, Json]:
    set_seed(options.seed)
    model, collator, bf16 = loaded.model, Collator(loaded.processor), _bf16(options)
    if options.freeze == "vision":
        freeze_vision(model)
    if options.lora is not None:
        model = _with_lora(model, options)
    if "held_out" not in record:
        record["held_out"] = {"before": held_out_loss(model, data.held_out, collator, bf16, told)}
        write_record(folder, record)
    steps = math.ceil(math.ceil(len(data.train) / options.micro_batch) / (options.batch // options.micro_batch))
    steps = math.ceil(steps * options.epochs)
    cuda = torch.cuda.is_available()
    more: dict[str, Any] = {}
    if cuda:
        more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = TrainingArguments(
        output_dir=str(folder / _CHECKPOINTS),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.batch // options.micro_batch,
        learning_rate=options.lr,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(options.warmup * steps),
        bf16=bf16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        save_steps=max(1, steps // 10),
        save_total_limit=1,
        logging_steps=1,
        seed=options.seed,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        **more,
    )
    meter = _Meter(told, folder / STEPS)
    trainer = Trainer(
        model=model, args=arguments, data_collator=collator, train_dataset=list(data.train), callbacks=[meter],
        processing_class=loaded.processor,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(folder / _CHECKPOINTS)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    model = trainer.accelerator.unwrap_model(trainer.model)
    if options.lora is not None:
        model = model.float().merge_and_unload()
    own = AutoConfig.from_pretrained(resolve(options.model)).dtype or torch.float32
    model.to(own)
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    record["held_out"]["after"] = held_out_loss(model.float(), data.held_out, collator, bf16, told)
    record |= {
        "versions": {name: _version(name) for name in ("kernel-agent", "torch", "transformers", "accelerate", "peft")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "tokens_per_second": round(meter.share * options.epochs * data.about["tokens"] / meter.seconds, 1) if meter.seconds else None,
        "peak_memory_mb": _peak_memory_mb(),
        "finished": time.time(),
    }  # fmt: skip
    write_record(folder, record)
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
    return record


class _Meter(TrainerCallback):
    """Tells of each step, writes its loss to `file`, and keeps the time of the steps that this process made."""

    def __init__(self, told: Told, file: Path) -> None:
        self.told, self.file, self.seconds, self.share = told, file, 0.0, 0.0
        self._began, self._first = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock starts."""
        self._began, self._first = time.perf_counter(), state.global_step
        self.told("training", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step more."""
        self.seconds = time.perf_counter() - self._began
        self.share = (state.global_step - self._first) / state.max_steps
        self.told("training", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All steps anew: those after the checkpoint that a stopped training went on from are made a second time."""
        rows = [{key: row[key] for key in _LOGGED} for row in state.log_history if "loss" in row]
        part = self.file.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        part.replace(self.file)


def freeze_vision(model: Any) -> None:
    """Freeze all but the language model: the vision tower and what joins it to that. InputError where they cannot be told apart."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    kept = {id(one) for part in (decoder, head) if part is not None for one in part.parameters()}
    frozen = [one for one in model.parameters() if id(one) not in kept]
    if decoder is model or not frozen:
        raise InputError(
            f"{type(model).__name__}: its vision tower cannot be told from its language model: give --freeze none"
        )
    for one in frozen:
        one.requires_grad_(False)


def _with_lora(model: Any, options: Options) -> Any:
    from peft import LoraConfig, get_peft_model

    head = model.get_output_embeddings()
    layers = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part is not head and part.weight.requires_grad
    ]
    rank = options.lora or 0
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, task_type="CAUSAL_LM"))


@torch.inference_mode()
def held_out_loss(
    model: Any, examples: Sequence[Example], collator: Collator, bf16: bool, told: Told
) -> dict[str, float]:
    """Mean negative log-likelihood of a learned token, in nats: over all held-out runs, and over each kind."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    sums: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for number, example in enumerate(examples):
        batch = {name: value.to(device) for name, value in collator([example]).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = float(model(**batch, use_cache=False).loss)
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        for name in ("all", example.kind):
            sums[name] += loss * count
            counts[name] += count
        told("held out", number + 1, len(examples))
    model.train(training)
    return {name: round(sums[name] / counts[name], 6) for name in sorted(counts)}


def _bf16(options: Options) -> bool:
    auto = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return options.precision == "bf16" or (options.precision == "auto" and auto)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _peak_memory_mb() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated()) >> 20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
