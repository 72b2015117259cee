"""What is done to copies of honest notebooks: one seeded change each, and where it lies. For `perf.tamper`.

The place is worked out here anew, not by the code under measurement.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nbformat
import numpy as np
import orjson
from PIL import Image

from kernel_agent.audit.content import place

Path_ = tuple[Any, ...]
_PLAIN = re.compile(r"[\w/+-]+", re.ASCII)
_FORMATTING = {"execution_count", "id"}


@dataclass(frozen=True, kw_only=True)
class Tampering:
    """One change: `cell` and `field` are where the audit has to point; `field` "" for any of that cell."""

    kind: str
    cell: str
    field: str


# Where things are


def written(path: Path_) -> str:
    """A path as audits write it."""
    out = ""
    for key in path:
        if isinstance(key, int):
            out += f"[{key}]"
        else:
            out += f".{key}" if _PLAIN.fullmatch(key) else f"[{json.dumps(key, ensure_ascii=False)}]"
    return out.removeprefix(".")


def walk(value: Any, path: Path_ = ()) -> Iterator[tuple[Any, Any, Path_]]:
    """Everything inside a value, containers too: (holder, key, path)."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in items:
        yield value, key, (*path, key)
        yield from walk(inner, (*path, key))


def spots(run: Any) -> Iterator[tuple[str, Any, Any, Path_]]:
    """Every place of content in a notebook: (part, holder, key, path as audits have it)."""
    for cell in run["cells"]:
        for key in ("cell_type", "source"):
            yield cell["id"], cell, key, (key,)
        for key in ("outputs", "attachments"):
            for holder, inner, path in walk(cell.get(key, ()), (key,)):
                if path[-1] not in _FORMATTING and not _is_line(holder, path) and holder.get(inner, 0) != {}:
                    yield cell["id"], holder, inner, path
        for key in ("codevision", "tags"):
            for holder, inner, path in walk(cell["metadata"].get(key, ()), (key,)):
                yield cell["id"], holder, inner, path
    ours = {key: value for key, value in run["metadata"]["codevision"].items() if key != "seal"}
    for holder, inner, path in walk(ours, ("codevision",)):
        yield "run", run["metadata"]["codevision"] if len(path) == 2 else holder, inner, path
    for holder, inner, path in seal_spots(run):
        if "sigstore" in path:
            yield "seal", holder, inner, path


def seal_spots(run: Any) -> Iterator[tuple[Any, Any, Path_]]:
    """Every value of the seal that holds nothing else, but a checkpoint: names on its lines of signatures are not compared."""
    for holder, key, path in walk(run["metadata"]["codevision"].get("seal", {}), ("codevision", "seal")):
        if not isinstance(holder[key], (dict, list)) and path[-2:] != ("checkpoint", "envelope"):
            yield holder, key, path


def _at(part: str, path: Path_) -> tuple[str, str]:
    """Cell and field that an audit has to name; of a seal any field."""
    return ("seal", "") if part == "seal" else (place(part), written(path))


def _is_line(holder: Any, path: Path_) -> bool:
    """One line of a text that counts as a whole; a list of outputs or frames is handled by `_items`."""
    return isinstance(holder, list)


def lists(run: Any) -> Iterator[tuple[str, list[Any], Path_]]:
    """Every list of content with two items or more."""
    for part, holder, key, path in spots(run):
        value = holder[key]
        text = path[-1] in ("source", "text") or "data" in path
        if isinstance(value, list) and len(value) > 1 and not text:
            yield part, value, path
    for cell in run["cells"]:
        if len(cell.get("outputs", ())) > 1:
            yield cell["id"], cell["outputs"], ("outputs",)


# What is done


def changed(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1))
    if isinstance(value, float):
        return float(np.nextafter(value, np.inf)) if abs(value) > 1e-300 else 1e-9
    if value is None:
        return 0
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return [*value[:-1], changed(value[-1], rng)]
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice(
            (value[:at] + "x" + value[at:], value[:at] + value[at + 1 :] if at < len(value) else value + " ")
        )
    return {**value, "added": 1} if isinstance(value, dict) else [*value, 1]


def lowest_bit(coded: Any, rng: random.Random) -> str:
    """The same picture as PNG with the lowest bit of one channel of one pixel flipped."""
    with Image.open(io.BytesIO(base64.b64decode("".join(coded)))) as picture:
        pixels = np.array(picture)
    pixels.flat[rng.randrange(pixels.size)] ^= 1
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def field_change(run: Any, rng: random.Random, want: str | None) -> Tampering | None:
    """One field changed, taken out, or put in. `want` is the kind of field that it has to be."""
    found = [spot for spot in spots(run) if want is None or generic(spot) == want]
    part, holder, key, path = rng.choice(found)
    value, (cell, field) = holder[key], _at(part, path)
    if _is_picture(path) and rng.random() < 0.7:
        holder[key] = lowest_bit(value, rng)
        return Tampering(kind="lowest bit of a pixel", cell=cell, field=field)
    if rng.random() < 0.2 and path[-1] != "cell_type" and isinstance(holder, dict):
        del holder[key]
        return Tampering(kind="field taken out", cell=cell, field=field)
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(line, str) for line in value)):
        holder[key] = changed(value, rng)
        return Tampering(kind="field put in", cell=cell, field=field)
    holder[key] = changed(value, rng)
    return Tampering(kind="field changed", cell=cell, field=field) if holder[key] != value else None


