"""How fast tasks are generated: `python -m perf.tasks --json OUT [--n 10000 --series mvtool --workers 2]`.

| figure | what it is | goal |
|---|---|---|
| tasks_per_second | pictures drawn, packed and written to disk with their records, by `workers` processes, start-up included | 50 |
| cpu_ms | processor time of all processes for one of them, start-up included | 40 with 2 workers |
| tasks_per_cpu_seconds | `workers` / cpu_ms: what the same would be with a core to each worker; the figure to compare on a busy machine | 50 |
| ..._<series> | the same for each series, a tenth of the number each | |
| megapixels, bytes | of a picture, mean | |

Figures are of this machine; `load` (1 minute) says how busy it was before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kernel_agent.tasks.dataset import read_tasks
from kernel_agent.tasks.generate import Series
from kernel_agent.tasks.generated_folder import write_dataset


def cpu() -> float:
    """Processor seconds of this process and of those it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(series: Series, count: int, workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        began, spent = time.perf_counter(), cpu()
        write_dataset(folder, series, count, 3, workers=workers)
        seconds, spent = time.perf_counter() - began, cpu() - spent
        tasks = list(read_tasks(folder))
        assert len(tasks) == count
        pixels = sum(task.size[0] * task.size[1] for task in tasks if task.size)
        size = sum(Path(task.image).stat().st_size for task in tasks if task.image)
    return {
        "tasks_per_second": count / seconds,
        "seconds": seconds,
        "cpu_ms": 1000 * spent / count,
        "tasks_per_cpu_seconds": workers * count / spent,
        "megapixels": pixels / count / 1e6,
        "bytes": size / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--series", type=Series, default=Series.MVTOOL)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    figures: dict[str, Any] = {"load_before": os.getloadavg()[0], "n": options.n, "workers": options.workers}
    figures |= measure(options.series, options.n, options.workers)
    for series in Series:
        print(f"... {series}", file=sys.stderr, flush=True)
        each = measure(series, max(1, options.n // 10), options.workers)
        figures |= {f"{name}_{series}": each[name] for name in ("tasks_per_second", "tasks_per_cpu_seconds")}
    figures["load_after"] = os.getloadavg()[0]
    for name, value in figures.items():
        print(f"{name:32} {value:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
