"""`codevision eval`: a thin face on benchmarks/.

Exit codes: 0 all runs finished, 1 an error that was named, 2 wrong usage, 3 some runs failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_agent.cli.options import (
    PROTOCOL,
    BaseUrl,
    MaxTokens,
    ModelName,
    Seconds,
    Steps,
    Temperature,
    api_key,
)
from kernel_agent.cli.terminal import bar, resumable

if TYPE_CHECKING:
    from kernel_agent.benchmarks.evaluation import Evaluation, Options

HELP = """Measure a model on a benchmark: orientation, mvtool, ocrbench, chartqapro, vstar, hrbench or mvtoolbench.

[bold]Examples[/bold]

  codevision eval orientation --limit 60                                  # the embedded model, generated pictures

  codevision eval ocrbench --data OCRBench/OCRBench.json --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct

  codevision eval chartqapro --data chartqapro.parquet --transforms rot90,flip-v --controls off,direct --json scores.json

Killed and started again with the same --out it goes on where it was: nothing finished is lost or asked again. The folder has the
report (report.html, report.ipynb) and a notebook for each run; where inspect_ai is installed (kernel-agent\\[eval]) it runs the
evaluation and its logs are there too (inspect view --log-dir DIR/logs).
"""


def evaluate(
    benchmark: Annotated[str, typer.Argument(help="Which benchmark.")],
    data: Annotated[Path | None, typer.Option(help="Its file or folder; generated benchmarks need none.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of results. Default: codevision-eval-BENCHMARK here.")
    ] = None,
    json_to: Annotated[Path | None, typer.Option("--json", help="Write the scores there as JSON.")] = None,
    transforms: Annotated[
        str | None,
        typer.Option(help="all, none, or some of rot90,rot180,rot270,flip-h,flip-v. Default: the benchmark's."),
    ] = None,
    controls: Annotated[
        str,
        typer.Option(
            help="none, or some of off (one message), direct (no tools in the prompt), base (--control-model)."
        ),
    ] = "off",
    limit: Annotated[int | None, typer.Option(min=1, help="Samples; default all (generated: 300).")] = None,
    seed: Annotated[int, typer.Option(help="Of what is generated or shuffled, and of sampling.")] = 0,
    model: ModelName = None,
    base_url: BaseUrl = None,
    control_model: Annotated[str | None, typer.Option(help="Model of the control `base`.")] = None,
    control_url: Annotated[str | None, typer.Option(help="Its server; default: --base-url.")] = None,
    protocol: Annotated[str, PROTOCOL] = "native",
    at_once: Annotated[int | None, typer.Option(min=1, help="Runs in flight. Default: 64, in process 4.")] = None,
    steps: Steps = 12,
    seconds: Seconds = 600.0,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 2048,
    retries: Annotated[int, typer.Option(min=0, help="Tries again for a run that failed.")] = 1,
    judge_model: Annotated[str | None, typer.Option(help="Judge of answers that the rules count as wrong.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="The judge's server.")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Throw away what --out has.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run a benchmark and write its report."""
    started = time.perf_counter()
    with resumable():
        from kernel_agent.benchmarks import get_benchmark
        from kernel_agent.benchmarks.evaluation import Options, parse_transforms
        from kernel_agent.types import Budget, Sampling

        get_benchmark(benchmark)
        options = Options(
            benchmark=benchmark,
            data=data,
            out=out or Path(f"codevision-eval-{benchmark}"),
            transforms=parse_transforms(transforms),
            controls=_controls(controls),
            limit=limit,
            seed=seed,
            at_once=at_once or (64 if base_url else 4),
            force=force,
            model=model,
            base_url=base_url,
            api_key=api_key(),
            control_model=control_model,
            control_url=control_url,
            protocol=protocol,
            budget=Budget(steps=steps, seconds=seconds),
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
            judge=_judge(judge_model, judge_url),
        )
        failed = _run(options, json_to, started, retries=retries, quiet=quiet)
    if failed:
        print(f"{failed} runs failed and are left out; the same command tries them again.", file=sys.stderr)
        raise typer.Exit(3)


def _controls(text: str) -> Any:
    from kernel_agent.benchmarks.results import Condition
    from kernel_agent.errors import InputError

    names = [part.strip() for part in text.split(",") if part.strip()]
    if names == ["none"]:
        return ()
    known = [str(one) for one in Condition if one is not Condition.TOOLS]
    if not names or not set(names) <= set(known):
        raise InputError(f"--controls {text}: take none, or some of {', '.join(known)} with commas.")
    return tuple(dict.fromkeys(map(Condition, names)))


def _judge(model: str | None, url: str | None) -> Any:
    if model is None and url is None:
        return None
    from kernel_agent.api import choose_model
    from kernel_agent.errors import InputError

    if url is None:
        raise InputError("A judge is asked through a server: give --judge-url beside --judge-model.")
    return choose_model(model, base_url=url, api_key=os.environ.get("CODEVISION_JUDGE_KEY", ""))


def _run(options: Options, json_to: Path | None, started: float, *, retries: int, quiet: bool) -> int:
    """How many runs failed; the report is written whatever happens to the runs."""
    from kernel_agent.benchmarks.evaluation import open_evaluation

    with open_evaluation(options) as evaluation:
        problems = evaluation.loaded.problems
        for problem in problems[:20]:
            print(f"Skipped: {problem}", file=sys.stderr)
        if len(problems) > 20:
            print(f"... and {len(problems) - 20} more rows; all are in the report.", file=sys.stderr)
        try:
            if find_spec("inspect_ai") is not None:
                from kernel_agent.benchmarks import inspect_run

                display = "none" if quiet or not sys.stderr.isatty() else "rich"
                return inspect_run.run(evaluation, display=display, retries=retries)
            from kernel_agent.benchmarks import plain_run

            with bar("runs", len(evaluation.columns) * len(evaluation.samples), quiet) as progress:
                return plain_run.run(evaluation, retries=retries, progress=progress)
        finally:
            _report(evaluation, json_to, started, quiet=quiet)


def _report(evaluation: Evaluation, json_to: Path | None, started: float, *, quiet: bool) -> None:
    from kernel_agent.benchmarks import report_files

    if not evaluation.journal.done:
        return
    problems = evaluation.loaded.problems
    report = report_files.write(evaluation.out, problems)
    if json_to is not None:
        wall = time.perf_counter() - started
        report_files.write_json(report, json_to, problems, failed=evaluation.left, seconds=wall)
    if not quiet:
        for table in (report.paper_table(), report.controls(), report.effort()):
            if table.rows:
                print(table, end="\n\n")
        print(f"Report: {evaluation.out / 'report.html'}", file=sys.stderr)
