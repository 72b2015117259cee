"""`codevision audit`: a thin face on audit/. Exit codes: 0 all holds, 1 something fails, 2 something could not be checked."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from kernel_agent.cli.options import Isolation, Memory, Unsafe, api_key, kernel_options
from kernel_agent.cli.terminal import in_a_folder, plain

if TYPE_CHECKING:
    from kernel_agent.audit.batch import Batch
    from kernel_agent.audit.finding import Report
    from kernel_agent.audit.rerun_setup import RerunOptions
    from kernel_agent.audit.seal import Expected

HELP = """Check a saved run: its seal, its record, and its code, which is run again in a fresh isolated kernel.

[bold]Examples[/bold]

  codevision audit run.ipynb

  codevision audit run.ipynb --html report.html --json

  codevision audit run.ipynb --require-signer alice.pub

  codevision audit run.ipynb --cert-identity alice@example.org --cert-oidc-issuer https://accounts.google.com

  codevision audit runs/ --results runs-audit.jsonl --jobs 8

Exit code: 0 all holds, 1 something fails, 2 something could not be checked. No model is asked.
"""


def audit(
    target: Annotated[Path, typer.Argument(help="RUN.ipynb, a bundle (RUN.zip), or a folder of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report that anybody can open; it is inert.")] = None,
    require_signer: Annotated[
        list[str] | None,
        typer.Option(help="Fail unless this key signed: a public key file (PEM, .pub) or 64 hexadecimal digits."),
    ] = None,
    cert_identity: Annotated[
        list[str] | None,
        typer.Option(help="Fail unless this e-mail address or URI signed through Sigstore; with --cert-oidc-issuer."),
    ] = None,
    cert_oidc_issuer: Annotated[
        list[str] | None,
        typer.Option(help="Who vouched for it: URL of the identity provider. One for all, or one for each."),
    ] = None,
    staging: Annotated[
        bool, typer.Option("--staging", help="Trust Sigstore's staging instance, not the public one.")
    ] = False,
    trust_config: Annotated[
        Path | None, typer.Option(help="Trust this instance of Sigstore, not the public one: a ClientTrustConfig file.")
    ] = None,
    refresh_trust: Annotated[
        bool,
        typer.Option(
            "--refresh-trust", help="Fetch Sigstore's newest trust root first: an audit is offline otherwise."
        ),
    ] = False,
    head: Annotated[str, typer.Option(help="Fail unless the signed chain ends in this hash.")] = "",
    no_code: Annotated[bool, typer.Option("--no-code", help="Run nothing again: seal and record only.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="How far numbers in text may be apart (other CPU).")] = 0.0,
    pixel_tolerance: Annotated[int, typer.Option(min=0, max=255, help="Largest difference of a colour channel.")] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="Most seconds for one run's cells.")] = 3600.0,
    isolation: Isolation = "auto",
    unsafe_no_sandbox: Unsafe = False,
    memory: Memory = 4096,
    replay_model: Annotated[
        bool, typer.Option("--replay-model", help="Ask the model every request again, and tell where it first differs.")
    ] = False,
    base_url: Annotated[str | None, typer.Option(help="For --replay-model: its server.")] = None,
    model: Annotated[
        str | None, typer.Option(help="For --replay-model: its name or checkpoint, by default as recorded.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="For a folder: JSON lines, continued where they exist. Default: FOLDER-audit.jsonl here."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="For a folder: kernels at the same time.")] = None,
) -> None:
    """Audit a run or a folder of runs."""
    try:
        from kernel_agent.audit.keys import pinned
        from kernel_agent.audit.rerun_setup import RerunOptions
        from kernel_agent.audit.seal import Expected
        from kernel_agent.audit.sigstore_check import trust_of
        from kernel_agent.errors import CodeVisionError, InputError

        options = RerunOptions(
            tolerance=tolerance,
            pixel_tolerance=pixel_tolerance,
            # one run needs one kernel: to warm up a fork server beside it would slow its cells down
            kernel=kernel_options(isolation, unsafe_no_sandbox, memory, fork=target.is_dir()),
            unsafe=unsafe_no_sandbox,
            seconds=seconds,
            pictures=html is not None,
            code=not no_code,
        )
        expected = Expected(
            signers=tuple(pinned(key) for key in require_signer or ()),
            identities=_identities(cert_identity or [], cert_oidc_issuer or []),
            head=head.lower(),
            trust=trust_of(staging=staging, config=trust_config, refresh=refresh_trust),
        )
        in_a_folder(html)
        if not target.exists():
            raise InputError(f"{target} is not there: give a saved run (RUN.ipynb, RUN.zip) or a folder of them")
        if target.is_dir():
            if html is not None or replay_model:
                raise typer.BadParameter(
                    "--html and --replay-model are for one run: give a notebook, or leave them out."
                )
            code = _folder(target, results, options, expected, jobs, as_json)
        else:
            if results is not None or jobs is not None:
                raise typer.BadParameter("--results and --jobs are for a folder of runs: leave them out.")
            asked = (model, base_url) if replay_model else None
            code = _file(target, options, expected, asked, html, as_json)
    except KeyboardInterrupt:
        _fail("Interrupted.", as_json, 130)
    except (CodeVisionError, OSError) as error:
        _fail(str(error), as_json, 2)
    raise typer.Exit(code)


def _identities(names: list[str], issuers: list[str]) -> tuple[tuple[str, str], ...]:
    """Each identity with its issuer: anybody can be called alice by some issuer."""
    if len(issuers) not in ({1, len(names)} if names else {0}):
        raise typer.BadParameter(
            f"{len(names)} --cert-identity and {len(issuers)} --cert-oidc-issuer: give one issuer for all, or one for each,"
            " e.g. --cert-identity alice@example.org --cert-oidc-issuer https://accounts.google.com"
        )
    return tuple(zip(names, issuers * len(names) if len(issuers) == 1 else issuers, strict=True))


def _file(
    path: Path,
    options: RerunOptions,
    expected: Expected,
    asked: tuple[str | None, str | None] | None,
    page: Path | None,
    as_json: bool,
) -> int:
    from kernel_agent.audit.audit import audit_file
    from kernel_agent.blocking import run_blocking
    from kernel_agent.errors import InputError

    report, trajectory = run_blocking(audit_file(path, options, expected=expected))
    if asked is not None and trajectory is not None:
        from kernel_agent.api import is_embedded, recorded_model
        from kernel_agent.audit.exchanges import replay

        if asked == (None, None) and not is_embedded(trajectory):  # no file chooses what is loaded or who is asked
            raise InputError("--replay-model: name the model with --model, or its server with --base-url")
        live = recorded_model(trajectory, *asked, api_key=api_key())
        again = run_blocking(replay(trajectory, live))
        report = replace(report, findings=(*report.findings, *again), asked_again=True)
    if page is not None:
        from kernel_agent.audit.html import to_html

        page.write_text(to_html(report, trajectory), encoding="utf-8")
    if as_json:
        _print_json(report.as_json())
    else:
        _show(report)
    return report.exit_code


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from kernel_agent.audit.exchanges import told_again
    from kernel_agent.audit.finding import sealed
    from kernel_agent.audit.model import lines

    console = Console()
    colours = {"holds": "green", "fails": "red", "unchecked": "yellow"}
    if report.rerun is not None and report.rerun.cells:
        console.print(f"{_safe(report.name)}: run again in isolation {report.rerun.isolation}", highlight=False)
        table = Table()
        for name in ("step", "verdict", "what", "why"):
            table.add_column(name, overflow="fold")
        for cell in report.rerun.cells:
            open_ones = [item for item in cell.comparisons if not item.verdict.holds] or cell.comparisons
            colour = {True: "green", False: "red", None: "yellow"}[cell.verdict.holds]
            why = cell.why or "; ".join(item.how for item in open_ones if item.how)
            what = ", ".join(dict.fromkeys(item.what for item in open_ones))
            table.add_row(str(cell.step + 1), f"[{colour}]{cell.verdict}[/]", _safe(what), _safe(why))
        console.print(table)
        for name, (then, now) in report.rerun.environment.items():
            console.print(f"Environment: {_safe(name)} was {_safe(then)}, here {_safe(now)}", highlight=False)
    for name, told in lines(report.model) if report.model else ():
        console.print(f"{name}: {_safe(told)}", highlight=False)
    if again := told_again(report):
        console.print(f"Asked again: {again}", highlight=False)
    console.print(_safe(sealed(report)), highlight=False)
    for finding in report.findings:
        mark = f"[{colours[finding.outcome]}]{finding.outcome}[/]"
        console.print(
            f"{mark} {_safe(finding.cell)}, {_safe(finding.field)}: {_safe(finding.message)}", highlight=False
        )
    console.print(f"[{colours[report.outcome]}]{report.summary.capitalize()}.[/]")


def _folder(
    folder: Path, results: Path | None, options: RerunOptions, expected: Expected, jobs: int | None, as_json: bool
) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from kernel_agent.audit.batch import audit_folder
    from kernel_agent.blocking import run_blocking

    out = results or Path(f"{folder.resolve().name or 'root'}-audit.jsonl")
    progress = Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    task = progress.add_task("", total=None)
    with ExitStack() as shown:

        def watch(batch: Batch) -> None:
            if not (as_json or progress.live.is_started):  # not before it is known that there is something to do
                shown.enter_context(progress)
            progress.update(task, total=batch.total, completed=batch.outcomes.total())

        batch = run_blocking(audit_folder(folder, out, options, expected=expected, jobs=jobs, watch=watch))
    if as_json:
        summary = {
            "runs": batch.total,
            "skipped": batch.skipped,
            "left_out": batch.left_out,
            "outcomes": batch.outcomes,
            "cells": batch.verdicts,
        }
        _print_json(summary | {"exit_code": batch.exit_code, "results": str(out)})
    else:
        _show_batch(batch, out, options)
    return batch.exit_code


def _show_batch(batch: Batch, results: Path, options: RerunOptions) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Runs that do not hold", title_justify="left")
    for name in ("run", "outcome", "where", "what"):
        table.add_column(name, overflow="fold")
    for line in batch.worst:
        first = next(iter(line["findings"]), {"cell": "", "field": "", "message": ""})
        colour = "red" if line["outcome"] == "fails" else "yellow"
        where = f"{first['cell']}, {first['field']}"
        table.add_row(
            _safe(line["path"]), f"[{colour}]{line['outcome']}[/]", _safe(where), _safe(first["message"][:300])
        )
    if batch.worst:
        console.print(table)
    told = ", ".join(f"{count} {name}" for name, count in sorted(batch.outcomes.items()))
    cells = ", ".join(f"{count} {name}" for name, count in batch.verdicts.most_common())
    console.print(
        f"{batch.total} runs ({batch.skipped} from earlier results): {told}. Cells: {cells or 'none'}.", highlight=False
    )
    if not options.code:
        console.print("No code was run again.")
    if batch.left_out:
        console.print(f"Not looked at: {batch.left_out} links or hidden names.", highlight=False)
    console.print(f"Results: {_safe(str(results))}", highlight=False)


def _fail(message: str, as_json: bool, code: int) -> NoReturn:
    """The audit itself could not be made: that is "could not be checked"."""
    if as_json:
        _print_json({"exit_code": code, "error": message})
    else:
        print(f"codevision: {plain(message)}", file=sys.stderr)
    raise typer.Exit(code)


def _print_json(value: object) -> None:
    """As one line, names and texts that UTF-8 cannot hold too; numbers that JSON has not (NaN) are text."""
    from kernel_agent.trajectory.codec import text

    finite = json.loads(json.dumps(value), parse_constant=str)
    print(text(json.dumps(finite, ensure_ascii=False)))


def _safe(text: str) -> str:
    """Text of a record as one line, so that it looks like none of ours. Nothing is taken away: what would steer the terminal, hide
    text or turn it around is a replacement character."""
    from rich.markup import escape

    from kernel_agent.audit.said import HIDDEN

    return escape(HIDDEN.sub("\ufffd", " ".join(text.splitlines())))
