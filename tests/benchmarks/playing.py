"""A model that reads the colour of a picture by code, as the tests' evaluations need one."""

from __future__ import annotations

import json
from pathlib import Path

from published import png

from kernel_agent.models import ScriptedModel
from kernel_agent.types import ImagePart, Request, TextPart

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


def call(code: str, index: int = 0) -> str:
    arguments = {"code": code, "description": "look", "image_index": index}
    return f"<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


def question(request: Request) -> str:
    return "".join(p.text for m in request.messages for p in m.content if isinstance(p, TextPart) and m.role == "user")


def colour(request: Request) -> str:
    """What the first picture shows."""
    part = next(p for m in request.messages for p in m.content if isinstance(p, ImagePart))
    pixel = part.image.to_pil().convert("RGB").getpixel((2, 2))
    return min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], pixel, strict=True)))  # type: ignore[arg-type]


def play(request: Request) -> str:
    """One failing cell, one good one, then the colour; told that it is the last message, always `red`."""
    turn = sum(message.role == "assistant" for message in request.messages)
    if "last message" in question(request):
        return "<answer>red</answer>"
    if "You can run Python" not in str(request.messages[0].content):
        return "blue"
    return (call("1/0"), call("result = image.rotate(90, expand=True)"), f"<answer>{colour(request)}</answer>")[turn]


def colour_model() -> ScriptedModel:
    return ScriptedModel([play] * 10_000, name="colours")


def colour_set(folder: Path, n: int) -> Path:
    """`n` pictures in three colours, for the benchmark `orientation`."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(n):
        name = list(COLOURS)[number % 3]
        (folder / f"{number}.png").write_bytes(png(COLOURS[name], (24, 16)))
        row = {"id": f"c/{number}", "image": f"{number}.png", "question": f"Colour of {number}?", "answer": name}
        lines.append(json.dumps({**row, "category": name}))
    file = folder / "own.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file
