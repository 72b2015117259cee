"""An audit as one HTML page that shows and does nothing: no script, no link, nothing fetched, everything escaped.

Guarantees: whatever a record holds is text here; pictures are PNG files that this package encoded from pixels, as `data:`; the
page's own policy (CSP) forbids all but those and its one style sheet. The page is bounded whatever the record's size.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kernel_agent.audit.exchanges import told_again
from kernel_agent.audit.finding import Outcome, Report, sealed
from kernel_agent.audit.model import lines
from kernel_agent.audit.said import HIDDEN
from kernel_agent.audit.verdicts import CellVerdict, Comparison, Verdict
from kernel_agent.types import Json, KernelImage

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory

_CELLS = 500
_FINDINGS = 500
_COMPARISONS = 40
_CHARACTERS = 4000
_SIDE = 120
_PICTURES = 400
_SECONDS = 60.0

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:#f5f6f8;border:1px solid #e2e5e9;border-radius:4px;padding:.6rem;margin:.4rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #e2e5e9}
td{overflow-wrap:anywhere}.k{width:11rem}.m{display:inline-block;border-radius:3px;padding:0 .5rem;font-weight:600;white-space:nowrap}
.ok{background:#dff3e4;color:#0b5a28}.no{background:#fde2e1;color:#8f1414}.un{background:#fdf1cf;color:#6b4e00}
.big{font-size:1.1rem;padding:.2rem .8rem}.s{color:#59636e}.cell{border:1px solid #e2e5e9;border-radius:6px;padding:.6rem 1rem;margin:.8rem 0}
.c-no{border:2px solid #d33}.c-un{border:2px solid #d9a400}
.two{display:grid;grid-template-columns:1fr 1fr;gap:.8rem}.three{display:grid;grid-template-columns:1fr 1fr 1fr;gap:.8rem}
figure{margin:.4rem 0}figure img{max-width:100%;border:1px solid #c8cdd3}figcaption{font-size:.85rem;color:#59636e}
.strip{display:flex;flex-wrap:wrap;gap:.6rem}details>summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e4e7ea}pre{background:#1d2125;border-color:#343a40}
td,th{border-color:#343a40}.s,figcaption{color:#9aa4ae}}
"""


def to_html(report: Report, trajectory: Trajectory | None = None) -> str:
    """The page. With the trajectory it also shows questions, answers and small pictures of the images."""
    body = [_head(report), _findings(report)]
    until = time.monotonic() + _SECONDS
    if trajectory is not None:
        body.append(_run(trajectory, until))
    body.append(_exchanges(report))
    if report.rerun is not None:
        body += _cells(report, trajectory, until)
    return _page(f"Audit of {report.name}", body)


def diff_page(first: str, second: str, text: str, images: Iterable[Comparison]) -> str:
    """What two runs have not in common."""
    found = list(images)
    pictures = [_comparison(item, ("first", "second")) for item in found[:_COMPARISONS]]
    title = f"{first} and {second}"
    same = "<p>The pictures are the same.</p>" if not found else _more(len(found) - _COMPARISONS, "pictures")
    head = f"<h1>{_text(title)}</h1><h2>Pictures</h2>"
    return _page(title, [head, *pictures, same, f"<h2>Cells</h2><pre>{_text(text, 100_000) or 'the same'}</pre>"])


