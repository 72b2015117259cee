"""`codevision train`: thin faces on train/. Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_agent.cli.terminal import bar, needs, plain, resumable
from kernel_agent.cli.train_grpo import HELP as GRPO_HELP
from kernel_agent.cli.train_grpo import grpo

if TYPE_CHECKING:
    from kernel_agent.train.sft import Options

app = typer.Typer(
    help="Train a checkpoint: by imitation of runs, by reinforcement on tasks.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

SFT_HELP = """Fine-tune a checkpoint on supervised runs, with the loss on what the assistant wrote alone.

--data is a folder of `codevision data sft`, the JSON of CodeVision-SFT, or notebooks of runs (a file, a folder); it may be given again.
The defaults are the paper's; vision tower and projector are frozen, as in its released configuration.

[bold]Examples[/bold]

  codevision train sft --data sft --model Qwen/Qwen3-VL-8B-Instruct --lora 64 --lr 1e-4 --out tuned

  codevision train sft --data sft --model embedded --batch 16 --lr 1e-4 --out tuned && codevision ask "..." photo.jpg --model tuned

The folder is a checkpoint; train.json beside the weights says what it was made of, with the held-out loss before and after.
Stopped, the same command goes on. Needs pip install 'kernel-agent\\[train]'.
"""


@app.command(help=SFT_HELP)
def sft(
    data: Annotated[list[Path], typer.Option(help="Runs: DIR, FILE.json or RUN.ipynb. May be given again.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder, hub name, or embedded.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    epochs: Annotated[float, typer.Option(help="Times over the runs.")] = 2,
    lr: Annotated[float, typer.Option(help="Highest learning rate; cosine decay to 0.")] = 5e-6,
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 128,
    micro_batch: Annotated[int, typer.Option(help="Of these, at once in memory.")] = 1,
    warmup: Annotated[float, typer.Option(help="Share of the steps.")] = 0.05,
    max_tokens: Annotated[
        int, typer.Option(help="Longest example; a run is cut before the step that goes beyond.")
    ] = 32_768,
    freeze: Annotated[str, typer.Option(help="vision (with the projector), or none.")] = "vision",
    lora: Annotated[int | None, typer.Option(help="Rank of low-rank adapters, merged in the end.")] = None,
    precision: Annotated[str, typer.Option(help="bf16, fp32; auto is bf16 on a GPU that can.")] = "auto",
    eval_share: Annotated[float, typer.Option(help="Of each kind of run, held out.")] = 0.02,
    skip_mistakes: Annotated[bool, typer.Option(help="Learn nothing from messages that went wrong.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of order and split.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many runs.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Fine-tune on runs."""
    with resumable(), needs("train"):
        from kernel_agent.train.sft import Options
        from kernel_agent.train.sft import sft as train

        options = Options(data=tuple(map(str, data)), model=model, epochs=epochs, lr=lr, batch=batch, micro_batch=micro_batch,
                          warmup=warmup, max_tokens=max_tokens, freeze=freeze, lora=lora, precision=precision,  # type: ignore[arg-type]
                          eval_share=eval_share, skip_mistakes=skip_mistakes, seed=seed, limit=limit)  # fmt: skip
        with Bars(quiet) as told:
            record = train(options, out, told)
    _say(options, out, record, quiet)


app.command(help=GRPO_HELP)(grpo)


class Bars(contextlib.ExitStack):
    """A bar for each thing that is told of."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.quiet, self.what = quiet, ""
        self._shown: Callable[[int], None] = lambda done: None

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `train.dataset.Told`."""
        if what != self.what:
            self.close()
            self.what, self._shown = what, self.enter_context(bar(what, total, self.quiet))
        self._shown(done)


def _say(options: Options, out: Path, record: dict[str, Any], quiet: bool) -> None:
    data, loss = record["data"], record["held_out"]
    for line in data["left_out"][:10]:
        print(f"Left out {plain(line)}", file=sys.stderr)
    if len(data["left_out"]) > 10:
        print(f"... and {len(data['left_out']) - 10} more, in {out / 'train.json'}", file=sys.stderr)
    if quiet:
        return
    print(f"{out}: trained on {data['examples']} examples of {data['runs'] - data['held_out_runs']} runs")
    for kind, after in loss["after"].items():
        print(f"  held-out loss, {plain(kind)}: {loss['before'][kind]:.4f} before, {after:.4f} after")
