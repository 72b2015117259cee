"""`codevision data`: thin faces on tasks/.

Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 130 interrupted (the same command goes on where it was).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kernel_agent.cli.options import PROTOCOL, api_key
from kernel_agent.cli.terminal import bar, resumable

app = typer.Typer(help="Make and filter tasks and training data.", no_args_is_help=True, rich_markup_mode="rich")

GENERATE_HELP = """Draw pictures with questions whose answers, boxes and reading order are exactly known.

[bold]Kinds[/bold]: mvtool (turned, and small enough to need a crop), page, receipt, sign, label, table, chart, dial, geometry,
reading (one code; what the embedded model can read).

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
    with resumable():
        from kernel_agent.tasks.generate import Series
        from kernel_agent.tasks.generated_folder import write_dataset
        from kernel_agent.tasks.typefaces import Split

        series, part = _member(Series, "--kind", kind), _member(Split, "--split", split)
        damage = tuple(_corruption(text, seed) for text in corrupt or ())
        with bar("drawing", n, quiet) as progress:
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
    with resumable():
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
        with bar("asking", n, quiet) as progress:
            built = build(read, opener, out, n, seed, source=source, progress=progress)
    for name, reason in built.left_out[:10]:
        print(f"Left out {name}: {reason}", file=sys.stderr)
    if len(built.left_out) > 10:
        print(f"... and {len(built.left_out) - 10} more", file=sys.stderr)
    _say(f"{built.count} tasks in {out}", quiet)


SFT_HELP = """Write supervised runs: single tool, multi tool, multi crop, error and recovery, no tool.

Without --tasks they are about generated pictures and a program is the teacher. With --tasks and a server a model is. Every run
is made by the agent in a real kernel; a step that does not give the picture it should drops the run, with the reason.

[bold]Examples[/bold]

  codevision data sft --n 500 --out sft

  codevision data sft --tasks mvtool-train --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-32B-Instruct --out sft

The folder holds sft.jsonl in the form of CodeVision-SFT, images/ and dropped.jsonl. Stopped, the same command goes on.
"""


