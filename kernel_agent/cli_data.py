"""`codevision data`: thin faces on tasks/.

Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 130 interrupted (the same command goes on where it was).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Make and filter tasks and training data.", no_args_is_help=True, rich_markup_mode="rich")

GENERATE_HELP = """Draw pictures with questions whose answers, boxes and reading order are exactly known.

[bold]Kinds[/bold]: mvtool (turned, and small enough to need a crop), page, receipt, sign, label, table, chart, dial, geometry.

[bold]Example[/bold]: codevision data generate --kind mvtool --n 1000 --seed 3 --out mvtool-train

The folder holds tasks.jsonl, annotations.jsonl (HierText's schema) and images/. Stopped, the same command goes on.
"""

Out = Annotated[Path, typer.Option(help="Folder to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command(help=GENERATE_HELP)
def generate(
    out: Out,
    kind: Annotated[str, typer.Option(help="What to draw; see above.")] = "mvtool",
    n: Annotated[int, typer.Option(min=1, help="How many tasks.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same tasks.")] = 0,
    split: Annotated[str, typer.Option(help="train, or test: typefaces that training never sees.")] = "train",
    corrupt: Annotated[
        list[str] | None,
        typer.Option(
            help="KIND[:SEVERITY], may be given again: skew, perspective, blur, noise, jpeg, low-light, low-contrast, occlusion; 1 to 5."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one a core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Draw tasks."""
    with _named():
        from kernel_agent.tasks.generate import Series
        from kernel_agent.tasks.generated_folder import write_dataset
        from kernel_agent.tasks.typefaces import Split

        series, part = _member(Series, "--kind", kind), _member(Split, "--split", split)
        damage = tuple(_corruption(text, seed) for text in corrupt or ())
        with _bar("drawing", n, quiet) as progress:
            drawn = write_dataset(
                out, series, n, seed, split=part, corruptions=damage, workers=workers, progress=progress
            )
    _say(f"{n} tasks in {out}" + (f", {n - drawn} of them from before" if drawn < n else ""), quiet)


@app.command()
def questions(
    annotations: Annotated[
        Path, typer.Argument(help="HierText's annotation file (unpacked JSON), or a folder of generated tasks.")
    ],
    out: Out,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures named after their image id.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Most tasks, one a picture.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same questions.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Questions in the manner of MVToolBench about annotated pictures: each needs an orientation and a crop."""
    with _named():
        from kernel_agent.errors import InputError
        from kernel_agent.tasks.annotation import read_hiertext
        from kernel_agent.tasks.generated_folder import ANNOTATIONS
        from kernel_agent.tasks.mvtool_builder import build, pictures_in, pictures_of

        if annotations.is_dir():
            read, opener, source = read_hiertext(annotations / ANNOTATIONS), pictures_of(annotations), "generator"
        elif images is None:
            raise InputError("--images is missing: give the folder of the pictures beside an annotation file")
        else:
            read, opener, source = read_hiertext(annotations), pictures_in(images), "hiertext"
        with _bar("asking", n, quiet) as progress:
            built = build(read, opener, out, n, seed, source=source, progress=progress)
    for name, reason in built.left_out[:10]:
        print(f"Left out {name}: {reason}", file=sys.stderr)
    if len(built.left_out) > 10:
        print(f"... and {len(built.left_out) - 10} more", file=sys.stderr)
    _say(f"{built.count} tasks in {out}", quiet)


def _corruption(text: str, seed: int) -> Any:
    from kernel_agent.errors import InputError
    from kernel_agent.tasks.ground_truth import Corruption, CorruptionKind

    name, _, severity = text.partition(":")
    if severity and not severity.isdigit():
        raise InputError(f"--corrupt {text}: give KIND or KIND:SEVERITY, severity 1 to 5")
    return Corruption(kind=_member(CorruptionKind, "--corrupt", name), severity=int(severity or 3), seed=seed)


def _member(kind: Any, option: str, value: str) -> Any:
    from kernel_agent.errors import InputError

    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{option} {value}: give one of {', '.join(kind)}") from None


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Errors of ours are one line and exit code 1; Ctrl-C is 130."""
    from kernel_agent.errors import CodeVisionError

    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where it was.", file=sys.stderr)
        raise typer.Exit(130) from None
    except (CodeVisionError, ImportError) as error:
        print(f"codevision: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def _bar(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; a line at each tenth where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if quiet:
        yield lambda done: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as shown:
            task = shown.add_task(what, total=total)
            yield lambda done: shown.update(task, completed=done)
    else:
        told = -1

        def tell(done: int) -> None:
            nonlocal told
            if 10 * done // total > told:
                told = 10 * done // total
                print(f"{what} {done}/{total}", file=sys.stderr, flush=True)

        yield tell


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text)


def api_key() -> str | None:
    """The key of the model's server, from the environment."""
    return os.environ.get("CODEVISION_API_KEY") or None
