"""The live view of a run in a notebook: an anywidget, fed by the run's events (live/events.py), steering it by commands.

The page asks for what it lacks, so a second view of the same output and a reloaded page get all of it; pictures are sent when the
page asks for them. What must survive in the saved notebook is not here: `Trajectory._repr_html_` stands beside it, and is
hidden only where the live view is on screen.

Page to kernel: {type: follow, run, after}, {type: image, run, index}, {type: command, run, command, arguments}, {type: show, run}.
Kernel to page: {type: runs, current, runs}, {type: events, run, events}, with `after` where it answers `follow` (a page takes no
others before), {type: image, run, index, mime} with the bytes as its buffer, {type: problem, message}. Code comes as tokens [[class, text], ...] beside the text, made by Pygments.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anywidget

from kernel_agent.blocking import background_loop
from kernel_agent.errors import CodeVisionError, LiveError
from kernel_agent.live import LiveRun
from kernel_agent.live.log import Entry
from kernel_agent.live.run import COMMANDS
from kernel_agent.types import Json

BATCH_SECONDS = 0.03
"""How long events are gathered before they are sent together."""

_STATIC = Path(__file__).parent / "static"


class RunView(anywidget.AnyWidget):
    """A run and its branches on screen.

    Attributes:
        run: the run that is shown: the first one, or the branch that a command made and the page went over to.
        runs: all of them, by id.
    """

    _esm = _STATIC / "view.js"
    _css = _STATIC / "view.css"

    def __init__(self, run: LiveRun) -> None:
        super().__init__()
        self.run = run
        self.runs: dict[str, LiveRun] = {}
        self._commands: set[object] = set()  # something for each that is being carried out
        self._stops: list[Any] = []
        self._waiting: dict[str, list[Entry]] = {}
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._add(run)
        self.on_msg(self._take)

    def __repr__(self) -> str:
        return f"live view of run {self.run.id[:8]}"

    @property
    def busy(self) -> bool:
        """Whether a command of the page is being carried out."""
        return bool(self._commands)

    def close(self) -> None:
        """Follow the runs no longer."""
        for stop in self._stops:
            stop()
        super().close()

    # ------------------------------------------------------------------ to the page

    def _add(self, run: LiveRun) -> None:
        self.runs[run.id] = run
        self._stops.append(run.log.follow(lambda entry: self._queue(run.id, entry), after=run.log.last))

    def _queue(self, run_id: str, entry: Entry) -> None:
        """Called under the log's lock, in any thread."""
        with self._lock:
            first = not self._waiting
            self._waiting.setdefault(run_id, []).append(entry)
        if first:
            loop = background_loop()
            loop.call_soon_threadsafe(loop.call_later, BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Send now what waits to be sent."""
        with self._sending:  # events leave in their order
            with self._lock:
                waiting, self._waiting = self._waiting, {}
            for run_id, entries in waiting.items():
                self._tell(run_id, merged(entries))

    def _tell(self, run_id: str, entries: Iterable[Entry], **more: Json) -> None:
        self.send({"type": "events", "run": run_id, "events": [coloured(entry) for entry in entries], **more})

    def _tell_runs(self) -> None:
        lines = [{"id": run.id, "parent": run.parent and list(run.parent)} for run in self.runs.values()]
        self.send({"type": "runs", "current": self.run.id, "runs": lines})

    # ------------------------------------------------------------------ from the page

    def _take(self, _: Any, message: Any, buffers: Any) -> None:
        try:
            self._answer(message)
        except CodeVisionError as error:
            self.send({"type": "problem", "message": str(error)})

    def _answer(self, message: Mapping[str, Any]) -> None:
        kind, run = message.get("type"), self.runs.get(message.get("run") or self.run.id)
        if run is None:
            raise LiveError(f"this view has no run {message.get('run')!r:.60}")
        if kind == "follow":
            self._tell_runs()
            after = int(message.get("after", -1))
            with self._sending:
                self._tell(run.id, run.log.after(after), after=after)
        elif kind == "image":
            image = next((item for item in run.trajectory.images if item.index == message.get("index")), None)
            if image is not None:
                told = {"type": "image", "run": run.id, "index": image.index, "mime": image.view_mime}
                self.send(told, buffers=[image.view])
        elif kind == "show":
            self.run = run
            self._tell_runs()
        elif kind == "command":
            if message.get("command") not in COMMANDS:
                raise LiveError(f"there is no command {message.get('command')!r:.40}")
            arguments, working = dict(message.get("arguments") or {}), object()
            self._commands.add(working)  # before it begins: a cell that waits must not see the run idle and us at rest
            try:
                done = run.submit(str(message["command"]), **arguments)
            except BaseException:
                self._commands.discard(working)
                raise
            done.add_done_callback(lambda done: self._done(done, working))

    def _done(self, done: Future[LiveRun | None], working: object) -> None:
        """On the background loop: show the branch that a command made, or say what was wrong."""
        try:
            branch = done.result()
        except Exception as error:  # said on the page; whoever sent it is not here
            self.send({"type": "problem", "message": str(error) or type(error).__name__})
        else:
            if branch is not None:
                self._add(branch)
                self.run = branch
                self._tell_runs()
        finally:
            self._commands.discard(working)


def merged(entries: list[Entry]) -> Iterator[Entry]:
    """Neighbouring pieces of text that the model wrote of one step, as one."""
    held: Entry | None = None
    for entry in entries:
        joins = held is not None and entry["type"] == "writing" and entry["step"] == held["step"]
        if joins and held is not None:
            held = {**entry, "text": held["text"] + entry["text"], **({"whole": True} if held.get("whole") else {})}
            continue
        if held is not None:
            yield held
        held = entry if entry["type"] == "writing" else None
        if held is None:
            yield entry
    if held is not None:
        yield held


def coloured(entry: Entry) -> Json:
    """The event with `tokens` beside each piece of code."""
    code = entry.get("code")
    if code is None and isinstance(entry.get("action"), dict):
        code = entry["action"].get("code")
    return {**entry, "tokens": tokens(code)} if code else dict(entry)


def tokens(code: str) -> list[list[str]]:
    """Python code as [short Pygments class, text] pairs that together are the code, byte for byte."""
    from pygments.lexers import PythonLexer
    from pygments.token import STANDARD_TYPES

    lexer = PythonLexer(stripnl=False, ensurenl=False)
    pairs: list[list[str]] = []
    for _, kind, text in lexer.get_tokens_unprocessed(code):
        name = STANDARD_TYPES.get(kind, "")
        if pairs and pairs[-1][0] == name:
            pairs[-1][1] += text
        else:
            pairs.append([name, text])
    return pairs
