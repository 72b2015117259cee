"""The `codevision` command. A thin face: it reads arguments and environment, calls the package, prints.

Exit codes: 0 answered, 1 an error that was named, 2 wrong usage, 3 ended without an answer, 130 interrupted.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kernel_agent import cli_audit, cli_counterfactuals, cli_data, cli_eval, cli_evidence, cli_score

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory

app = typer.Typer(
    help="Vision-language models that think in Python, in a Jupyter kernel; every run is a notebook.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


class JpegFor(StrEnum):
    """What is encoded with loss."""

    VIEW = "view"
    NOTEBOOK = "notebook"
    BOTH = "both"


ASK_HELP = """Ask a question about images.

[bold]Examples[/bold]

  codevision ask "What is written on the label?" photo.jpg

  codevision ask "Which is larger?" a.png b.png --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct -o run.ipynb

  codevision ask --continue run.ipynb "and the date below it?"

Without --base-url or --model the small embedded model answers: it reads one short line of text, and nothing else.
"""


@app.command(help=ASK_HELP)
def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to find out.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Image files, data: URIs, or http(s) URLs with --allow-http.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Notebook to write. Default: codevision-DATE-TIME.ipynb here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing notebook.")] = False,
    continue_from: Annotated[
        Path | None, typer.Option("--continue", help="Go on from this notebook: same images, same history.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.", envvar="CODEVISION_BASE_URL"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name on the server, or a checkpoint folder.", envvar="CODEVISION_MODEL")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How the model writes code: native, openai, fenced, pyvision, deepeyes, thyme.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most model calls.")] = 12,
    seconds: Annotated[float, typer.Option(min=1, help="Most seconds in all.")] = 600.0,
    cell_seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds a cell.")] = 60.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens a message.")] = 2048,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Sampling seed.")] = 0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest image taken, in pixels.")] = 100_000_000,
    view_pixels: Annotated[int | None, typer.Option(min=1, help="Largest view shown to the model, in pixels.")] = None,
    jpeg: Annotated[
        JpegFor | None,
        typer.Option(help="Lossy JPEG for what cells show: in the model's view, in the notebook, or in both."),
    ] = None,
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Fetch http(s) image URLs.")] = False,
    isolation: Annotated[
        str,
        typer.Option(
            help="Least isolation of the kernel: strong, medium, container; auto is the best that works here.",
            envvar="CODEVISION_ISOLATION",
        ),
    ] = "auto",
    namespaces: Annotated[
        str, typer.Option(help="Who makes the namespaces of strong: own, bubblewrap; auto is whoever can.")
    ] = "auto",
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="Run the model's code with your own rights.")
    ] = False,
    memory: Annotated[int, typer.Option(min=256, help="Memory of the kernel and its processes, in MiB.")] = 4096,
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
            "api_key": os.environ.get("CODEVISION_API_KEY") or None,
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


def _kernel(context: typer.Context, isolation: str, namespaces: Any, unsafe: bool, memory: int) -> Any:
    """How the kernel is started where the user said anything of it; None leaves it to the package."""
    from kernel_agent.types import Isolation, KernelOptions

    given = [context.get_parameter_source(name) for name in ("isolation", "namespaces", "unsafe_no_sandbox", "memory")]
    if all(source is None or source.name == "DEFAULT" for source in given):
        return None
    levels = ("auto", *(level for level in Isolation if level is not Isolation.NONE))
    if isolation not in levels:
        _usage(f"--isolation {isolation}: give {', '.join(levels)}, or --unsafe-no-sandbox for none at all.")
    if namespaces not in ("auto", "own", "bubblewrap"):
        _usage(f"--namespaces {namespaces}: give auto, own or bubblewrap.")
    if unsafe and isolation != "auto":
        _usage(f"--isolation {isolation} and --unsafe-no-sandbox contradict each other: give one of them.")
    level: Any = Isolation.NONE if unsafe else isolation if isolation == "auto" else Isolation(isolation)
    return KernelOptions(isolation=level, namespaces=namespaces, memory_mb=memory)


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
            print(_safe(str(trajectory.answer)))
        else:
            print(f"No answer: the run ended by {trajectory.stop_reason}.", file=sys.stderr)
        if not quiet:
            print(f"Notebook: {_shown(trajectory.path)}", file=sys.stderr)
    if not answered:
        raise typer.Exit(3)


def _safe(text: str) -> str:
    """What a model wrote, without codes that would steer the terminal."""
    from kernel_agent.session.outputs import clean_text

    return clean_text(text)


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
        print(f"codevision: {_safe(message)}", file=sys.stderr)
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


@app.command(
    help="Start a vLLM server for a checkpoint with the flags this agent needs, wait until it answers, print its URL.\n\n"
    "[bold]Examples[/bold]\n\n  codevision serve Qwen/Qwen3-VL-8B-Instruct\n\n"
    "  codevision serve embedded --port 8000\n\n  codevision serve ./checkpoint -- --max-model-len 32768",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(
    context: typer.Context,
    checkpoint: Annotated[
        str, typer.Argument(help='Folder or hub name; "embedded" for the model that ships with this package.')
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: a free one.")] = None,
    python: Annotated[str | None, typer.Option(help="Interpreter of the environment that has vLLM.")] = None,
) -> None:
    """Serve until Ctrl-C."""
    from kernel_agent.errors import CodeVisionError
    from kernel_agent.models import serve as run

    try:
        run(checkpoint, host=host, port=port, python=python, extra_args=context.args)
    except CodeVisionError as error:
        print(f"codevision: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def doctor(
    base_url: Annotated[
        str | None, typer.Option(help="A model server to try as well.", envvar="CODEVISION_BASE_URL")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Say what works on this machine, and how to mend what does not."""
    from dataclasses import asdict

    from kernel_agent.doctor import checks

    found = checks(base_url=base_url)
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
    else:
        from rich.console import Console

        console = Console()
        marks = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[yellow]--  [/]"}
        for check in found:
            console.print(f"{marks[check.ok]} [bold]{check.name}[/]: ", end="")
            console.print(check.detail, markup=False, highlight=False)
            if check.remedy and check.ok is not True:
                console.print(f"       {check.remedy}", markup=False, highlight=False)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


