"""A run as a short piece of static HTML for a notebook's output: no script, everything escaped, one rule of style."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable

from kernel_agent.trajectory.codec import text
from kernel_agent.trajectory.records import to_base64
from kernel_agent.trajectory.state import State
from kernel_agent.types import FORMATS, KernelImage, Malformed, RunCode, Status, Step

_SIDE = 160
_CHARACTERS = 600
_STEPS = 30
_STYLE = (  # JupyterLab's word that a widget before it has no kernel any more: this is what stands in its place
    "<style>.jp-OutputArea-child:has(> .jupyter-widgets):not(:has(> .jupyter-widgets *)):has(~ * .codevision-static)"
    "{display: none}</style>"
)


def to_html(state: State) -> str:
    """Questions, steps with small pictures, answers. `_STEPS` steps at most."""
    out = ['<div class="codevision-static">']
    for number, turn in enumerate(state.turns):
        out.append(f"<p><strong>Question</strong><br>{_text(turn.question)}</p>")
        if number == 0:
            out.append(_pictures(state.inputs))
        last = state.turns[number + 1].first_step if number + 1 < len(state.turns) else len(state.steps)
        out.extend(_step(step) for step in state.steps[turn.first_step : min(last, _STEPS)])
        if last > _STEPS:
            out.append(f"<p>… {last - max(turn.first_step, _STEPS)} more steps</p>")
        if turn.answer is not None:
            out.append(f"<p><strong>Answer</strong><br>{_text(turn.answer)}</p>")
        else:
            out.append(
                f"<p><em>{'still running' if turn.stop_reason is None else f'ended by {turn.stop_reason}'}</em></p>"
            )
    return "".join([*out, _STYLE, "</div>"])


def _step(step: Step) -> str:
    summary = f"Step {step.index + 1}"
    if step.cell is not None and step.cell.status is not Status.OK:
        summary += f" ({step.cell.status})"
    elif isinstance(step.action, Malformed):
        summary += " (malformed)"
    body = f"<p>{_text(step.thought)}</p>" if step.thought.strip() else ""
    if isinstance(step.action, RunCode):
        body += f"<pre>{_text(step.action.code)}</pre>"
    return f"<details><summary>{summary}</summary>{body}</details>{_pictures(step.images)}"


def _pictures(images: Iterable[KernelImage]) -> str:
    out = []
    for image in images:
        caption = f"{image.name}: {image.size[0]} × {image.size[1]} px"
        out.append(f"<p>{_thumbnail(image, caption)}<br><small>{html.escape(caption)}</small></p>")
    return "".join(out)


def _thumbnail(image: KernelImage, caption: str) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image.view), formats=FORMATS) as picture:
            picture.thumbnail((_SIDE, _SIDE))
            small = io.BytesIO()
            picture.convert("RGB").save(small, "JPEG", quality=85)
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""  # a picture that cannot be drawn still has its caption
    return f'<img alt="{html.escape(caption)}" src="data:image/jpeg;base64,{to_base64(small.getvalue())}">'


def _text(value: str) -> str:
    value = text(value.strip())
    cut = value[:_CHARACTERS] + (" …" if len(value) > _CHARACTERS else "")
    return html.escape(cut).replace("\n", "<br>").replace("$", "<span>$</span>")
