"""`codevision serve` and `codevision endpoint`: a model behind an address, and the whole agent behind one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from kernel_agent.cli.options import PROTOCOL, BaseUrl, ModelName, Seconds, Steps, api_key
from kernel_agent.cli.terminal import named

SERVE_HELP = """Start a vLLM server for a checkpoint with the flags this agent needs, wait until it answers, print its URL.

[bold]Examples[/bold]

  codevision serve Qwen/Qwen3-VL-8B-Instruct

  codevision serve embedded --port 8000

  codevision serve ./checkpoint -- --max-model-len 32768
"""


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
    from kernel_agent.models import serve as run

    with named():
        run(checkpoint, host=host, port=port, python=python, extra_args=context.args)


def endpoint(
    model: ModelName = None,
    base_url: BaseUrl = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is a free one.")] = 8100,
    name: Annotated[str | None, typer.Option(help="Name of the model as clients see it.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Runs in flight; more wait.")] = 32,
    waiting: Annotated[int, typer.Option(min=0, help="Most requests that wait; more get 429.")] = 256,
    protocol: Annotated[str, PROTOCOL] = "native",
    steps: Steps = 12,
    seconds: Seconds = 600.0,
    save: Annotated[Path | None, typer.Option(help="Folder to keep each run's notebook in.")] = None,
) -> None:
    """An OpenAI-compatible server that runs the whole agent and returns the bare final answer.

    Clients send POST /v1/chat/completions with images, as to any model; with CODEVISION_ENDPOINT_KEY set they must send it.
    """
    with named(ImportError, OSError):
        try:
            from kernel_agent.endpoint import EndpointOptions, serve
        except ImportError as error:
            raise ImportError("The endpoint needs starlette and uvicorn: pip install 'kernel-agent[eval]'.") from error
        from kernel_agent.types import Budget

        serve(
            EndpointOptions(
                model=model,
                base_url=base_url,
                api_key=api_key(),
                client_key=os.environ.get("CODEVISION_ENDPOINT_KEY") or None,
                name=name,
                at_once=at_once,
                waiting=waiting,
                protocol=protocol,
                budget=Budget(steps=steps, seconds=seconds),
                save=save,
            ),
            host=host,
            port=port,
        )
