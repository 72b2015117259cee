"""An evaluation: samples, columns, agents, and the folder that what they give is kept in. Knows nothing of inspect_ai.

    DIR/results.jsonl               settings, then one line a finished run
    DIR/runs/tools-rot90/ID.ipynb   its trajectory
    DIR/images/                     pictures that came inside a data file

`Evaluation.run` gives one sample's result in one column: the kept one where it is finished, else by running the agent. Runs
share one pool of kernels on `kernel_agent.blocking`'s loop, so that any caller's loop may wait for them. A run that a
model or a kernel failed is not finished: the failure is raised, nothing is kept, and the next evaluation tries it again.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kernel_agent.agent import Agent
from kernel_agent.benchmarks import get_benchmark
from kernel_agent.benchmarks.base import Benchmark, Loaded, Sample, spool
from kernel_agent.benchmarks.direct import Direct
from kernel_agent.benchmarks.results import NAME, Column, Condition, Journal, Result, effort, transform_name
from kernel_agent.blocking import background_loop, run_blocking
from kernel_agent.errors import InputError
from kernel_agent.models.faults import shown_url
from kernel_agent.rewards import Judge
from kernel_agent.session import KernelPool
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.released import Picture, as_pil
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Budget, Json, KernelOptions, Sampling, Task

if TYPE_CHECKING:
    from kernel_agent.models import Model


@dataclass(frozen=True, kw_only=True)
class Options:
    """What an evaluation is made of.

    Attributes:
        data: file or folder; None for what is generated.
        out: folder of the results.
        transforms: columns; the upright image is `Orientation.UPRIGHT`. None for the benchmark's default.
        controls: conditions beside the tools.
        limit: samples; None for all.
        at_once: runs in flight, and kernels.
        force: throw away what `out` has.
        model, base_url, api_key: as `kernel_agent.api.choose_model` takes them; `control_*` are those of BASE. A
            server of its own is sent no key.
        judge: a server's model that judges what the rules count as wrong; None for the rules alone.
    """

    benchmark: str
    out: Path
    data: Path | None = None
    transforms: tuple[Orientation, ...] | None = None
    controls: tuple[Condition, ...] = (Condition.OFF,)
    limit: int | None = None
    seed: int = 0
    at_once: int = 32
    force: bool = False
    model: str | Model | None = None
    base_url: str | None = None
    api_key: str | None = None
    control_model: str | Model | None = None
    control_url: str | None = None
    protocol: str = "native"
    budget: Budget = Budget()
    sampling: Sampling = Sampling()
    kernel: KernelOptions = KernelOptions()
    judge: Model | None = None


class Evaluation:
    """Made by `open_evaluation`; close it, or use it as a context manager."""

    def __init__(
        self,
        benchmark: Benchmark,
        loaded: Loaded,
        *,
        out: Path,
        agents: Mapping[Condition, Agent],
        transforms: Sequence[Orientation],
        settings: Mapping[str, Json],
        at_once: int,
        pool: KernelPool,
        judge: Model | None = None,
    ) -> None:
        self.benchmark, self.loaded, self.out, self.settings = benchmark, loaded, out, settings
        self.agents, self.at_once = agents, at_once
        self._judge = None if judge is None else Judge(judge)
        self._models = {id(model): model for model in (judge, *(agent.model for agent in agents.values())) if model}
        self.columns = tuple(Column(condition=c, transform=t) for c in agents for t in transforms)
        self.samples = {sample.id: sample for sample in loaded.samples}
        self.journal = Journal(out, settings)
        self._pool = pool
        self._gate = asyncio.Semaphore(at_once)

    @property
    def left(self) -> int:
        """Runs that are not finished yet."""
        return sum((column.name, sample) not in self.journal.done for column in self.columns for sample in self.samples)

    async def run(self, column: Column, sample: Sample) -> tuple[Result, Trajectory | None]:
        """One result, and the trajectory where it was run now. From any event loop.

        Raises ModelError or KernelError where the run failed, InputError for a picture that cannot be decoded.
        """
        done = self.journal.done.get((column.name, sample.id))
        if done is not None:
            return done, None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._run(column, sample), background_loop()))

    async def _run(self, column: Column, sample: Sample) -> tuple[Result, Trajectory]:
        async with self._gate:
            notebook = self.out / "runs" / column.name.replace("/", "-") / f"{file_name(sample.id)}.ipynb"
            notebook.parent.mkdir(parents=True, exist_ok=True)
            images = await asyncio.to_thread(turned, sample.images, column.transform)
            task = Task(question=self.benchmark.prompt(sample), images=images, id=sample.id)
            trajectory = await self.agents[column.condition].arun(task, save_to=notebook, force=True)
            if trajectory.failure is not None:
                raise trajectory.failure
            answer = trajectory.answer
            score, judged = self.benchmark.score(sample, answer), None
            if self._judge is not None and score < 1 and answer is not None:
                truths = sample.gold if isinstance(sample.gold, list) else [sample.gold]
                verdict = await self._judge.acompare(sample.question, truths, answer)
                score, judged = max(score, float(verdict.correct)), verdict.transcript
            result = Result(
                sample=sample.id,
                column=column.name,
                score=score,
                answer=answer,
                gold=sample.gold,
                question=sample.question,
                stop_reason=str(trajectory.stop_reason),
                category=sample.category,
                meta=sample.meta,
                notebook=str(notebook.relative_to(self.out)),
                judged=judged,
                **effort(trajectory),
            )
            self.journal.add(result)
            return result, trajectory

    async def _close(self) -> None:
        await self._pool.aclose()
        for model in self._models.values():
            await model.aclose()

    def close(self) -> None:
        """End the kernels, release the models, let others write to the folder."""
        run_blocking(self._close())
        self.journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_evaluation(options: Options) -> Evaluation:
    """Load the data, choose the models, open the folder. Raises InputError, StorageError, KernelError, ModelError."""
    benchmark = get_benchmark(options.benchmark)
    transforms = options.transforms
    if transforms is None:
        transforms = tuple(Orientation) if benchmark.TURNED else (Orientation.UPRIGHT,)
    if Condition.BASE in options.controls and options.control_model is None and options.control_url is None:
        raise InputError("The control `base` is another model: name it with --control-model (and --control-url).")
    if options.force:
        for part in (options.out / NAME, options.out / "runs"):
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    keep = spool(options.out / "images")
    loaded = benchmark.load(options.data, limit=options.limit, seed=options.seed, keep=keep)
    if not loaded.samples:
        first = f" The first problem: {loaded.problems[0]}" if loaded.problems else ""
        raise InputError(f"{options.data or options.benchmark} gave no sample that can be used.{first}")
    pool = KernelPool(options.at_once, kernel=options.kernel)
    return Evaluation(
        benchmark,
        loaded,
        out=options.out,
        agents=_agents(options, pool),
        transforms=transforms,
        settings=_settings(options),
        at_once=options.at_once,
        pool=pool,
        judge=options.judge,
    )


def _agents(options: Options, pool: KernelPool) -> dict[Condition, Agent]:
    from kernel_agent.api import choose_model

    model = choose_model(options.model, base_url=options.base_url, api_key=options.api_key)
    shared: dict[str, Any] = {"sampling": options.sampling, "kernel": options.kernel, "pool": pool}
    agents = {Condition.TOOLS: Agent(model, protocol=options.protocol, budget=options.budget, **shared)}
    one_message = Budget(**{**asdict(options.budget), "steps": 1})
    # two steps, so that nobody is told that the first message is the last one of a run with code
    direct = Budget(**{**asdict(options.budget), "steps": 2})
    for control in options.controls:
        if control is Condition.OFF:
            agents[control] = Agent(model, protocol=options.protocol, budget=one_message, **shared)
        elif control is Condition.DIRECT:
            agents[control] = Agent(model, protocol=Direct(), budget=direct, **shared)
        elif control is Condition.BASE:
            url = options.control_url or options.base_url
            key = "" if options.control_url else options.api_key
            base = choose_model(options.control_model, base_url=url, api_key=key)
            agents[control] = Agent(base, protocol=Direct(), budget=direct, **shared)
    return agents


def _settings(options: Options) -> dict[str, Json]:
    """What results must agree in to stand in one table; how many there are, of which columns, may grow."""

    def named(model: str | Model | None) -> str | None:
        return model if isinstance(model, str | None) else model.name

    return {
        "benchmark": options.benchmark,
        "data": str(options.data.resolve()) if options.data else None,
        "seed": options.seed,
        "model": named(options.model) or ("embedded" if options.base_url is None else None),
        "base_url": shown_url(options.base_url) if options.base_url else None,
        "control_model": named(options.control_model),
        "judge": options.judge.name if options.judge else None,
        "protocol": options.protocol,
        "budget": asdict(options.budget),
        "sampling": asdict(options.sampling),
    }


def turned(images: Sequence[Picture], transform: Orientation) -> tuple[Any, ...]:
    """The images under a transform, lossless; upright ones are handed on as they are."""
    if transform is Orientation.UPRIGHT:
        return tuple(images)
    out: list[bytes] = []
    for picture in images:
        file = io.BytesIO()
        try:
            transform.apply(as_pil(picture)).save(file, "PNG", compress_level=1)
        except (OSError, ValueError, SyntaxError) as error:
            where = picture if isinstance(picture, Path) else f"{len(picture)} bytes"
            raise InputError(f"The picture ({where}) cannot be decoded ({error}): mend the data file.") from error
        out.append(file.getvalue())
    return tuple(out)


def file_name(sample: str) -> str:
    """A file name for a sample: its id where that can be one, else with a hash so that no two meet."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", sample).lstrip(".")[:80]
    return name if name == sample else f"{name}-{hashlib.sha256(sample.encode()).hexdigest()[:8]}"


def parse_transforms(text: str | None) -> tuple[Orientation, ...] | None:
    """`all`, `none`, or names with commas ("rot90,flip-v"); the source comes first whatever is said. InputError."""
    if text is None:
        return None
    if text in ("all", "none"):
        return tuple(Orientation) if text == "all" else (Orientation.UPRIGHT,)
    by_name = {transform_name(one): one for one in Orientation}
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise InputError(f"--transforms {text}: take all, none, or some of {', '.join(by_name)} with commas.")
    return tuple(dict.fromkeys([Orientation.UPRIGHT, *(by_name[name] for name in names)]))
