"""Every command of `codevision`, in the order that its help has."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from kernel_agent.cli import ask, audit, counterfactuals, data, doctor, eval, evidence, notebooks, score, servers, train
from kernel_agent.cli.terminal import interrupted


class _Commands(TyperGroup):
    """Ctrl-C that no command has taken ends in a line of ours; typer would say nothing, or exit with 1."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with interrupted():
            return super().make_context(*arguments, **options)

    def invoke(self, context: Any) -> Any:
        with interrupted():
            return super().invoke(context)


app = typer.Typer(
    cls=_Commands,
    help="Vision-language models that think in Python, in a Jupyter kernel; every run is a notebook.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(help=ask.HELP)(ask.ask)
app.command(help=servers.SERVE_HELP, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    servers.serve
)
app.command()(doctor.doctor)
app.command()(notebooks.recover)
app.command()(notebooks.export)
app.command(help=audit.HELP)(audit.audit)
app.command(help=counterfactuals.HELP)(counterfactuals.counterfactuals)
app.command(help=evidence.SIGN_HELP)(evidence.sign)
app.command()(evidence.bundle)
app.command()(evidence.diff)
app.command("eval", help=eval.HELP)(eval.evaluate)
app.command()(servers.endpoint)
app.command(help=score.HELP)(score.score)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")


@app.command()
def version() -> None:
    """Print the version."""
    from kernel_agent import __version__

    print(__version__)
