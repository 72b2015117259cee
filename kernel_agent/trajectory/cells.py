"""The cells of a notebook: what a person reads, and under the metadata key `codevision` what a machine needs.

A step is one Markdown cell (the thought) and, where code ran, the real code cell with its real outputs; the step's
record lies in the last of the two. Image bytes: an input's original is an attachment of the first question (the kernel
finds it there when the notebook is run again), an output's is the cell's output. The model's view, where it was
resized, lies in the metadata (`views`), which survives "clear outputs" and re-running; no viewer shows it. What the setup
cell shows, also when it is run again, are copies of the views, because GitHub shows outputs but no attachments; nothing is ever read from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kernel_agent.trajectory import inert
from kernel_agent.trajectory.codec import text
from kernel_agent.trajectory.records import Images, to_base64, write_step
from kernel_agent.trajectory.state import Mark, State, course
from kernel_agent.types import (
    Answer,
    ErrorOutput,
    ImageOutput,
    Json,
    KernelImage,
    Malformed,
    Output,
    RunCode,
    Status,
    Step,
    StopReason,
    StreamOutput,
)

KEY = "codevision"
LOOK = 1
"""Version of how a record is shown: what cells there are, and what a reader sees in each. Every cell names the one it was written
in (1 where it names none), and an audit compares only cells of its own. Raise it with any change of that."""
BYTES_MIME = "application/octet-stream"
"""For images of a kind that no browser shows, or that could be active (SVG)."""

_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
}
_NAMES = {"pattern": "image_{i}", "first": 0, "saved_files": False}
_SHOWN_CHARACTERS = 20_000
_TAGS = {
    Status.ERROR: "raises-exception",
    Status.TIMEOUT: "skip-execution",
    Status.KILLED: "skip-execution",
}
_STATUS = {
    Status.ERROR: "the code raised an exception",
    Status.TIMEOUT: "interrupted: the cell ran past its time limit",
    Status.KILLED: "the kernel died or had to be killed; it was started again and the good cells were replayed",
    Status.MALFORMED: "the message could not be read; nothing ran",
    Status.REFUSED: "the user did not let this code run",
}
_STOPPED = {
    StopReason.ANSWER: "The model answered.",
    StopReason.STEP_LIMIT: "The limit on steps was reached.",
    StopReason.TIME_LIMIT: "The limit on time was reached.",
    StopReason.TOKEN_LIMIT: "The limit on tokens was reached.",
    StopReason.IMAGE_LIMIT: "The limit on the number of images was reached.",
    StopReason.PIXEL_LIMIT: "The limit on pixels shown to the model was reached.",
    StopReason.MALFORMED: "Too many messages in a row could not be read.",
    StopReason.INTERRUPTED: "The run was interrupted.",
    StopReason.MODEL_ERROR: "The model could not be asked.",
    StopReason.KERNEL_ERROR: "The kernel could not be started or brought back.",
    StopReason.CRASHED: "The process went away in the middle; the run was recovered from its journal.",
}


def cells_since(state: State, since: Mark) -> list[Json]:
    """The cells for everything after `since`. Before the first question there is one that holds the input images."""
    if not state.turns:
        return [question_cell(state, None), setup_cell(state)]
    out: list[Json] = []
    for what, number in course(state, since):
        if what == "turn":
            out.append(question_cell(state, number))
            if number == 0:
                out.append(setup_cell(state))
        elif what == "step":
            out.extend(step_cells(state.steps[number], state.images))
        elif what == "end":
            out.append(end_cell(state, number))
    return out


def markdown(cell_id: str, source: str, record: Json, attachments: Json = None) -> Json:
    """A Markdown cell."""
    metadata = {KEY: {**record, "look": LOOK}}
    cell = {"cell_type": "markdown", "id": cell_id, "metadata": metadata, "source": _lines(source)}
    return cell | ({"attachments": attachments} if attachments else {})


def question_cell(state: State, number: int | None) -> Json:
    """The question; with the input images, where it is the first (None: not asked yet)."""
    question = "" if number is None else state.turns[number].question
    title = "# Question" if not number else f"# Follow-up question {number}"
    body = "\n".join("> " + line for line in inert.paragraphs(question).split("\n")) if question else ""
    record: dict[str, Json] = {"kind": "question", "turn": number or 0}
    if number:
        return markdown(f"turn-{number}-question", f"{title}\n\n{body}", record)
    parts = [title, body or "*not asked yet*"]
    attachments: dict[str, Json] = {}
    for image in state.inputs:
        mime = image.mime if image.mime in _EXTENSIONS else BYTES_MIME
        name = f"{image.name}.{_EXTENSIONS.get(image.mime, 'bin')}"
        attachments[name] = {mime: to_base64(image.data)}
        shown = f"![{image.name}](attachment:{name})\n\n" if mime != BYTES_MIME else ""
        parts.append(shown + _input_caption(image))
    record |= {"images": [state.images.record(image) for image in state.inputs]}
    record |= {"attachments": {str(image.index): name for image, name in zip(state.inputs, attachments, strict=True)}}
    record |= _views(state.inputs, state.images)
    return markdown("turn-0-question", "\n\n".join(parts), record, attachments)


def setup_cell(state: State) -> Json:
    """Opens the input images in the kernel; its outputs show them as the model sees them."""
    options = "".join(f", {name}={value!r}" for name, value in kernel_options(state).items())
    named = ", ".join(f"images[{image.index}] is {image.name}" for image in state.inputs[:3])
    source = (
        f"# The input images{': ' + named if named else ''}\n"
        "from kernel_agent.session.kernel_side import open_notebook\n\n"
        f'images = open_notebook("{state.run_id}"{options})'
    )
    return _code("setup", source, setup_outputs(state), None, {"kind": "setup"})


def setup_outputs(state: State) -> list[Json]:
    """The input images as the model sees them."""
    return [
        {
            "output_type": "display_data",
            "data": {_shown_mime(image.view_mime): to_base64(image.view), "text/plain": _caption(image, state.images)},
            "metadata": _image_metadata(image),
        }
        for image in state.inputs
    ]


def kernel_options(state: State) -> dict[str, Json]:
    """How the kernel named and counted images, as `session.kernel_side.Kernel` takes it, where it is not the default."""
    names, budget = state.header.get("names"), state.header.get("budget")
    out: dict[str, Json] = {}
    if isinstance(names, Mapping):
        out |= {key: names[key] for key, usual in _NAMES.items() if key in names and names[key] != usual}
    if isinstance(budget, Mapping):
        if isinstance(most := budget.get("images"), int):
            out["max_images"] = len(state.inputs) + most
        if isinstance(limit := budget.get("output_chars"), int):
            out["output_chars"] = limit
    return out


def step_cells(step: Step, images: Images) -> list[Json]:
    """The thought and, where code ran, the code with what it showed."""
    record = {"kind": "step", "index": step.index, "record": write_step(step, images)} | _views(step.images, images)
    if step.cell is None:
        return [markdown(f"step-{step.index}", _thought(step, images), record)]
    tag = _TAGS.get(step.cell.status)
    outputs = [_output(output, step.cell.execution_count, images) for output in step.cell.outputs]
    return [
        markdown(f"step-{step.index}-thought", _thought(step, images), {"kind": "thought", "index": step.index}),
        _code(f"step-{step.index}", text(step.cell.source), outputs, step.cell.execution_count, record, tag),
    ]


def end_cell(state: State, number: int) -> Json:
    """The answer, or why there is none."""
    turn = state.turns[number]
    stop = _STOPPED[turn.stop_reason or StopReason.CRASHED]
    last = state.turns[number + 1].first_step if number + 1 < len(state.turns) else len(state.steps)
    count = last - turn.first_step
    facts = f"*{count} step{'s' * (count != 1)} · {turn.seconds:.1f} s · {stop}*"
    body = "# No answer" if turn.answer is None else f"# Answer\n\n{inert.paragraphs(turn.answer)}"
    return markdown(f"turn-{number}-answer", f"{body}\n\n{facts}", {"kind": "answer", "turn": number})


def _thought(step: Step, images: Images) -> str:
    parts = [f"### Step {step.index + 1}"]
    if step.thought.strip():
        parts.append(inert.paragraphs(_shorten(step.thought.strip())))
    action = step.action
    if isinstance(action, RunCode):
        if action.description.strip() and action.description.strip() != step.thought.strip():
            parts.append(f"**Wants:** {inert.inline(_shorten(action.description))}")
        if step.cell is None:
            parts.append("**Code that did not run:**\n\n" + inert.fenced(_shorten(action.code), "python"))
    elif isinstance(action, Malformed):
        parts.append("**What the model wrote:**\n\n" + inert.fenced(_shorten(_written(step))))
        told = step.observation.text if step.observation else f"{action.problem}\n{action.remedy}"
        parts.append("**What it was told:**\n\n" + inert.fenced(_shorten(told)))
    elif isinstance(action, Answer):
        parts.append("**Answers.**")
    return "\n\n".join([*parts, _facts(step, images)])


def _facts(step: Step, images: Images) -> str:
    facts = [_caption(image, images) for image in step.images]
    status = step.cell.status if step.cell else step.observation.status if step.observation else Status.OK
    if status in _STATUS:
        facts.append(_STATUS[status])
    events = [*step.completion.events, *step.events, *(step.cell.events if step.cell else ())]
    if events:
        facts.append("events: " + ", ".join(dict.fromkeys(inert.inline(event.kind) for event in events)))
    return f"*{' · '.join([*facts, f'{step.seconds:.1f} s'])}*"


def _written(step: Step) -> str:
    calls = [f"{call.name}({call.arguments})" for call in step.completion.tool_calls]
    return "\n".join([step.completion.text, *calls] if step.completion.text else calls)


def _shorten(value: str) -> str:
    if len(value) <= _SHOWN_CHARACTERS:
        return value
    half = _SHOWN_CHARACTERS // 2
    left_out = len(value) - 2 * half
    return f"{value[:half]}\n… {left_out} characters left out here; all of them are in the cell's metadata …\n{value[-half:]}"


def _output(output: Output, execution_count: int | None, images: Images) -> Json:
    if isinstance(output, StreamOutput):
        return {"output_type": "stream", "name": output.name, "text": _lines(text(output.text))}
    if isinstance(output, ErrorOutput):
        traceback = [text(line) for line in output.traceback]
        return {
            "output_type": "error",
            "ename": text(output.ename),
            "evalue": text(output.evalue),
            "traceback": traceback,
        }
    if isinstance(output, ImageOutput):
        image = images[output.index]
        shown: dict[str, Json] = {_shown_mime(image.mime): to_base64(image.data), "text/plain": _caption(image, images)}
        metadata = _image_metadata(image)
    else:
        shown, metadata = {"text/plain": _lines(text(output.text))}, {}
    kind: dict[str, Json] = {"output_type": "display_data"}
    if output.is_result:
        kind = {"output_type": "execute_result", "execution_count": execution_count}
    return kind | {"data": shown, "metadata": metadata}


def _code(
    cell_id: str, source: str, outputs: Json, execution_count: int | None, record: Json, tag: str | None = None
) -> Json:
    return {
        "cell_type": "code",
        "id": cell_id,
        "metadata": {KEY: {**record, "look": LOOK}} | ({"tags": [tag]} if tag else {}),
        "execution_count": execution_count,
        "source": _lines(source),
        "outputs": outputs,
    }


def _views(shown: Iterable[KernelImage], images: Images) -> dict[str, Json]:
    """The views that are not the data, by hash."""
    hashes = {images.hashes(image.index): image.view for image in shown}
    views = {view: to_base64(blob) for (data, view), blob in hashes.items() if view != data}
    return {"views": views} if views else {}


def _image_metadata(image: KernelImage) -> Json:
    note = {"index": image.index, "name": image.name, "size": image.size, "pixel_sha256": image.pixel_sha256}
    return {KEY: note if image.lossless else note | {"lossless": False}}


def _caption(image: KernelImage, images: Images) -> str:
    loss = "" if image.lossless else ", kept as a lossy JPEG"
    return f"{image.name}: {_pixels(image.size)}{_made_from(image, images)}{loss}"


def _input_caption(image: KernelImage) -> str:
    facts = [f"**{image.name}**", *([inert.inline(image.source)] if image.source else []), _pixels(image.size)]
    if image.view_size != image.size:
        facts.append(f"shown to the model at {_pixels(image.view_size)}")
    return " · ".join(facts)


def _made_from(image: KernelImage, images: Images) -> str:
    parent = None if image.parent is None else images.get(image.parent)
    return f", made from {parent.name}" if parent else ""


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]} px"


def _shown_mime(mime: str) -> str:
    return mime if mime in _EXTENSIONS else BYTES_MIME


def _lines(source: str) -> list[str]:
    """Text as nbformat stores it: lines with their ends."""
    return source.splitlines(keepends=True)
