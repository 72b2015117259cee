"""The runs of one process: the live ones, and the notebooks in their folder.

Guarantees: a run's id never becomes a path; at most `idle_kernels` idle runs keep their kernel (the rest start one again when
they are asked on); beyond `max_live` runs the idle ones are closed, oldest first; the key goes to no server but the default one. Does not guarantee that a live run outlives its process: then its notebook remains.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_agent.api import choose_model, taken_up
from kernel_agent.blocking import background_loop, run_blocking
from kernel_agent.conversation import check_question
from kernel_agent.errors import LiveError, NoSuchRun
from kernel_agent.live.history import Saved, saved_runs
from kernel_agent.live.options import RunOptions
from kernel_agent.live.run import LiveRun, RunState, described
from kernel_agent.notices import Watch
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import Json, KernelOptions

if TYPE_CHECKING:
    from kernel_agent.models import Model

ID = re.compile(r"[0-9a-f]{32}")


class Runs:
    """Starts, opens, lists and keeps runs. Its methods may be called from any thread but the background loop's.

    Args:
        folder: where notebooks are written as runs go on and history is read from; None keeps runs in memory only.
        defaults: options of runs that say nothing else.
        kernel: how kernels come to life.
        choose: the model for (model, base_url); by default `api.choose_model` with `api_key`.
        api_key: of the server that `defaults` name.
        idle_kernels: how many runs whose turn is over keep their kernel.
        max_live: how many runs are kept.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        defaults: RunOptions = RunOptions(),
        kernel: KernelOptions = KernelOptions(),
        choose: Callable[[str | None, str | None], Model] | None = None,
        api_key: str | None = None,
        idle_kernels: int = 4,
        max_live: int = 32,
    ) -> None:
        self.folder, self.defaults, self.kernel, self.idle_kernels = folder, defaults, kernel, idle_kernels
        self.max_live = max_live
        self._choose = choose or self._choose_model
        self._api_key = api_key
        self._models: dict[tuple[str | None, str | None], asyncio.Future[Model]] = {}
        self._live: dict[str, LiveRun] = {}
        self._saved: dict[Path, Saved] = {}

    # ------------------------------------------------------------------ starting

    def start(
        self,
        question: str,
        images: Sequence[Any],
        options: RunOptions = RunOptions(),
        *,
        save_to: str | Path | None = None,
        force: bool = False,
        watch: Watch | None = None,
    ) -> LiveRun:
        """A new run, on its way.

        Args:
            save_to: notebook to write it to instead of one in the folder; `force` replaces an existing one.
            watch: see `LiveRun`.

        Before anything is asked it raises InputError, ImageError, ModelError, KernelError, StorageError, and LiveError where
        `max_live` runs are at work.
        """
        check_question(question)
        run = run_blocking(self._new(images, options, save_to, force, watch))
        run.do("ask", question=question)
        return run

    async def _new(
        self, images: Sequence[Any], options: RunOptions, save_to: str | Path | None, force: bool, watch: Watch | None
    ) -> LiveRun:
        options = options.over(self.defaults)
        await self._make_room()
        agent = await asyncio.to_thread(options.agent, await self._model(options), self.kernel)
        conversation = await asyncio.to_thread(agent.converse, tuple(images), save_to=save_to, force=force)
        if save_to is None:
            self.record(conversation.trajectory)
        approve, by = options.approve_each, options.by
        return self.add(LiveRun(agent, conversation, self, approve_each=approve, by=by, watch=watch))

    def open(self, path: Path, options: RunOptions = RunOptions()) -> LiveRun:
        """A saved run, idle: it shows its steps, and can be asked on. The live one, where it is live."""
        return run_blocking(self._open(path, options))

    async def _open(self, path: Path, options: RunOptions) -> LiveRun:
        trajectory = await asyncio.to_thread(Trajectory.load, path)
        if (live := self._live.get(trajectory.run_id)) is not None:
            return live
        await self._make_room()
        recorded = trajectory.model
        server = recorded.get("base_url") if recorded.get("kind") == "openai" else None
        own = "embedded" if recorded.get("embedded") else recorded.get("model")
        theirs = RunOptions(model=own, base_url=server, protocol=trajectory.header.get("protocol"))
        options = options.over(theirs.over(self.defaults) if own and self._may_use(server) else self.defaults)
        agent = await asyncio.to_thread(options.agent, await self._model(options), self.kernel)
        conversation = taken_up(agent, trajectory)
        trajectory._recorded = True  # further turns go into its notebook
        branch = trajectory.header.get("branch_of")
        parent = (str(branch.get("run")), branch.get("steps", 0)) if isinstance(branch, dict) else None
        return self.add(
            LiveRun(agent, conversation, self, parent=parent, approve_each=options.approve_each, by=options.by)
        )

    def _may_use(self, server: str | None) -> bool:
        """A notebook must not choose whom our key and images are sent to."""
        return server is None or server == self.defaults.base_url

    async def _model(self, options: RunOptions) -> Model:
        """The options' model, loaded once for all who ask, also at once; one that could not be had is tried again."""
        key = (options.model, options.base_url)
        if key not in self._models:
            self._models[key] = loading = asyncio.ensure_future(asyncio.to_thread(self._choose, *key))
            loading.add_done_callback(lambda done: done.exception() and self._models.pop(key, None))
        return await asyncio.shield(self._models[key])  # a caller that is cancelled leaves it to the others

    def _choose_model(self, model: str | None, base_url: str | None) -> Model:
        ours = base_url == self.defaults.base_url
        return choose_model(model, base_url=base_url, api_key=self._api_key if ours else "")  # "": none at all

    # ------------------------------------------------------------------ keeping

    def record(self, trajectory: Trajectory) -> None:
        """Write the run to a new notebook of the folder, from now on. StorageError."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            stamp = time.strftime("%Y%m%d-%H%M%S")
            trajectory.record_to(self.folder / f"codevision-{stamp}-{trajectory.run_id[:8]}.ipynb")

    def add(self, run: LiveRun) -> LiveRun:
        """Keep a run until it is closed; returns the one that is kept, where two opened it at once."""
        return self._live.setdefault(run.id, run)

    async def _make_room(self) -> None:
        """Close idle runs, the oldest first, until there is room for one more."""
        while len(self._live) >= self.max_live:
            idle = self._idle()
            if not idle:
                raise LiveError(f"{self.max_live} runs are at work: wait for one, or stop one")
            await asyncio.wrap_future(idle[0].submit("close"))

    def _idle(self) -> list[LiveRun]:
        idle = [run for run in self._live.values() if run.state is RunState.IDLE]
        return sorted(idle, key=lambda run: run.since)

    def forget(self, run: LiveRun) -> None:
        """The run is closed."""
        self._live.pop(run.id, None)

    def get(self, run_id: str) -> LiveRun:
        """The live run of this id, or the saved one of the folder, opened. NoSuchRun where there is none."""
        if not isinstance(run_id, str) or not ID.fullmatch(run_id):
            raise NoSuchRun(f"{run_id!r:.60} is no id of a run: an id is 32 hexadecimal digits")
        if (live := self._live.get(run_id)) is not None:
            return live
        for saved in self._history():
            if saved.id == run_id:
                return self.open(saved.path)
        raise NoSuchRun(f"there is no run {run_id}: it was closed without a notebook, or its notebook is gone")

    def live(self) -> list[LiveRun]:
        """The runs that are not closed, newest last."""
        return list(self._live.values())

    def listed(self, search: str = "", limit: int = 100) -> list[Json]:
        """Live and saved runs, newest first, whose questions or answers hold `search` (in any case)."""
        live = self.live()  # once: runs come and go meanwhile
        lines = {run.id: described(run) for run in live}
        words = {
            run.id: " ".join(f"{turn.question} {turn.answer or ''}" for turn in run.trajectory.turns) for run in live
        }
        for saved in self._history():
            if saved.id not in lines:
                lines[saved.id], words[saved.id] = saved.line(), saved.words
        found = [line for key, line in lines.items() if search.casefold() in words[key].casefold()]
        return sorted(found, key=lambda line: line["started"] or 0.0, reverse=True)[:limit]

    def _history(self) -> list[Saved]:
        if self.folder is None or not self.folder.is_dir():
            return []
        self._saved = saved_runs(self.folder, self._saved)
        return list(self._saved.values())

    async def spare_kernels(self) -> None:
        """Stop the kernels of idle runs beyond `idle_kernels`, those that ended first."""
        for run in self._idle()[: -self.idle_kernels or None]:
            await run.release()

    def close(self) -> None:
        """Stop every run and its kernel; notebooks stay."""
        for run in self.live():
            run.do("close")
        models, self._models = list(self._models.values()), {}
        for model in models:
            closing = asyncio.run_coroutine_threadsafe(_let_go(model), background_loop())
            if model.done():
                closing.result(10)


async def _let_go(model: asyncio.Future[Model]) -> None:
    await (await model).aclose()