@app.command(help=SFT_HELP)
def sft(
    out: Out,
    n: Annotated[int, typer.Option(min=1, help="How many runs are kept.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same generated runs.")] = 0,
    tasks: Annotated[Path | None, typer.Option(help="A folder of tasks with ground truth, for a model.")] = None,
    model: Annotated[str | None, typer.Option(help="Name on the server.", envvar="CODEVISION_MODEL")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server of the teacher.", envvar="CODEVISION_BASE_URL")
    ] = None,
    tries: Annotated[int, typer.Option(min=1, help="Runs of a model before its lesson is dropped.")] = 2,
    at_once: Annotated[int, typer.Option(min=1, help="Runs in flight, and kernels.")] = 4,
    notebooks: Annotated[bool, typer.Option(help="Keep every run's notebook under runs/.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write supervised runs."""
    with resumable():
        from kernel_agent.blocking import run_blocking
        from kernel_agent.teacher import sft_folder

        source = sft_folder.generated(seed) if tasks is None else _asked(tasks, model, base_url, seed, tries)
        total = n if source.size is None else min(n, source.size)
        with bar("teaching", total, quiet) as progress:

            async def teach() -> sft_folder.Written:
                from kernel_agent.session import KernelPool

                async with KernelPool(at_once) as pool:
                    return await sft_folder.write_sft(out, source, n, pool, notebooks=notebooks, progress=progress)

            written = run_blocking(teach())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(written.shapes.items()))
    _say(f"{written.count} runs in {out} ({kinds}); {written.dropped} dropped", quiet)


def _asked(tasks: Path, model: str | None, base_url: str | None, seed: int, tries: int) -> Any:
    from kernel_agent.api import choose_model
    from kernel_agent.errors import InputError
    from kernel_agent.tasks.dataset import read_tasks
    from kernel_agent.teacher.sft_folder import Asked

    if base_url is None:
        raise InputError("--tasks wants a model as the teacher: give --base-url, and --model where it serves several")
    teacher = choose_model(model, base_url=base_url, api_key=api_key())
    return Asked(tasks=tuple(read_tasks(tasks)), model=teacher, seed=seed, tries=tries, data=str(tasks.resolve()))


FILTER_HELP = """Leave out duplicates, pictures that a test set has, and tasks that are too easy or too hard for a model.

[bold]Example[/bold]

  codevision data filter mvtool-train --out clean --against mvtool-test --against ocrbench:OCRBench/OCRBench.json \\
      --rollouts 8 --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-8B-Instruct

The new folder's tasks.jsonl names the pictures where they lie; left_out.jsonl says what was left out and why.
"""


@app.command("filter", help=FILTER_HELP)
def filter_tasks(
    data: Annotated[Path, typer.Argument(help="A folder of tasks.")],
    out: Out,
    against: Annotated[
        list[str] | None, typer.Option(help="A folder of pictures or tasks, or BENCHMARK:PATH. May be given again.")
    ] = None,
    keep_duplicates: Annotated[bool, typer.Option(help="Keep tasks that come twice.")] = False,
    rollouts: Annotated[int, typer.Option(min=0, help="Runs a task; all right or all wrong is left out. 0: none.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Whose rollouts; default the embedded model.", envvar="CODEVISION_MODEL")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible server of it.", envvar="CODEVISION_BASE_URL")
    ] = None,
    protocol: Annotated[str, PROTOCOL] = "native",
    at_once: Annotated[int, typer.Option(min=1, help="Runs in flight, and kernels.")] = 8,
    quiet: Quiet = False,
) -> None:
    """Leave tasks out."""
    import json

    with resumable():
        from kernel_agent.tasks import filters
        from kernel_agent.tasks.dataset import TASKS, read_tasks, write_tasks

        tasks = list(read_tasks(data))
        _fresh(out, data)
        with bar("hashing", len(tasks), quiet) as progress:
            known = filters.hashes(tasks, progress)
        left_out = {} if keep_duplicates else filters.duplicates(tasks, known)
        for place in against or ():
            found = filters.contaminated(known, _test_pictures(place))
            left_out.update({task: reason for task, reason in found.items() if task not in left_out})
        if rollouts:
            rest = [task for task in tasks if task.id not in left_out]
            left_out |= filters.one_sided(_rollouts(rest, rollouts, out, model, base_url, protocol, at_once, quiet))
        reasons = [
            json.dumps({"task": task, "reason": reason}, ensure_ascii=False) for task, reason in left_out.items()
        ]
        (out / "left_out.jsonl").write_text("".join(line + "\n" for line in reasons), encoding="utf-8")
        kept = write_tasks(out / TASKS, (task for task in tasks if task.id not in left_out))
    _say(f"{kept} tasks in {out}; {len(left_out)} left out", quiet)


def _fresh(out: Path, data: Path) -> None:
    from kernel_agent.errors import InputError, StorageError
    from kernel_agent.tasks.dataset import TASKS

    if (out / TASKS).exists():
        raise InputError(f"{out} holds a dataset already: give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error.strerror}; choose another folder") from error


def _test_pictures(place: str) -> dict[str, Any]:
    """Hashes of the pictures at a folder or BENCHMARK:PATH, by name."""
    from kernel_agent.benchmarks import NAMES, get_benchmark
    from kernel_agent.tasks import filters
    from kernel_agent.tasks.image_hash import turned
    from kernel_agent.tasks.released import as_pil

    name, _, path = place.partition(":")
    if name not in NAMES or not path:
        return {str(file): filters.hash_of(file) for file in filters.pictures(place)}
    samples = get_benchmark(name).load(Path(path)).samples
    return {f"{name} {one.id}": turned(as_pil(picture)) for one in samples for picture in one.images}


def _rollouts(
    tasks: Any, count: int, out: Path, model: str | None, base_url: str | None, protocol: str, at_once: int, quiet: bool
) -> dict[str, list[bool]]:
    from kernel_agent.api import choose_model
    from kernel_agent.blocking import run_blocking
    from kernel_agent.session import KernelPool
    from kernel_agent.teacher import difficulty

    asked = choose_model(model, base_url=base_url, api_key=api_key())
    with bar("rollouts", count * len(tasks), quiet) as progress:

        async def run() -> dict[str, list[bool]]:
            async with KernelPool(at_once) as pool:
                file = out / "rollouts.jsonl"
                return await difficulty.rollouts(tasks, asked, count, file, pool, protocol=protocol, progress=progress)

        return run_blocking(run())


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


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text)
