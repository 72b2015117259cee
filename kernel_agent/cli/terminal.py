"""What every command says in the same way: errors that have a name, interrupts, text of others, progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer


@contextlib.contextmanager
def named(*more: type[Exception]) -> Iterator[None]:
    """An error of ours, or one of `more`, is one line and exit code 1."""
    from kernel_agent.errors import CodeVisionError

    kinds: tuple[type[Exception], ...] = (CodeVisionError, *more)
    try:
        yield
    except kinds as error:
        print(f"codevision: {plain(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def interrupted(then: str = "") -> Iterator[None]:
    """Ctrl-C is one line, with `then` at its end, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("codevision: Interrupted." + then, file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """`named` and `interrupted`, of work that the same command takes up again; what is not installed has a name too."""
    with interrupted(" The same command goes on where it was."), named(ImportError):
        yield


def in_a_folder(path: Path | None) -> None:
    """InputError where there is no folder for a file that is to be written when the work is done."""
    from kernel_agent.errors import InputError

    if path is not None and not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}: make it, or write to another place")


def plain(text: str) -> str:
    """What a model or a file says, without codes that would steer the terminal."""
    from kernel_agent.session.outputs import clean_text

    return clean_text(text)


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Where a package is missing: the extra that brings it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}: this needs more packages: pip install 'kernel-agent[{extra}]'") from error


@contextlib.contextmanager
def bar(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
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
