"""What audits cost and whether they cry wolf: `python -m perf.audit --json OUT [--n 200] [--many 1000] [--single 10]`.

Makes `n` honest runs of varied code (perf/honest.py: Pillow, OpenCV, NumPy, matplotlib, errors, prints, files, state across
cells, seeded and system randomness, clocks, interrupts, dead kernels, lossy images) and audits them in a fresh process at
tolerance 0.

- `false_alarms`: runs with a finding that fails; they have to be 0. `unchecked`: runs of which something could not be checked;
  `reasons`: why, and how often.
- `cells`: verdicts of all cells.
- `cost_ratio`: wall time of one audit by `codevision audit` in a process of its own, less 1 s, over the time the cells took when
  they were recorded: the worst of `single` runs with about two seconds of code, each recorded and audited three times in turn
  and the best of both taken. At most 1.3 is the goal. `cost_net`: the same with the wall
  time of an audit of one trivial cell in place of the 1 s (worst, and median): on a busy machine a start takes longer too. `cost_added_s`: wall time of an audit less that
  of the cells in it (median): what an audit costs besides running the code. `cost_start_s`: an audit of one trivial cell: what the 1 s is for.
- `many`: runs audited in one process; `memory_growth`: its resident memory (anonymous) after the last over that after a quarter of
  them. `audits_s`: runs a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kernel_agent import KernelOptions, Trajectory
from perf import honest

_MANY = """
import asyncio, json, sys
from pathlib import Path
from kernel_agent import KernelOptions
from kernel_agent.audit.batch import audit_folder
from kernel_agent.audit.rerun_setup import RerunOptions

def memory():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

marks = []
def watch(batch):
    marks.append(memory())
options = RerunOptions(kernel=KernelOptions(isolation=sys.argv[3]), unsafe=sys.argv[3] == "none")
batch = asyncio.run(audit_folder(Path(sys.argv[1]), Path(sys.argv[2]), options, jobs=2, watch=watch))
print(json.dumps({"marks": marks, "outcomes": batch.outcomes, "cells": batch.verdicts}))
"""


def batch(folder: Path, results: Path, isolation: str) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """A folder audited in a fresh process: what it says of itself, its lines, seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MANY, str(folder), str(results), isolation], check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return json.loads(done.stdout), lines, time.perf_counter() - began


def single(path: Path, isolation: str) -> tuple[float, int, float]:
    """Wall time and exit code of `codevision audit` in a process of its own, and the time its cells took there."""
    given = ["--unsafe-no-sandbox"] if isolation == "none" else ["--isolation", isolation]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kernel_agent.cli", "audit", str(path), "--json", *given],
        check=False,
        capture_output=True,
    )
    wall = time.perf_counter() - began
    cells = json.loads(done.stdout)["rerun"]["cells"]
    return wall, done.returncode, sum(cell["seconds"][1] for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--single", type=int, default=10)
    parser.add_argument("--isolation", default="auto", help="auto, strong, medium, container or none")
    args = parser.parse_args()
    kernel = KernelOptions(isolation=args.isolation)
    place = Path(tempfile.mkdtemp(prefix="codevision-perf-"))
    try:
        print(json.dumps(figures := measure(place, kernel, args), indent=1))
        args.json.write_text(json.dumps(figures, indent=1))
    finally:
        shutil.rmtree(place)


def measure(place: Path, kernel: KernelOptions, args: argparse.Namespace) -> dict[str, Any]:
    runs, long, many = place / "runs", place / "long", place / "many"
    for folder in (runs, long, many):
        folder.mkdir()
    paths = asyncio.run(honest.make(runs, args.n, kernel=kernel))
    _, lines, _ = batch(runs, place / "runs.jsonl", args.isolation)
    outcomes = Counter(line["outcome"] for line in lines)
    figures: dict[str, Any] = {
        "n": len(lines),
        "false_alarms": outcomes["fails"],
        "unchecked": outcomes["unchecked"],
        "alarms": [line for line in lines if line["outcome"] == "fails"][:10],
        "not_checked": [line for line in lines if line["outcome"] == "unchecked"][:10],
        "reasons": dict(
            Counter(
                finding["message"]
                for line in lines
                for finding in line["findings"]
                if finding["outcome"] == "unchecked"
            )
        ),
        "cells": dict(sum((Counter(line["cells"]) for line in lines), Counter())),
    }
    ratios, starts, over, net = [], [], [], []
    for number in range(args.single):
        trivial = long / f"trivial-{number}.ipynb"
        slow = [honest.SLOW.format(n=number + part) for part in range(3)]
        asyncio.run(honest.make_one(trivial, ["1"]))
        codes, walls, added, begins = [], [], [], []
        for again in range(3):  # the best of three on both sides: other work on the machine is not what is measured
            path = long / f"long-{number}-{again}.ipynb"
            asyncio.run(honest.make_one(path, [*honest.codes(number, stops=False), *slow]))
            codes.append(sum(step.cell.seconds for step in Trajectory.load(path).steps if step.cell is not None))
            wall, exit_code, cells = single(path, args.isolation)
            assert exit_code in (0, 2), path
            walls.append(wall)
            added.append(wall - cells)
            begins.append(single(trivial, args.isolation)[0])
        ratios.append(((min(walls) - 1) / min(codes), min(codes)))
        over.append(min(added))
        starts.append(min(begins))
        net.append((min(walls) - min(begins)) / min(codes))
    if ratios:
        figures |= {
            "single": len(ratios),
            "cost_ratio": max(ratio for ratio, _ in ratios),
            "cost_ratio_median": sorted(ratio for ratio, _ in ratios)[len(ratios) // 2],
            "cost_code_s": sorted(code for _, code in ratios)[len(ratios) // 2],
            "cost_net": max(net),
            "cost_net_median": sorted(net)[len(net) // 2],
            "cost_added_s": sorted(over)[len(over) // 2],
            "cost_start_s": sorted(starts)[len(starts) // 2],
        }
    if args.many:
        ordinary = [path for number, path in enumerate(paths) if number % 10 != 9]  # no interrupts: they wait
        for number in range(args.many):
            os.link(ordinary[number % len(ordinary)], many / f"run-{number:05}.ipynb")
        told, lines, seconds = batch(many, place / "many.jsonl", args.isolation)
        marks = told["marks"]
        quarter = max(1, len(marks) // 4)
        figures |= {
            "many": len(lines),
            "many_false_alarms": told["outcomes"].get("fails", 0),
            "memory_growth": max(marks[-quarter:]) / max(marks[:quarter]),
            "memory_mb": max(marks),
            "audits_s": len(lines) / seconds,
        }
    return figures


if __name__ == "__main__":
    main()
