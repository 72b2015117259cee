"""A table and a plot as values: shown as HTML and PNG in a notebook, as Markdown in the docs, as text in a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Link:
    """A cell that leads somewhere."""

    text: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """`rows` of cells under a `head`: text, numbers (one decimal), links, None (a dash)."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.head)
        rows = "".join("<tr>" + "".join(f"<td>{_html(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        note = f"<p class='note'>{html.escape(self.note)}</p>" if self.note else ""
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"

    def markdown(self) -> str:
        """As a Markdown table, without title and note."""
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return "\n".join("| " + " | ".join(_text(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

    def __repr__(self) -> str:
        cells = [list(self.head), *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[k]) for row in cells) for k in range(len(self.head))]
        lines = [
            "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])])


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return " ".join((cell.text if isinstance(cell, Link) else str(cell)).split())


def _html(cell: Any) -> str:
    if isinstance(cell, Link):
        return f'<a href="{html.escape(cell.href, quote=True)}">{html.escape(cell.text)}</a>'
    return html.escape(_text(cell))


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn figure, as PNG."""

    title: str
    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, kw_only=True)
class Series:
    """Bars of one colour: a value at each of the plot's names, None where there is none."""

    name: str
    values: Sequence[float | None]


def bars(title: str, names: Sequence[str], series: Sequence[Series], *, unit: str) -> Plot:
    """Grouped bars."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 0.9 * len(names) * max(1, len(series)) ** 0.5 + 2), 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(series))
    for number, one in enumerate(series):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(names))]
        drawn = axes.bar(places, [value or 0.0 for value in one.values], width, label=one.name)
        axes.bar_label(drawn, labels=["" if value is None else f"{value:.3g}" for value in one.values], fontsize=7)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    if len(series) > 1:
        axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return Plot(title=title, png=file.getvalue())
