"""The report as files beside `results.jsonl`: `report.html` (one page that stands alone) and `report.ipynb` (runs again)."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import orjson

from kernel_agent.benchmarks.report import Report, load
from kernel_agent.benchmarks.tables import Plot, Table
from kernel_agent.tasks.released import Problem

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.note, .settings { color: #777; font-size: 90%; } img { max-width: 100%; background: white; }
"""

_PARTS: tuple[tuple[str, str, Callable[[Report], Table | Plot | None]], ...] = (
    ("Scores", "report.paper_table()", Report.paper_table),
    ("", "report.plot_columns()", Report.plot_columns),
    ("Controls", "report.controls()", Report.controls),
    ("", "report.plot_gain()", Report.plot_gain),
    ("What it takes", "report.effort()", Report.effort),
    ("", "report.plot_steps()", Report.plot_steps),
    ("By category", "report.parts()", Report.parts),
    ("Runs", "report.runs()", Report.runs),
)


def write(folder: Path, problems: Sequence[Problem] = ()) -> Report:
    """Write both from what is in `results.jsonl`; `problems` are the rows that were skipped. Returns the report."""
    report = load(folder)
    shown = [(title, source, make(report)) for title, source, make in _PARTS]
    shown = [part for part in shown if part[2] is not None and not (isinstance(part[2], Table) and not part[2].rows)]
    (folder / "report.html").write_text(_page(report, shown, problems), encoding="utf-8")
    nbformat.write(_notebook(report, shown, problems), folder / "report.ipynb")
    return report


def _settings(report: Report) -> str:
    kept = {key: value for key, value in report.settings.items() if value is not None and not isinstance(value, dict)}
    return ", ".join(f"{key} {value}" for key, value in kept.items())


def _page(report: Report, shown: Sequence[tuple[str, str, Any]], problems: Sequence[Problem]) -> str:
    name = html.escape(report.benchmark.NAME)
    parts = [f"<h1>{name}</h1><p class='settings'>{html.escape(_settings(report))}; {len(report.results)} runs</p>"]
    for title, _, item in shown:
        if title:
            parts.append(f"<h2>{html.escape(title)}</h2>")
        parts.append(_image(item) if isinstance(item, Plot) else item._repr_html_())
    if problems:
        rows = "".join(f"<li>{html.escape(str(problem))}</li>" for problem in problems)
        parts.append(f"<h2>Skipped rows</h2><ul>{rows}</ul>")
    head = f"<meta charset='utf-8'><title>{name}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _image(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode()
    return f'<img alt="{html.escape(plot.title, quote=True)}" src="data:image/png;base64,{data}">'


def _notebook(report: Report, shown: Sequence[tuple[str, str, Any]], problems: Sequence[Problem]) -> Any:
    v4: Any = nbformat.v4
    title = f"# {report.benchmark.NAME}\n\n{_settings(report)}; {len(report.results)} runs"
    cells = [v4.new_markdown_cell(title)]
    start = 'from kernel_agent.benchmarks.report import load\n\nreport = load(".")'
    cells.append(v4.new_code_cell(start, execution_count=1))
    for count, (heading, source, item) in enumerate(shown, start=2):
        if heading:
            cells.append(v4.new_markdown_cell(f"## {heading}"))
        data = {"text/plain": repr(item)}
        if isinstance(item, Plot):
            data["image/png"] = base64.b64encode(item.png).decode()
        else:
            data["text/html"] = item._repr_html_()
        output = v4.new_output("execute_result", data=data, execution_count=count)
        cells.append(v4.new_code_cell(source, execution_count=count, outputs=[output]))
    if problems:
        cells.append(v4.new_markdown_cell("## Skipped rows\n\n" + "\n".join(f"- {problem}" for problem in problems)))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write_json(report: Report, path: Path, problems: Sequence[Problem], *, failed: int, seconds: float) -> None:
    """The report as one JSON object, with the skipped rows, the runs that did not finish and the wall time."""
    data = report.as_data() | {
        "failed": failed,
        "seconds": round(seconds, 3),
        "problems": [{"file": p.file, "index": p.index, "reason": p.reason} for p in problems],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")