@app.command()
def recover(notebook: Annotated[Path, typer.Argument(help="RUN.ipynb of a run that crashed.")]) -> None:
    """Rebuild a notebook from the journal beside it after a crash. Loses at most the step in flight."""
    from kernel_agent.errors import CodeVisionError
    from kernel_agent.trajectory import recover as rebuild

    try:
        trajectory = rebuild(notebook)
    except CodeVisionError as error:
        print(f"codevision: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{notebook}: {len(trajectory.steps)} steps, ended by {trajectory.stop_reason}.")


@app.command()
def export(
    notebook: Annotated[Path, typer.Argument(help="A saved run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Notebook to write.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing notebook.")] = False,
) -> None:
    """Write a self-contained copy: it re-runs anywhere with only Pillow and NumPy."""
    from kernel_agent.errors import CodeVisionError
    from kernel_agent.trajectory import Trajectory
    from kernel_agent.trajectory.export import write_self_contained

    try:
        if output.exists() and not force:
            _usage(f"{output} exists: choose another name or add --force.")
        write_self_contained(Trajectory.load(notebook), output)
    except CodeVisionError as error:
        print(f"codevision: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(output)


app.command(help=cli_audit.HELP)(cli_audit.audit)
app.command(help=cli_counterfactuals.HELP)(cli_counterfactuals.counterfactuals)
app.command()(cli_evidence.sign)
app.command()(cli_evidence.bundle)
app.command()(cli_evidence.diff)


@app.command()
def version() -> None:
    """Print the version."""
    from kernel_agent import __version__

    print(__version__)


cli_eval.add_to(app)
app.add_typer(cli_data.app, name="data")
cli_score.add_to(app)


def main() -> None:
    """Entry point of the `codevision` command. SIGTERM ends a run as Ctrl-C does: notebook whole, no process left."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
