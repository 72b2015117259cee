"""`codevision ask`: one question to its answer. Exit codes: as in the package's docstring."""

from __future__ import annotations

import json
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kernel_agent.cli.options import (
    PROTOCOL,
    BaseUrl,
    Force,
    Isolation,
    MaxTokens,
    Memory,
    ModelName,
    Seconds,
    Steps,
    Temperature,
    Unsafe,
    api_key,
    kernel_options,
)
from kernel_agent.cli.terminal import plain

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory
    from kernel_agent.types import KernelOptions


class JpegFor(StrEnum):
    """What is encoded with loss."""

    VIEW = "view"
    NOTEBOOK = "notebook"
    BOTH = "both"


HELP = """Ask a question about images.

[bold]Examples[/bold]

  codevision ask "What is written on the label?" photo.jpg

  codevision ask "Which is larger?" a.png b.png --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct -o run.ipynb

  codevision ask --continue run.ipynb "and the date below it?"

Without --base-url or --model the small embedded model answers: it reads one short line of text, and nothing else.
"""


def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to find out.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Image files, data: URIs, or http(s) URLs with --allow-http.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Notebook to write. Default: codevision-DATE-TIME.ipynb here.")
    ] = None,
    force: Force = False,
    continue_from: Annotated[
        Path | None, typer.Option("--continue", help="Go on from this notebook: same images, same history.")
    ] = None,
    base_url: BaseUrl = None,
    model: ModelName = None,
    protocol: Annotated[str | None, PROTOCOL] = None,
    steps: Steps = 12,
    seconds: Seconds = 600.0,
    cell_seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds a cell.")] = 60.0,
    max_tokens: MaxTokens = 2048,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option(help="Sampling seed.")] = 0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest image taken, in pixels.")] = 100_000_000,
    view_pixels: Annotated[int | None, typer.Option(min=1, help="Largest view shown to the model, in pixels.")] = None,
    jpeg: Annotated[
        JpegFor | None,
        typer.Option(help="Lossy JPEG for what cells show: in the model's view, in the notebook, or in both."),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Fetch http(s) image URLs.")] = False,
    isolation: Isolation = "auto",
    namespaces: Annotated[
        str, typer.Option(help="Who makes the namespaces of strong: own, bubblewrap; auto is whoever can.")
    ] = "auto",
    unsafe_no_sandbox: Unsafe = False,
    memory: Memory = 4096,
    self_contained: Annotated[
        bool,
        typer.Option(
            "--self-contained", help="Afterwards rewrite the notebook so that it re-runs with only Pillow and NumPy."
        ),
    ] = False,
    sign: Annotated[
        bool | None,
        typer.Option(
            "--sign/--no-sign", help="Sign the notebook with your key; by default where you have one (codevision sign)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of progress.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the answer.")] = False,
) -> None:
    """Run one question to its answer."""
    started = time.perf_counter()
    path = continue_from if continue_from and output is None else output or _default_path()
    trajectory: Trajectory | None = None
    try:
        from kernel_agent import api
        from kernel_agent.audit.signing import own_signer
        from kernel_agent.errors import CodeVisionError, InputError
        from kernel_agent.progress import Progress
        from kernel_agent.trajectory import Trajectory

        given = {
            "base_url": base_url,
            "model": model,
            "protocol": protocol,
            "api_key": api_key(),
            "watch": None if as_json or quiet else Progress(),
            "signer": own_signer(sign),
            "kernel": _kernel(context, isolation, namespaces, unsafe_no_sandbox, memory),
            **_limits(context, view_pixels, jpeg),
        }
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if continue_from is None:
            if not images:
                _usage('Give at least one image, e.g.: codevision ask "What is written here?" photo.jpg')
            options["allow_http"] = allow_http
            trajectory = api.ask(question, *images, save_to=path, force=force, **options)
        else:
            if images:
                _usage("--continue goes on with the notebook's own images: leave the image arguments out.")
            force = force or path == continue_from
            loaded = Trajectory.load(continue_from)
            trajectory = api.continue_trajectory(loaded, question, save_to=path, force=force, **options)
        if self_contained:
            from kernel_agent.trajectory.export import write_self_contained

            write_self_contained(trajectory, path)
        if sign and trajectory.unsigned:
            raise InputError(f"{_shown(trajectory.path)} is not signed: {trajectory.unsigned}")
    except KeyboardInterrupt as interrupt:
        _fail(interrupt, "Interrupted.", started, as_json, code=130)
    except (CodeVisionError, ValueError, OSError) as error:
        _fail(error, str(error), started, as_json)
    _report(trajectory, started, as_json=as_json, quiet=quiet)


