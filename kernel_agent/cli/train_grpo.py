"""`codevision train grpo`: a thin face on train/grpo.py. Exit codes as those of `codevision data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kernel_agent.cli.options import Isolation, Memory, Unsafe, kernel_options
from kernel_agent.cli.terminal import needs, resumable

HELP = """Train a checkpoint by reinforcement: rollouts in real kernels, rewards from what happened (GRPO, through TRL).

[bold]Examples[/bold]

  codevision train grpo --tasks mvtool-train --model Qwen/Qwen3-VL-8B-Instruct --out run --lora 64 --vllm-base-url http://127.0.0.1:8000

  codevision train grpo --tasks reading --model embedded --out run --batch 4 --rollouts 4 --micro-batch 4 --kl 0

--tasks is a folder of `codevision data generate`, or CodeVision-RL's parquet files. The folder `run` gets train.json, steps.jsonl,
rollouts.jsonl, checkpoints/ and, at the end, model/. Stopped, the same command goes on. Needs kernel-agent\\[train].
"""


def grpo(
    tasks: Annotated[Path, typer.Option(help="Folder of generated tasks, or CodeVision-RL's parquet file or folder.")],
    model: Annotated[str, typer.Option(help="Checkpoint: a folder, a hub name, or embedded.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    rewards: Annotated[str, typer.Option(help="default, paper or reference.")] = "default",
    rollouts: Annotated[int, typer.Option(min=2, help="Rollouts a task.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Tasks an update.")] = 64,
    micro_batch: Annotated[int, typer.Option(min=1, help="Rollouts in one forward pass of a process.")] = 1,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-6,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the tasks.")] = 1.0,
    updates: Annotated[int | None, typer.Option(min=1, help="Most updates.")] = None,
    clip_low: Annotated[float, typer.Option(min=0, help="Clip of the ratio, downwards.")] = 0.2,
    clip_high: Annotated[float, typer.Option(min=0, help="Clip of the ratio, upwards.")] = 0.28,
    kl: Annotated[
        float, typer.Option(min=0, help="Weight of the divergence from the checkpoint; 0 needs no copy of it.")
    ] = 0.001,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of sampling.")] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps (messages) a rollout.")] = 12,
    turn_tokens: Annotated[int, typer.Option(min=1, help="Tokens a message.")] = 2048,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens a rollout, reports included.")] = 16_384,
    cell_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds a cell.")] = 60.0,
    kernels: Annotated[
        int | None, typer.Option(min=1, help="Kernels at a time; default one a rollout of a batch.")
    ] = None,
    isolation: Isolation = "auto",
    unsafe: Unsafe = False,
    memory: Memory = 4096,
    vllm_base_url: Annotated[
        str | None, typer.Option(help="Server started with `trl vllm-serve`; default: transformers.")
    ] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="Rank of low-rank adapters; default all weights.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the trained weights.")] = "float32",
    limit: Annotated[int | None, typer.Option(min=1, help="Most tasks.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between checkpoints.")] = 20,
    save_rollouts: Annotated[Path | None, typer.Option(help="Folder for rollouts as notebooks.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Updates between saved rollouts.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of order and sampling.")] = 0,
) -> None:
    """Train by reinforcement."""
    with resumable(), needs("train"):
        from kernel_agent.errors import InputError
        from kernel_agent.rewards import Rewards
        from kernel_agent.train.grpo import GRPO, train_grpo

        try:
            chosen = Rewards(rewards)
        except ValueError:
            raise InputError(f"--rewards {rewards}: give one of {', '.join(Rewards)}") from None
        options = GRPO(
            rewards=chosen,
            rollouts=rollouts,
            batch=batch,
            micro_batch=micro_batch,
            lr=lr,
            epochs=epochs,
            updates=updates,
            clip_low=clip_low,
            clip_high=clip_high,
            kl=kl,
            temperature=temperature,
            messages=steps,
            turn_tokens=turn_tokens,
            tokens=tokens,
            cell_seconds=cell_seconds,
            kernels=kernels,
            kernel=kernel_options(isolation, unsafe, memory),
            vllm=vllm_base_url,
            lora=lora,
            limit=limit,
            dtype=dtype,
            save_every=save_every,
            seed=seed,
        )
        trained = train_grpo(
            tasks,
            model,
            out,
            options,
            save_rollouts=save_rollouts,
            every=every,
            tell=lambda text: print(text, file=sys.stderr),
        )
    print(trained)