def _page(title: str, body: Iterable[str]) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _head(report: Report) -> str:
    rerun = report.rerun
    rows = [("Run", report.run_id or "not readable"), ("SHA-256 of the file", report.sha256 or "none: a run in memory")]
    if made := report.audited:
        how = ", ".join(f"{name} {value}" for name, value in made["options"].items())
        rows.append(("Audited", f"{made['time']}, kernel-agent {made['version']}; {how}"))
    rows.append(("Signature", sealed(report)))
    if report.recorded:
        rows.append(("Recorded in", ", ".join(f"{name} {value}" for name, value in report.recorded.items())))
    rows += [] if not report.model else lines(report.model)
    if again := told_again(report):
        rows.append(("Asked again", again))
    if report.people:
        rows.append(("Decisions of people", "; ".join(map(_decision, report.people[:_CELLS]))))
    if rerun is not None:
        rows.append(
            ("Cells", ", ".join(f"{count} {name}" for name, count in rerun.counts().items() if count) or "none")
        )
        rows.append(("Run again in", f"isolation {rerun.isolation}, {rerun.seconds:.1f} s"))
        changed = "; ".join(f"{name}: {old}, here {new}" for name, (old, new) in rerun.environment.items())
        rows.append(("Environment", changed or "as recorded"))
    table = "".join(f'<tr><th class="k">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows)
    mark = _mark(report.summary, _CLASS[report.outcome], big=True)
    return f"<h1>Audit of {_text(report.name)}</h1><p>{mark}</p><table>{table}</table>"


def _decision(item: Mapping[str, Json]) -> str:
    return f"{item['what']} by {item['by'] or 'somebody'} at step {item['step']}"


def _findings(report: Report) -> str:
    if not report.findings:
        return "<h2>Findings</h2><p>None.</p>"
    rows = "".join(
        f"<tr><td>{_mark(str(item.outcome), _CLASS[item.outcome])}</td><td>{_text(item.cell)}</td>"
        f"<td>{_text(item.field)}</td><td>{_text(item.message)}</td><td>{_text(item.check)}</td></tr>"
        for item in report.findings[:_FINDINGS]
    )
    more = _more(len(report.findings) - _FINDINGS, "findings")
    head = "<tr><th></th><th>Where</th><th>Field</th><th>What</th><th>Check</th></tr>"
    return f"<h2>Findings</h2><table>{head}{rows}</table>{more}"


def _run(trajectory: Trajectory, until: float) -> str:
    made = {image.index for step in trajectory.steps for image in step.images}
    out = ["<h2>Question</h2>", _strip([image for image in trajectory.images if image.index not in made][:20], until)]
    for turn in trajectory.turns[:20]:
        out.append(f"<pre>{_text(turn.question)}</pre>")
        if turn.answer is not None:
            out.append(f'<p class="s">Recorded answer</p><pre>{_text(turn.answer)}</pre>')
    return "".join(out)


def _exchanges(report: Report) -> str:
    if not report.exchanges:
        return ""
    columns = {
        "Step": "step",
        "Model": "gen_ai.response.model",
        "Tokens in": "gen_ai.usage.input_tokens",
        "out": "gen_ai.usage.output_tokens",
        "Ended by": "gen_ai.response.finish_reasons",
        "Temperature": "gen_ai.request.temperature",
        "Seed": "gen_ai.request.seed",
        "On the way": "codevision.events",
        "Request, SHA-256": "codevision.request.sha256",
        "Prompt's tokens, SHA-256": "codevision.prompt.tokens.sha256",
    }
    rows = []
    for item in report.exchanges[:_CELLS]:
        values = [item.get(key, "not told" if key.startswith("codevision.prompt") else "") for key in columns.values()]
        texts = (", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
        rows.append("<tr>" + "".join(f"<td>{_text(text[:64])}</td>" for text in texts) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in columns)
    more = _more(len(report.exchanges) - _CELLS, "requests")
    return f"<h2>What the model was asked</h2><table><tr>{head}</tr>{''.join(rows)}</table>{more}"


def _cells(report: Report, trajectory: Trajectory | None, until: float) -> Iterable[str]:
    assert report.rerun is not None
    yield "<h2>Cells</h2>"
    left = _PICTURES
    for cell in report.rerun.cells[:_CELLS]:
        images = list(trajectory.steps[cell.step].images)[:left] if trajectory is not None else []
        left -= len(images)
        yield _cell(cell, images, until)
    yield _more(len(report.rerun.cells) - _CELLS, "cells")


def _cell(cell: CellVerdict, images: list[KernelImage], until: float) -> str:
    kind = _kind(cell.verdict)
    again = "not run" if cell.replayed is None else str(cell.replayed)
    facts = f"recorded {cell.recorded} in {cell.seconds[0]:.2f} s, again {again} in {cell.seconds[1]:.2f} s; {cell.compared} things compared"
    parts = [
        f'<section class="cell c-{kind}"><p><strong>Step {cell.step + 1}</strong> {_mark(str(cell.verdict), kind)} <span class="s">{_text(facts)}</span></p>'
    ]
    if cell.why:
        parts.append(f"<p>{_text(cell.why)}</p>")
    parts.append(f"<pre>{_text(cell.source)}</pre>")
    parts += [_comparison(item) for item in cell.comparisons[:_COMPARISONS]]
    parts.append(_more(len(cell.comparisons) - _COMPARISONS, "differences"))
    parts.append(_strip(images, until))
    if cell.sources:
        told = "; ".join(
            f"{item.name} ({'pinned' if item.pinned else 'not pinned'}: {item.how})" for item in cell.sources
        )
        parts.append(f'<p class="s">May draw on {_text(told)}</p>')
    return "".join([*parts, "</section>"])


def _comparison(item: Comparison, sides: tuple[str, str] = ("recorded", "again")) -> str:
    out = [
        f"<p>{_mark(str(item.verdict), _kind(item.verdict))} <strong>{_text(item.what)}</strong> {_text(item.how)}</p>"
    ]
    if item.pictures:
        titles = (*sides, "difference in red")
        figures = (_figure(data, title) for data, title in zip(item.pictures, titles, strict=False))
        out.append(f'<div class="three">{"".join(figures)}</div>')
    if any(item.texts):
        two = (
            f'<div><span class="s">{title}</span><pre>{_text(text)}</pre></div>'
            for title, text in zip(sides, item.texts, strict=True)
        )
        out.append(f'<div class="two">{"".join(two)}</div>')
    return "".join(out)


def _strip(images: Iterable[KernelImage], until: float) -> str:
    """Small pictures, as long as there is time (of the monotonic clock) to draw them."""
    figures, late = [], 0
    for image in images:
        if time.monotonic() > until:
            late += 1
        elif small := _small(image):
            figures.append(_figure(small, f"{image.name}, {image.size[0]} × {image.size[1]} px"))
    strip = f'<div class="strip">{"".join(figures)}</div>' if figures else ""
    return strip + (f'<p class="s">{late} pictures were not drawn: {_SECONDS:g} s were up.</p>' if late else "")


def _small(image: KernelImage) -> bytes | None:
    """A small picture of the record's file, decoded under limits."""
    from kernel_agent.errors import ImageError
    from kernel_agent.session.images import load_image

    try:
        picture = load_image(image.data, max_pixels=100_000_000).pil
    except ImageError:
        return None
    picture.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
    small = io.BytesIO()
    picture.save(small, "PNG")
    return small.getvalue()


def _figure(data: bytes, title: str) -> str:
    coded = base64.b64encode(data).decode("ascii")
    return f'<figure><img alt="{_text(title)}" src="data:image/png;base64,{coded}"><figcaption>{_text(title)}</figcaption></figure>'


def _mark(text: str, kind: str, *, big: bool = False) -> str:
    return f'<span class="m {kind}{" big" if big else ""}">{_text(text)}</span>'


_CLASS: Mapping[Outcome, str] = {Outcome.HOLDS: "ok", Outcome.FAILS: "no", Outcome.UNCHECKED: "un"}


def _kind(verdict: Verdict) -> str:
    return "un" if verdict.holds is None else "ok" if verdict.holds else "no"


def _more(count: int, what: str) -> str:
    return f'<p class="s">… {count} more {what}: all are in the JSON report.</p>' if count > 0 else ""


def _text(value: str, most: int = _CHARACTERS) -> str:
    """Escaped and cut. Nothing is taken away: a carriage return alone is a new line, as it is to Python, and what would hide text,
    turn it around or may stand in no page is a replacement character."""
    cut = value[:most] + (f"\n[… {len(value) - most} more characters]" if len(value) > most else "")
    plain = _RETURN.sub("\n", cut)
    return html.escape(HIDDEN.sub("\ufffd", plain), quote=True)


_RETURN = re.compile("\r\n?")
