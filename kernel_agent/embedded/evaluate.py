"""How well the embedded model reads: the real agent with real kernels, on fresh pictures with fonts never trained on.

    python -m kernel_agent.embedded.evaluate --n 300 --seed 7 --json report.json

Three conditions on the same pictures: the plain run; `tool_off`, where the model has one message and must answer
from its first look; `blank_observation`, where every picture that code returned is replaced by a uniform one of the
same size before the model sees it. A model whose code is only decoration would score the same in all three.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from kernel_agent.agent import Agent
from kernel_agent.models import Model
from kernel_agent.session.images_view import encode_png
from kernel_agent.tasks.fonts import Face, held_out_faces
from kernel_agent.tasks.orientation import Orientation
from kernel_agent.tasks.reading import ReadingTask, draw_task
from kernel_agent.types import Budget, Completion, ImagePart, Json, Part, Request, Task

STEPS = 6
"""Model calls allowed in a run; the straight way takes three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of right answers with its 95 % Wilson interval."""

    accuracy: float
    correct: int
    n: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One run: what was asked and what came of it."""

    task: ReadingTask
    given: str | None
    steps: int
    stop_reason: str

    @property
    def right(self) -> bool:
        """Whether the answer is exact."""
        return self.task.score(self.given) == 1.0


def wilson(correct: int, n: int) -> Share:
    """The share `correct / n` with its 95 % Wilson interval; (0, 1) where nothing was counted."""
    if n == 0:
        return Share(accuracy=0.0, correct=0, n=0, low=0.0, high=1.0)
    z, p = 1.959964, correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Share(accuracy=round(p, 4), correct=correct, n=n, low=round(low, 4), high=round(high, 4))


class BlankedModel:
    """A model that is shown a uniform picture in the place of each one that code returned."""

    def __init__(self, inner: Model) -> None:
        self._inner = inner
        self.name = f"{inner.name} (returned images blanked)"

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """Blanks the request and passes it on."""
        messages = tuple(replace(m, content=tuple(map(_blank_part, m.content))) for m in request.messages)
        return await self._inner.complete(replace(request, messages=messages), on_text=on_text)

    async def aclose(self) -> None:
        """Leaves the inner model open: it is not ours."""

    def describe(self) -> Mapping[str, Json]:
        """The inner model's description, marked."""
        return {**self._inner.describe(), "blanked": True}


def _blank_part(part: Part) -> Part:
    if not isinstance(part, ImagePart) or part.image.origin == "input":
        return part
    grey = encode_png(Image.new("RGB", part.image.view_size, (128, 128, 128)))
    return ImagePart(image=replace(part.image, view=grey, view_mime="image/png"))


async def run_all(agent: Agent, tasks: Sequence[ReadingTask], *, at_once: int) -> list[Outcome]:
    """Runs every task, `at_once` at a time. Failed runs count as wrong; errors of ours are raised."""
    gate = asyncio.Semaphore(at_once)

    async def one(task: ReadingTask) -> Outcome:
        async with gate:
            trajectory = await agent.arun(Task(question=task.question, images=(task.image,)))
        return Outcome(
            task=task, given=trajectory.answer, steps=len(trajectory.steps), stop_reason=str(trajectory.stop_reason)
        )

    return list(await asyncio.gather(*(one(task) for task in tasks)))


def share(outcomes: Sequence[Outcome]) -> Share:
    """The share of `outcomes` that are right."""
    return wilson(sum(o.right for o in outcomes), len(outcomes))


async def evaluate(model: Model, faces: Sequence[Face], *, n: int, seed: int, at_once: int = 2) -> dict[str, Json]:
    """The whole report as JSON data; see the module's docstring for the conditions."""
    began = time.perf_counter()
    tasks = [draw_task(seed, index, faces) for index in range(n)]
    plain = await run_all(Agent(model, budget=Budget(steps=STEPS)), tasks, at_once=at_once)
    off = await run_all(Agent(model, budget=Budget(steps=1)), tasks, at_once=at_once)
    blank = await run_all(Agent(BlankedModel(model), budget=Budget(steps=STEPS)), tasks, at_once=at_once)
    lengths = sorted({len(t.answer) for t in tasks})
    families = sorted({t.family for t in tasks})
    return {
        "n": n,
        "seed": seed,
        "model": dict(model.describe()),
        "overall": asdict(share(plain)),
        "by_orientation": {o.value: asdict(share([p for p in plain if p.task.orientation is o])) for o in Orientation},
        "tool_off": asdict(share(off)),
        "blank_observation": asdict(share(blank)),
        "by_length": {str(k): asdict(share([p for p in plain if len(p.task.answer) == k])) for k in lengths},
        "by_glyph_height": {
            name: asdict(share([p for p in plain if low <= p.task.glyph_height < high]))
            for name, low, high in (("14-20", 0, 20), ("20-40", 20, 40), ("40-80", 40, 99))
        },
        "by_family": {f: asdict(share([p for p in plain if p.task.family == f])) for f in families},
        "mean_steps": round(sum(p.steps for p in plain) / max(1, n), 3),
        "stop_reasons": {r: sum(p.stop_reason == r for p in plain) for r in sorted({p.stop_reason for p in plain})},
        "wrong": [
            {
                "answer": p.task.answer,
                "given": p.given,
                "orientation": p.task.orientation.value,
                "family": p.task.family,
            }
            for p in plain
            if not p.right
        ][:100],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; prints a summary and writes the report."""
    parser = argparse.ArgumentParser(prog="python -m kernel_agent.embedded.evaluate", description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="pictures per condition")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the report")
    parser.add_argument("--model", default=None, help="a checkpoint folder instead of the shipped one")
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
    options = parser.parse_args(argv)
    from kernel_agent.models.local import TransformersModel, embedded  # torch only when needed

    model = TransformersModel(options.model) if options.model else embedded()
    report = asyncio.run(evaluate(model, held_out_faces(), n=options.n, seed=options.seed, at_once=options.at_once))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in ("overall", "tool_off", "blank_observation"):
        print(f"{name:18} {_line(report[name])}")
    for name, value in report["by_orientation"].items():
        print(f"  {name:16} {_line(value)}")
    print(f"{report['seconds']} s")


def _line(value: Mapping[str, Json]) -> str:
    return f"{value['accuracy']:.1%} ({value['correct']}/{value['n']}, {value['low']:.1%} to {value['high']:.1%})"


if __name__ == "__main__":
    main()
