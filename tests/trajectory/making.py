"""Trajectories made by hand, and by chance."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kernel_agent.session.images import pixel_sha256
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import (
    Action,
    Affine,
    Answer,
    CellResult,
    Completion,
    ErrorOutput,
    Event,
    ImageOutput,
    ImagePart,
    KernelImage,
    Malformed,
    Message,
    Observation,
    Output,
    RunCode,
    Sampling,
    Status,
    Step,
    StopReason,
    StreamOutput,
    TextOutput,
    TextPart,
    TokenLogprob,
    ToolCall,
    Usage,
)

HEADER = {
    "protocol": "fenced",
    "model": {"kind": "scripted", "model": "by hand"},
    "environment": {"python": "3.11"},
    "budget": {"images": 32, "output_chars": 10_000},
}


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def kernel_image(
    index: int,
    picture: Image.Image,
    *,
    parent: int | None = None,
    affine: Affine | None = None,
    origin: str = "input",
    source: str = "",
    view: int | None = None,
    data: bytes | None = None,
    mime: str = "image/png",
) -> KernelImage:
    data = data or png(picture)
    shown = data if view is None else png(picture.resize((view, view)))
    return KernelImage(
        index=index,
        name=f"image_{index}",
        data=data,
        mime=mime,
        size=picture.size,
        pixel_sha256=pixel_sha256(picture),
        view=shown,
        view_mime=mime if view is None else "image/png",
        view_size=picture.size if view is None else (view, view),
        parent=parent,
        affine=affine,
        origin=origin,
        source=source,
    )


def text_message(role: str, *texts: str, images: Sequence[KernelImage] = ()) -> Message:
    parts = (*(ImagePart(image=image) for image in images), *(TextPart(text=text) for text in texts))
    return Message(role=role, content=parts)  # type: ignore[arg-type]


def cell_step(
    index: int,
    code: str,
    outputs: Sequence[Output] = (),
    images: Sequence[KernelImage] = (),
    *,
    status: Status = Status.OK,
    thought: str = "I look closer.",
    new_messages: Sequence[Message] = (),
    events: Sequence[Event] = (),
) -> Step:
    return Step(
        index=index,
        new_messages=tuple(new_messages),
        completion=Completion(
            text=f"{thought}\n```python\n{code}\n```", usage=Usage(prompt_tokens=9, completion_tokens=5)
        ),
        thought=thought,
        action=RunCode(code=code, description="look at it"),
        cell=CellResult(
            source=code,
            status=status,
            outputs=tuple(outputs),
            images=tuple(images),
            execution_count=index + 1,
            seconds=0.5,
            events=tuple(events),
        ),
        observation=Observation(
            status=status, content=(TextPart(text="seen"), *(ImagePart(image=image) for image in images))
        ),
        started=1e9 + index,
        seconds=1.5,
    )


def answer_step(index: int, text: str = "A7", new_messages: Sequence[Message] = ()) -> Step:
    return Step(
        index=index,
        new_messages=tuple(new_messages),
        completion=Completion(text=f"<answer>{text}</answer>"),
        thought="",
        action=Answer(text=text),
        started=1e9 + index,
        seconds=0.2,
    )


def shown_step(index: int, image_index: int, code: str, picture: Image.Image, **options: object) -> Step:
    """A cell whose last expression is a picture."""
    made = kernel_image(image_index, picture, origin=f"cell {index}")
    output = ImageOutput(index=image_index, is_result=True)
    return cell_step(index, code, [output], [made], **options)  # type: ignore[arg-type]


def crop_run(question: str = "What is written on the label?") -> Trajectory:
    """Two inputs (one shown resized), a crop, an error, text, a malformed message, a timeout, an answer."""
    first, second = noise(200, 100, 1), noise(40, 30, 2)
    inputs = [kernel_image(0, first, view=64, source="photo.jpg"), kernel_image(1, second, source="b.png")]
    crop = first.crop((10, 20, 110, 80))
    made = kernel_image(2, crop, parent=0, affine=(1, 0, 10, 0, 1, 20), origin="cell 0", view=32)
    turned = crop.rotate(90, expand=True)
    late = kernel_image(3, turned, parent=2, affine=(0, -1, 100, 1, 0, 0), origin="cell 3")
    t = Trajectory.start(images=inputs, header=HEADER)
    t.begin_turn(question)
    question_message = text_message("user", question, images=inputs)
    t.add_step(
        cell_step(
            0,
            "print('a b')\nresult = image_0.crop((10, 20, 110, 80))\nresult",
            [StreamOutput(name="stdout", text="a b\n"), ImageOutput(index=2, is_result=True)],
            [made],
            new_messages=[text_message("system", "Look."), question_message],
        )
    )
    error = ErrorOutput(ename="NameError", evalue="name 'x' is not defined", traceback=("Traceback", "NameError: x"))
    t.add_step(cell_step(1, "x", [error], status=Status.ERROR, new_messages=[text_message("user", "seen")]))
    t.add_event(Event(kind="note", time=2e9, data={"why": "because", "list": [1, 2.5, None]}))
    t.add_step(
        Step(
            index=2,
            new_messages=(),
            completion=Completion(text="<tool_call>{oops ``` </tool_call>"),
            thought="",
            action=Malformed(problem="the JSON cannot be read.", remedy="Write JSON."),
            observation=Observation(status=Status.MALFORMED, content=(TextPart(text="Nothing was run: ..."),)),
        )
    )
    stuck = [ImageOutput(index=3), StreamOutput(name="stderr", text="late\n")]
    t.add_step(
        cell_step(
            3,
            "result = image_2.rotate(90, expand=True)\ndisplay(result)\nwhile True: pass",
            stuck,
            [late],
            status=Status.TIMEOUT,
            events=[Event(kind="interrupted", time=2e9, data={"after": 60.0})],
        )
    )
    t.add_step(cell_step(4, "image_3.size", [TextOutput(text="(60, 100)", is_result=True)]))
    t.add_step(answer_step(5))
    t.end_turn("A7", StopReason.ANSWER)
    return t


_ALPHABET = [
    *"aZ0 \n\t<>&`$\\*_[](){}#!|~-+=:;'\"@%^/?.,",
    "é",
    "한",
    "🙂",
    "\u2028",
    "\u202e",
    "\x00",
    "\x1b[31m",
    "\r\n",
    "\x0c",
    "```",
    "<script>alert(1)</script>",
    "![x](http://evil/x.png)",
    "$$\\href{javascript:alert(1)}{x}$$",
]


def random_text(random_: random.Random, surrogates: bool = True) -> str:
    pieces = [*_ALPHABET, "\ud800", "\udfff"] if surrogates else _ALPHABET
    return "".join(random_.choices(pieces, k=random_.choice([0, 1, 3, 12, 40])))


def random_run(seed: int) -> Trajectory:
    """Any mixture of turns, actions, outputs, images and strange texts."""
    r = random.Random(seed)
    say = lambda: random_text(r)  # noqa: E731
    images: list[KernelImage] = []

    def new_image(origin: str) -> KernelImage:
        picture = noise(r.randint(1, 12), r.randint(1, 12), r.randint(0, 9))
        parent = r.choice([None, *(image.index for image in images)])
        affine = r.choice([None, tuple(r.uniform(-3, 3) for _ in range(6))]) if parent is not None else None
        images.append(
            kernel_image(
                len(images),
                picture,
                parent=None if origin == "input" else parent,
                affine=None if origin == "input" else affine,  # type: ignore[arg-type]
                origin=origin,
                view=r.choice([None, 3]),
                source=say(),
            )
        )
        return images[-1]

    def events() -> tuple[Event, ...]:
        data = {"text": say(), "big": 2**70, "inf": float("-inf"), "nested": {"a": [1, 0.5, None, True]}}
        return tuple(Event(kind="restart", time=r.random() * 1e9, data=data) for _ in range(r.randint(0, 2)))

    def message() -> Message:
        parts: list[TextPart | ImagePart] = [TextPart(text=say())]
        if images:
            parts.append(ImagePart(image=r.choice(images)))
        calls = (ToolCall(id="c1", name="code_image_tool", arguments=say()),) if r.random() < 0.3 else ()
        return Message(role=r.choice(["user", "assistant", "system", "tool"]), content=tuple(parts), tool_calls=calls)

    t = Trajectory.start(images=[new_image("input") for _ in range(r.randint(0, 3))], header={"note": say(), **HEADER})
    index = 0
    for turn in range(r.randint(0, 3)):
        t.begin_turn(say())
        for _ in range(r.randint(0, 3)):
            status = r.choice(list(Status)[:4])
            made = [new_image(f"cell {index}") for _ in range(r.randint(0, 2))]
            outputs: list[Output] = [ImageOutput(index=image.index, is_result=r.random() < 0.5) for image in made]
            outputs += [StreamOutput(name="stdout", text=say(), dropped=r.randint(0, 3)), TextOutput(text=say())]
            outputs.append(ErrorOutput(ename="E", evalue=say(), traceback=(say(), say())))
            cell = CellResult(
                source=say(), status=status, outputs=tuple(outputs), images=tuple(made), execution_count=r.choice([None, 7]),
                seconds=r.random(), events=events(),
            )  # fmt: skip
            action: Action = r.choice(
                [
                    RunCode(
                        code=say(), description=say(), image_index=r.choice([None, 0]), call_id=r.choice([None, "c1"])
                    ),
                    Malformed(problem=say(), remedy=say()),
                    Answer(text=say()),
                ]
            )
            ran = isinstance(action, RunCode) or bool(made)
            t.add_step(
                Step(
                    index=index,
                    new_messages=tuple(message() for _ in range(r.randint(0, 2))),
                    completion=Completion(
                        text=say(),
                        logprobs=(TokenLogprob(token=say(), logprob=float("-inf")),),
                        alternatives=(say(),),
                        raw_json=r.choice([None, '"\\ud800"']),
                        events=events(),
                        first_token_seconds=r.choice([None, 0.25]),
                    ),
                    thought=say(),
                    action=action,
                    cell=cell if ran else None,
                    observation=r.choice([None, Observation(status=status, content=(TextPart(text=say()),))]),
                    sampling=Sampling(temperature=r.choice([None, 0.7]), seed=r.choice([None, 2**60]), stop=(say(),)),
                    events=events(),
                )
            )
            index += 1
        if events():
            t.add_event(Event(kind="note", time=1.0, data={"say": say()}))
        if turn < 2 or r.random() < 0.5:
            t.end_turn(r.choice([None, say()]), r.choice(list(StopReason)))
        else:
            break
    return t
