"""Options that several commands have, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kernel_agent.types import KernelOptions

BaseUrl = Annotated[
    str | None,
    typer.Option(help="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.", envvar="CODEVISION_BASE_URL"),
]
ModelName = Annotated[
    str | None, typer.Option(help="Model name on the server, or a checkpoint folder.", envvar="CODEVISION_MODEL")
]
PROTOCOL = typer.Option(help="How the model writes code: native, openai, fenced, pyvision, deepeyes, thyme.")
Steps = Annotated[int, typer.Option(min=1, help="Most model calls a question.")]
Seconds = Annotated[float, typer.Option(min=1, help="Most seconds a question.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens a message.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
Isolation = Annotated[
    str,
    typer.Option(
        help="Least isolation of the kernel: strong, medium, container; auto is the best that works here.",
        envvar="CODEVISION_ISOLATION",
    ),
]
Unsafe = Annotated[bool, typer.Option("--unsafe-no-sandbox", help="Run the code with your own rights.")]
Memory = Annotated[int, typer.Option(min=256, help="Memory of the kernel and its processes, in MiB.")]
SavedRun = Annotated[Path, typer.Argument(help="RUN.ipynb of a saved run.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")]
OneObject = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def api_key() -> str | None:
    """The key of the model's server, from the environment."""
    return os.environ.get("CODEVISION_API_KEY") or None


def kernel_options(isolation: str, unsafe: bool, memory: int, **more: Any) -> KernelOptions:
    """How a kernel is started with `Isolation`, `Unsafe` and `Memory`; BadParameter where they are no such thing."""
    from kernel_agent.types import Isolation, KernelOptions

    levels = ("auto", *(level for level in Isolation if level is not Isolation.NONE))
    if isolation not in levels:
        raise typer.BadParameter(f"--isolation {isolation}: give {', '.join(levels)}, or --unsafe-no-sandbox for none.")
    if unsafe and isolation != "auto":
        raise typer.BadParameter(f"--isolation {isolation} and --unsafe-no-sandbox contradict each other: give one.")
    level: Any = Isolation.NONE if unsafe else isolation if isolation == "auto" else Isolation(isolation)
    return KernelOptions(isolation=level, memory_mb=memory, **more)
