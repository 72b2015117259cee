"""The magics themselves: arguments in, a run started and waited for, its Trajectory out."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from kernel_agent.api import choose_model
from kernel_agent.errors import CodeVisionError, InputError
from kernel_agent.live import LiveRun, RunOptions, Runs
from kernel_agent.live.run import RunState
from kernel_agent.magic import arguments, completion
from kernel_agent.magic.comms import POLL_SECONDS, Comms
from kernel_agent.magic.defaults import Defaults
from kernel_agent.magic.variables import resolve
from kernel_agent.trajectory import Trajectory

if TYPE_CHECKING:
    from kernel_agent.magic.view import RunView


class RunStopped(KeyboardInterrupt):
    """Ctrl-C: the cell ends, and with it what waits behind it; the run is whole and can be asked on."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory
        super().__init__(f'stopped after {len(trajectory.steps)} steps; %codevision --continue "..." goes on')

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@magics_class
class CodeVisionMagics(Magics):
    """`%codevision`, `%%codevision` and `%codevision_config`.

    Attributes:
        runs: the runs of this notebook.
        last: the run that `--continue` goes on with.
    """

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        model, server = os.environ.get("CODEVISION_MODEL") or None, os.environ.get("CODEVISION_BASE_URL") or None
        self.defaults = Defaults(options=RunOptions(model=model, base_url=server))
        # whoever types the address chooses who gets CODEVISION_API_KEY: here that is the notebook's owner
        self.runs = Runs(None, choose=lambda model, base_url: choose_model(model, base_url=base_url))
        self.last: LiveRun | None = None
        self._shown: RunView | None = None  # by the cell that runs now

    @no_var_expand
    @line_cell_magic
    @arguments.of_a_run
    def codevision(self, line: str, cell: str | None = None) -> Trajectory | None:
        """Ask a vision-language model about images; it answers by running Python in a kernel of its own.

        %codevision "What is written on the label?" photo.jpg
        %codevision "Which bar is tallest?" fig --steps 8 --to t
        %codevision --continue "and the second tallest?"

        An image is a file, or a variable with a picture: a PIL image, an array, a matplotlib figure, a list of those. Without
        one the last output is taken. Returns the Trajectory.
        """
        try:
            return self._ask(arguments.parsed(self.codevision, line), cell)
        except CodeVisionError as error:
            raise UsageError(str(error)) from None

    @no_var_expand
    @line_magic
    @arguments.of_the_defaults
    def codevision_config(self, line: str) -> None:
        """Show or set the defaults of %codevision: %codevision_config --model ... --base-url ... --steps 8"""
        try:
            given = arguments.parsed(self.codevision_config, line)
            if given.reset:
                self.defaults = Defaults()
            if values := arguments.values(given):
                self.defaults.set(values, given.profile)
        except CodeVisionError as error:
            raise UsageError(str(error)) from None
        print(self.defaults)

    def _ask(self, given: Any, cell: str | None) -> Trajectory | None:
        words = [arguments.unquoted(word) for word in given.words]
        question = cell.strip() if cell is not None else words.pop(0) if words else ""
        if not question:
            raise InputError('give a question: %codevision "What is written here?" photo.jpg')
        if given.to is not None and not given.to.isidentifier():
            raise InputError(f"--to {given.to}: that is no name for a variable")
        values, notebook = arguments.values(given), getattr(self.shell, "kernel", None) is not None
        if given.go_on:
            run = self._asked_on(question, words, values, given)
        else:
            options = self.defaults.merged(RunOptions.from_json(values), given.profile)
            images = resolve(words or self._last_output(), self.shell.user_ns)
            watch = None if given.quiet or notebook else _progress()
            run = self.runs.start(question, images, options, save_to=given.save, force=given.force, watch=watch)
        self._give(run, given.to)
        view = self._show(run) if notebook and not given.quiet else None
        if not given.background:
            try:
                run = self._wait(run, view)
            finally:
                if view is not None:
                    view.flush()
                    run = view.run
                self._give(run, given.to)
            if run.trajectory.failure is not None:
                raise run.trajectory.failure
        return run.trajectory if given.to is None else None

    def _asked_on(self, question: str, words: list[str], values: Mapping[str, Any], given: Any) -> LiveRun:
        run = self.last
        if run is None or run.state is RunState.CLOSED:
            raise InputError("there is no run to continue: ask a first question with an image")
        if words or values or given.profile:
            raise InputError("--continue goes on with the same images, model and limits: leave out images and options")
        if given.save is not None:
            run.trajectory.record_to(given.save, force=given.force)
        run.do("ask", question=question)
        return run

    def _last_output(self) -> list[str]:
        last = self.shell.user_ns.get("_")
        if last is None or isinstance(last, (str, bytes)):
            raise InputError("give at least one image: a file, or a variable that holds a picture")
        return ["_"]

    def _show(self, run: LiveRun) -> RunView:
        """Put the live view under the cell."""
        from IPython.display import display

        from kernel_agent.magic.view import RunView

        view = RunView(run)
        display(view)
        self._shown = view
        return view

    def leave_static(self, result: Any) -> None:
        """After a cell: what stays of a live view in the saved notebook, unless the cell's result shows it already."""
        from IPython.display import display

        view, self._shown = self._shown, None
        if view is not None and result.result is not view.run.trajectory:
            display(view.run.trajectory)

    def _wait(self, run: LiveRun, view: RunView | None) -> LiveRun:
        """Until the turn is over, of the run or of the branch that the view has gone over to. Ctrl-C stops it."""
        with Comms(self.shell) as comms:
            try:
                while True:
                    run = view.run if view is not None else run
                    over = run.state in (RunState.IDLE, RunState.CLOSED)
                    if over and not (view is not None and view.busy):
                        run.wait()
                        return run
                    comms.poll()
                    time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                run.do("stop")
                raise RunStopped(run.trajectory) from None

    def _give(self, run: LiveRun, name: str | None) -> None:
        self.last = run
        if name is not None:
            self.shell.user_ns[name] = run.trajectory


def load(shell: Any) -> CodeVisionMagics:
    """Register the magics and their completion with a shell."""
    magics = CodeVisionMagics(shell)
    shell.register_magics(magics)
    completion.install(shell, option_names())
    shell.events.register("post_run_cell", magics.leave_static)
    atexit.register(magics.runs.close)
    return magics


def unload(shell: Any) -> None:
    """Stop the runs and take the magics away."""
    magics = shell.magics_manager.registry.pop(CodeVisionMagics.__name__, None)
    if magics is not None:
        for kind in shell.magics_manager.magics.values():
            for name in ("codevision", "codevision_config"):
                kind.pop(name, None)
        completion.remove(shell)
        shell.events.unregister("post_run_cell", magics.leave_static)
        atexit.unregister(magics.runs.close)
        magics.runs.close()


def option_names() -> list[str]:
    """The options of `%codevision`."""
    parser: Any = getattr(CodeVisionMagics.codevision, "parser")  # noqa: B009 - the decorator put it there
    return sorted(flag for action in parser._actions for flag in action.option_strings if flag.startswith("--"))


def _progress() -> Any:
    from rich.console import Console

    from kernel_agent.progress import Progress

    return Progress(Console(file=sys.stderr))