def _kernel(context: typer.Context, isolation: str, namespaces: str, unsafe: bool, memory: int) -> KernelOptions | None:
    """How the kernel is started where the user said anything of it; None leaves it to the package."""
    given = [context.get_parameter_source(name) for name in ("isolation", "namespaces", "unsafe_no_sandbox", "memory")]
    if all(source is None or source.name == "DEFAULT" for source in given):
        return None
    if namespaces not in ("auto", "own", "bubblewrap"):
        _usage(f"--namespaces {namespaces}: give auto, own or bubblewrap.")
    return kernel_options(isolation, unsafe, memory, namespaces=namespaces)


def _limits(context: typer.Context, view_pixels: int | None, jpeg: JpegFor | None) -> dict[str, Any]:
    """Budget, sampling, bounds and encoding as far as the user gave their options; the rest is left to the package."""
    from kernel_agent.session.images import ViewBounds
    from kernel_agent.types import Budget, ImageEncoding, Sampling

    def chosen(*names: str) -> dict[str, Any]:
        sources = {name: context.get_parameter_source(name) for name in names}
        return {n: context.params[n] for n, source in sources.items() if source and source.name != "DEFAULT"}

    limits: dict[str, Any] = chosen("max_pixels")
    if budget := chosen("steps", "seconds", "cell_seconds"):
        limits["budget"] = Budget(**budget)
    if sampling := chosen("temperature", "seed", "max_tokens"):
        limits["sampling"] = Sampling(**sampling)
    if view_pixels is not None:
        limits["bounds"] = ViewBounds(max_pixels=view_pixels)
    if jpeg is not None:
        in_notebook, in_view = jpeg is not JpegFor.VIEW, jpeg is not JpegFor.NOTEBOOK
        limits["encoding"] = ImageEncoding(notebook="jpeg" if in_notebook else "png", view="jpeg" if in_view else "png")
    return limits


def _report(trajectory: Trajectory, started: float, *, as_json: bool, quiet: bool) -> None:
    answered = trajectory.answer is not None
    if as_json:
        print(json.dumps(_summary(trajectory, started), ensure_ascii=False))
    else:
        if answered:
            print(plain(str(trajectory.answer)))
        else:
            print(f"No answer: the run ended by {trajectory.stop_reason}.", file=sys.stderr)
        if not quiet:
            signed = " (signed)" if trajectory.signer is not None and not trajectory.unsigned else ""
            print(f"Notebook: {_shown(trajectory.path)}{signed}", file=sys.stderr)
    if not answered:
        raise typer.Exit(3)


def _shown(path: Path | None) -> str | None:
    """A path as the user would write it here."""
    if path is None:
        return None
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _summary(trajectory: Trajectory | None, started: float) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "answer": None,
        "notebook": None,
        "steps": 0,
        "stop_reason": None,
        "isolation": "not started",
        "seconds": round(time.perf_counter() - started, 3),
        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
    }
    if trajectory is not None:
        usage = trajectory.usage
        summary |= {
            "answer": trajectory.answer,
            "notebook": _shown(trajectory.path),
            "steps": len(trajectory.steps),
            "stop_reason": str(trajectory.stop_reason) if trajectory.stop_reason else None,
            "isolation": trajectory.isolation,
            "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        }
    return summary


def _fail(error: BaseException, message: str, started: float, as_json: bool, *, code: int = 1) -> NoReturn:
    """Say what went wrong and where the work done by then is."""
    trajectory: Trajectory | None = getattr(error, "trajectory", None)
    if as_json:
        told = {"type": type(error).__name__, "message": message}
        print(json.dumps({**_summary(trajectory, started), "error": told}, ensure_ascii=False))
    else:
        print(f"codevision: {plain(message)}", file=sys.stderr)
        if trajectory is not None and trajectory.path is not None:
            path = _shown(trajectory.path)
            if trajectory.path.with_suffix(".codevision").exists():
                print(f"What was done by then comes back with: codevision recover {path}", file=sys.stderr)
            else:
                print(f"What was done by then is in {path}.", file=sys.stderr)
    raise typer.Exit(code)


def _usage(message: str) -> NoReturn:
    raise typer.BadParameter(message)


def _default_path() -> Path:
    return Path(f"{time.strftime('codevision-%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}.ipynb")
