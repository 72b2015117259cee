"""Live progress of a run in the terminal: thought, code, what came back, small pictures where colours are to be had."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.text import Text

from kernel_agent.notices import ActionRead, Notice, StepDone, TextWritten
from kernel_agent.session.outputs import clean_text
from kernel_agent.types import Answer, ErrorOutput, KernelImage, Malformed, RunCode, Step, StreamOutput, TextOutput

THUMBNAIL = (36, 12)
"""Columns and rows; a character shows two pixels, one above the other."""


class Progress:
    """A `watch` for `Agent`: prints to stderr, so that stdout holds only the answer."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stderr)
        self._status = self.console.status("") if self.console.is_terminal else None
        self._written = 0

    def __call__(self, notice: Notice) -> None:
        """Take one notice."""
        if isinstance(notice, TextWritten):
            self._writing(notice)
        elif isinstance(notice, ActionRead):
            self._action(notice)
        elif isinstance(notice, StepDone):
            self._done(notice.step)

    def _writing(self, notice: TextWritten) -> None:
        if self._status is not None:
            self._written += len(notice.text)
            self._status.update(f"step {notice.step + 1}: the model writes ({self._written} characters)")
            self._status.start()

    def _stop(self) -> None:
        self._written = 0
        if self._status is not None:
            self._status.stop()

    def _action(self, notice: ActionRead) -> None:
        self._stop()
        if notice.thought:
            self.console.print(Text(clean_text(notice.thought), style="italic dim"))
        if isinstance(notice.action, RunCode):
            title = f"step {notice.step + 1}"
            if notice.action.description:
                title += f": {escape(clean_text(notice.action.description))}"
            code = Syntax(clean_text(notice.action.code), "python", word_wrap=True, background_color="default")
            self.console.print(Panel(code, title=title, title_align="left", border_style="cyan"))
        elif isinstance(notice.action, Malformed):
            self.console.print(Text(f"step {notice.step + 1}: {notice.action.problem}", style="yellow"))

    def _done(self, step: Step) -> None:
        self._stop()
        if step.cell is None or isinstance(step.action, Answer):
            return
        for output in step.cell.outputs:
            if isinstance(output, ErrorOutput):
                self.console.print(Text(f"{output.ename}: {output.evalue}", style="red"))
            elif isinstance(output, (StreamOutput, TextOutput)):
                self.console.print(Text(output.text.rstrip()[:1000]))
        for image in step.images:
            self._image(image)
        for event in step.cell.events:
            self.console.print(Text(f"{event.kind} {dict(event.data)}", style="yellow"))
        self.console.print(Text(f"{step.cell.status}, {step.cell.seconds:.1f} s", style="dim"))

    def _image(self, image: KernelImage) -> None:
        self.console.print(Text(f"{image.name}: {image.size[0]}x{image.size[1]} px", style="bold"))
        if self.console.is_terminal and self.console.color_system in ("256", "truecolor"):
            self.console.print(thumbnail(image))


def thumbnail(image: KernelImage) -> Text:
    """The image in half-block characters, at most `THUMBNAIL` large."""
    picture = image.to_pil().convert("RGB")
    columns, rows = THUMBNAIL
    picture.thumbnail((columns, rows * 2))
    text = Text()
    for top in range(0, picture.height, 2):
        for left in range(picture.width):
            upper = picture.getpixel((left, top))
            lower = picture.getpixel((left, min(top + 1, picture.height - 1)))
            text.append("▀", style="rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower))  # type: ignore[misc]
        text.append("\n")
    text.rstrip()
    return text
