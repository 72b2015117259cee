"""How well operations are told from what happened: `python -m perf.operations --n 300 --json OUT`.

Seeded snippets of varied style (`operation_snippets`) run in real kernels on seeded pictures; what each does is known by
construction, and the descriptions given with them lie. A snippet is right where all its operations are found, none besides, and
a crop's box is off by at most 2 pixels (4 where it was resampled) in the frame of the input.

| figure | what it is | goal |
|---|---|---|
| accuracy | share of snippets that are right | 0.99 |
| false_operations | operations named that were not applied | 0 |
| unknown | snippets said to be unknown whose operations can be seen | |
| flat_unknown | share of operations on a plain picture that are said to be unknown | 1 |
| by_style | for each style: how many, how many right | |
| ms | median milliseconds to look at one picture | |
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kernel_agent import Agent, Budget, Task, Trajectory
from kernel_agent.models import ScriptedModel
from kernel_agent.operations import Applied, StepOperations, find_operations
from perf.operation_scenes import SCENES, plain
from perf.operation_snippets import FLAT, Snippet, draw

PER_RUN = 4
"""Each has a picture of its own: else one could as well have been made of what another showed."""


def call(snippet: Snippet) -> str:
    arguments = {"code": snippet.code, "description": snippet.said, "image_index": snippet.scene}
    return f"<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


def run(snippets: list[Snippet], images: list[Any]) -> Trajectory:
    """One run whose steps are the snippets."""
    replies = [*map(call, snippets), "<answer>done</answer>"]
    budget = Budget(steps=len(replies), images=4 * len(replies), pixels=10**9)
    return Agent(ScriptedModel(replies), budget=budget).run(Task(question="What?", images=tuple(images)))


def verdict(snippet: Snippet, found: StepOperations) -> tuple[bool, list[str]]:
    """Whether it is right, and the operations that were not applied."""
    named = set(found.applied)
    if snippet.free:
        wrong = named - {Applied.OTHER, Applied.RESIZE, Applied.PHOTOMETRIC}
        return (found.unknown or Applied.OTHER in named) and not wrong, sorted(wrong)
    wrong = named - snippet.applied
    right = named == snippet.applied and not found.unknown
    if right and snippet.box is not None:
        seen = found.pictures[-1].box
        most = 4 if Applied.RESIZE in snippet.applied else 2
        right = seen is not None and max(abs(p - q) for p, q in zip(seen, snippet.box, strict=True)) <= most
    return right, sorted(wrong)


def measure(n: int, seed: int, verbose: bool) -> dict[str, Any]:
    r = random.Random(seed)
    total, right, styles, good = 0, 0, Counter[str](), Counter[str]()
    false: list[str] = []
    unknown = 0
    times: list[float] = []
    while total < n:
        count = min(PER_RUN, n - total)
        images = [r.choice(SCENES)(r.randrange(10**6)) for _ in range(count)]
        snippets = [draw(r, number, images[number].size, total + number) for number in range(count)]
        trajectory = run(snippets, images)
        began = time.perf_counter()
        found = find_operations(trajectory)
        times.append((time.perf_counter() - began) * 1e3 / max(1, len(trajectory.images) - len(images)))
        for snippet, step, record in zip(snippets, found, trajectory.steps, strict=False):
            if record.cell is None or record.cell.status != "ok":
                raise SystemExit(f"a snippet failed:\n{snippet.code}\n{record.observation}")
            ok, wrong = verdict(snippet, step)
            total, right = total + 1, right + ok
            styles[snippet.style] += 1
            good[snippet.style] += ok
            false += wrong
            unknown += step.unknown and not snippet.free
            if verbose and not ok:
                told = [(p.applied, p.known, p.by, p.box) for p in step.pictures]
                print(
                    f"--- {snippet.style}: wanted {sorted(snippet.applied)} {snippet.box}\n{snippet.code}\n{told}",
                    file=sys.stderr,
                )
    flat = [
        Snippet(style="flat", scene=0, code=f"im = image_0\n{code.format(v='im')}\nim", applied=frozenset())
        for _, code in FLAT
    ]
    flat_found = find_operations(run(flat, [plain(seed)]))
    return {
        "n": total,
        "accuracy": right / total,
        "false_operations": len(false),
        "unknown": unknown,
        "flat_unknown": sum(step.unknown for step in flat_found[: len(flat)]) / len(flat),
        "by_style": {style: {"n": styles[style], "right": good[style]} for style in sorted(styles)},
        "ms": statistics.median(times),
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="print the snippets that are not right")
    arguments = parser.parse_args()
    figures = measure(arguments.n, arguments.seed, arguments.verbose)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