def _is_picture(path: Path_) -> bool:
    return path[-1] in ("image/png", "image/jpeg") or path[-2:-1] == ("views",)


def pixel_change(run: Any, rng: random.Random) -> Tampering:
    """The lowest bit of one channel of one pixel, of any picture that the notebook holds."""
    part, holder, key, path = rng.choice([spot for spot in spots(run) if _is_picture(spot[3])])
    holder[key] = lowest_bit(holder[key], rng)
    return Tampering(kind="lowest bit of a pixel", cell=place(part), field=written(path))


def cut_off(data: bytes, rng: random.Random) -> tuple[bytes, Tampering]:
    """A file that ends too early."""
    return data[: rng.randrange(len(data) - 1)], Tampering(kind="file cut off", cell="run", field="file")


def generic(spot: tuple[str, Any, Any, Path_]) -> str:
    """The kind of a field: its path without numbers, in the kind of its part."""
    part, _, _, path = spot
    return f"{re.sub(r'[0-9]+', 'N', part)}: {'.'.join('N' if isinstance(key, int) else re.sub(r'[0-9]+', 'N', key) for key in path)}"


def item_change(run: Any, rng: random.Random) -> Tampering | None:
    """An item of a list taken out, doubled or moved."""
    part, items, path = rng.choice(list(lists(run)))
    before, at = copy.deepcopy(items), rng.randrange(len(items))
    kind = rng.choice(("taken out", "doubled", "moved"))
    item = items.pop(at) if kind != "doubled" else copy.deepcopy(items[at])
    if kind != "taken out":
        items.insert((at + 1) % (len(items) + 1), item)
    return Tampering(kind=f"item {kind}", cell=place(part), field=written(path)) if items != before else None


def cell_change(run: Any, rng: random.Random) -> Tampering:
    """A cell taken out, put in, doubled or moved."""
    cells = run["cells"]
    at = rng.randrange(len(cells))
    kind = rng.choice(("taken out", "put in", "doubled", "moved"))
    if kind == "taken out":
        return Tampering(kind="cell taken out", cell=place(cells.pop(at)["id"]), field="cell")
    if kind == "moved":
        cell = cells.pop(at)
        others = [number for number in range(len(cells) + 1) if number != at]
        cells.insert(to := rng.choice(others), cell)
        moved = cell if abs(to - at) > 1 else None  # of two neighbours either was moved
        return Tampering(kind="cell moved", cell=place(moved["id"]) if moved else "", field="order")
    new = copy.deepcopy(cells[at]) if kind == "doubled" else nbformat.v4.new_markdown_cell("# Answer\n\n8")
    new["id"] = f"n{rng.randrange(10**6)}"
    cells.insert(rng.randrange(len(cells) + 1), new)
    return Tampering(kind=f"cell {kind}", cell=place(new["id"]), field="cell")


def beside_change(run: Any, rng: random.Random) -> Tampering:
    """Something put in beside the record that a viewer or an exporter shows, or by which it leaves a cell out."""
    if rng.random() < 0.3:
        key, field = rng.choice((("title", "title"), ("date", "date"), ("language_info", "language_info.name")))
        run["metadata"][key] = {"name": "python\n# 8"} if key == "language_info" else "8"
        return Tampering(kind="put in beside the record", cell="run", field=field)
    cell = rng.choice(run["cells"])
    holder, keys = rng.choice(
        ((cell, ("execution_count", "input")), (cell["metadata"], ("transient", "magics_language", "alt", "tags")))
    )
    key = rng.choice([key for key in keys if not isinstance(holder.get(key), (list, str))])
    holder[key] = {"remove_source": True} if key == "transient" else "8"
    return Tampering(
        kind="put in beside the record", cell=place(cell["id"]), field=f"cell.{key}" if key == "input" else key
    )


def seal_change(run: Any, rng: random.Random) -> Tampering | None:
    """The seal itself: any value in it changed or taken out, or all of it."""
    ours = run["metadata"]["codevision"]
    if rng.random() < 0.1:
        del ours["seal"]
        return Tampering(kind="seal taken out", cell="seal", field="")
    if rng.random() < 0.1:
        holders = [ours["seal"], *(spot[0][spot[1]] for spot in walk(ours["seal"]))]
        rng.choice([holder for holder in holders if isinstance(holder, dict)])["added"] = rng.choice(("x", 1, {}))
        return Tampering(kind="seal: something put in", cell="seal", field="")
    holder, key, _ = rng.choice(list(seal_spots(run)))
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = changed(holder[key], rng)
    return Tampering(kind="seal changed", cell="seal", field="")


def saved_anew(data: bytes, rng: random.Random) -> bytes:
    """An honest copy as an editor saves it."""
    run = nbformat.from_dict(orjson.loads(data))
    run.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    run.metadata["language_info"] = {"name": "python", "version": f"3.{rng.randrange(11, 15)}.0"}
    for cell in run.cells:
        if rng.random() < 0.3:
            cell.metadata["collapsed"] = True
        if cell.cell_type == "code":
            cell.execution_count = rng.choice((None, 7))
    text = nbformat.writes(run, indent=rng.randrange(1, 5), sort_keys=rng.random() < 0.5)
    return json.dumps(_as_javascript(json.loads(text))).encode() if rng.random() < 0.5 else text.encode()


def _as_javascript(value: Any) -> Any:
    """1.0 is 1 there."""
    if isinstance(value, dict):
        return {key: _as_javascript(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_javascript(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
