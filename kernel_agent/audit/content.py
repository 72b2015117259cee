"""What a notebook says, field by field, whatever wrote the file: the basis of seals and of comparisons.

A notebook is a list of named parts: its cells in order (named by their ids, or by our record where an editor dropped those) and, last, `run` (our record in the notebook's
metadata, without the seal). Each has fields: `source`, `outputs[0].text`,
`attachments["image_0.png"].image/png`, `codevision.record.step.completion.text`, ... Guarantees: parts are equal exactly where the content is; what JupyterLab, VS Code
or nbformat change on saving is no content: order of keys, indentation, text as one string or as lines, 1.0 as 1, counts of
executions, and metadata that is not ours (kernelspec, language, widgets, folding) but what exporters draw by (`_DRAWN_BY`, `_TITLES`,
lines in the language's facts). Any other byte counts: text under a cell's keys that nbformat 4 does not know too, as some viewers read `input`.
Pure, without recursion, in time linear in the notebook's size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import orjson

from kernel_agent.trajectory.cells import KEY
from kernel_agent.types import Json

SEAL = "seal"
"""The key under our metadata that holds the seal."""
RUN = "run"
"""The part that is no cell."""
_SHORT = 64
_MOST_MOVED = 2000
"""Cells out of place up to which the fewest that moved are looked for: that takes time of its square."""
_PLAIN = re.compile(r"[\w/+-]+", re.ASCII)
_CELL = {"cell_type", "source", "outputs", "attachments"}
_DRAWN_BY = ("tags", "transient", "magics_language", "alt")
"""Metadata of a cell by which nbconvert leaves cells out, or writes it into them."""
_TITLES = ("title", "authors", "date")
"""Metadata of a notebook that nbconvert shows as it is."""
_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NUMBER = r"0|[1-9][0-9]{0,8}"
_NAMES = re.compile(
    rf"(?:step-(?P<step>{_NUMBER})(?P<thought>-thought)?|turn-(?P<turn>{_NUMBER})-(?P<part>question|answer)|(?P<setup>setup))"
)

_IDS = {
    "question": "turn-{}-question",
    "setup": "setup",
    "thought": "step-{}-thought",
    "step": "step-{}",
    "answer": "turn-{}-answer",
}
"""The ids of our cells by the kind in their record."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A cell or the run's own record. `fields` are in order of their names: a short value as JSON, a long one as `sha256:...`."""

    name: str
    fields: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        return digest_of(self.fields)


def digest_of(fields: Mapping[str, str]) -> str:
    """SHA-256 of fields, whatever their order."""
    return hashlib.sha256(orjson.dumps(dict(fields), option=orjson.OPT_SORT_KEYS)).hexdigest()


def parts(notebook: Json) -> list[Part]:
    """All parts of a notebook that `trajectory.notebook.parse` has taken."""
    found = [Part(name=name, fields=fields_of(cell)) for name, cell in named(notebook["cells"])]
    ours = {key: value for key, value in notebook["metadata"][KEY].items() if key != SEAL}
    return [*found, Part(name=RUN, fields=_fields(_leaves(ours, KEY)) | beside(notebook["metadata"]))]


def beside(metadata: Mapping[str, Json]) -> dict[str, str]:
    """What a notebook's own metadata shows besides our record: no editor writes any of it by itself."""
    facts = dict(_leaves(metadata.get("language_info"), "language_info"))
    found = {path: value for path, value in facts.items() if isinstance(value, str) and _LINES.search(value)}
    titles = (leaf for key in _TITLES if key in metadata for leaf in _leaves(metadata[key], key))
    return _fields([*found.items(), *titles])


def named(cells: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    """Cells with names, no two the same: their ids; a second one of the same id, and one without, gets a name by its place.

    A cell of ours that lost its id (nbformat 4.4 and Colab have none, and a later save gives it another) has its old one.
    """
    cells = list(cells)
    ids, taken = set(map(_id, cells)), set[str]()
    for number, cell in enumerate(cells):
        name = _id(cell)
        if not _NAMES.fullmatch(name) and (ours := _recorded_id(cell)) and ours not in ids:
            name = ours
        name = name or f"cell {number + 1}"
        while name in taken:
            name += f" (again, cell {number + 1})"
        taken.add(name)
        yield name, cell


def _id(cell: Json) -> str:
    """ "" where there is none that can be a name."""
    given = cell.get("id") if isinstance(cell, dict) else None
    return given if isinstance(given, str) and given != RUN else ""


def _recorded_id(cell: Json) -> str:
    """The id that trajectory.cells gave to the cell with this record; "" for a cell that is not ours."""
    metadata = cell.get("metadata") if isinstance(cell, dict) else None
    record = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(record, dict):
        return ""
    form = _IDS.get(str(record.get("kind")), "")
    return form.format(record.get("turn", record.get("index")))


def fields_of(cell: Json) -> dict[str, str]:
    """The fields of one cell."""
    return _fields(_cell(cell))


def place(name: str) -> str:
    """A part's name as people read it: `step-2-thought` is "step 3, thought"."""
    match = _NAMES.fullmatch(name)
    if match is None:
        return RUN if name == RUN else f"cell {name[:100]!r}"
    if match["step"]:
        return f"step {int(match['step']) + 1}{', thought' if match['thought'] else ''}"
    return f"turn {int(match['turn']) + 1}, {match['part']}" if match["turn"] else "setup"


def moved(was: Sequence[str], now: Sequence[str]) -> list[str]:
    """Of the same names in two orders, two that changed places, else those that are not in a longest common run of both."""
    apart = [name for name, old in zip(now, was, strict=True) if name != old]
    if len(apart) <= 2 or len(apart) > _MOST_MOVED:
        return apart
    blocks = SequenceMatcher(None, was, now, autojunk=False).get_matching_blocks()
    kept = {was[at] for block in blocks for at in range(block.a, block.a + block.size)}
    return [name for name in now if name not in kept]


def _fields(leaves: Iterable[tuple[str, Json]]) -> dict[str, str]:
    return dict(sorted((path, field_value(value)) for path, value in leaves))


def field_value(value: Json) -> str:
    """A value that holds nothing else, as fields have it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JavaScript writes 1.0 as 1 and -0.0 as 0
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else orjson.dumps(value).decode()
    return text if len(text) <= _SHORT else "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _cell(cell: Json) -> Iterator[tuple[str, Json]]:
    if not isinstance(cell, dict):
        yield "cell", cell if isinstance(cell, (str, int, float)) else None
        return
    for key in cell.keys() - {"id", "metadata"}:
        if key == "execution_count":
            yield from () if _is_count(cell[key]) else _leaves(cell[key], key)
        elif key not in _CELL:
            yield from (leaf for leaf in _leaves(cell[key], _under("cell", key)) if isinstance(leaf[1], str))
        elif key == "source":
            yield from _leaves(_joined(cell[key]), key)
        elif key == "outputs" and isinstance(cell[key], list):
            for number, output in enumerate(cell[key]):
                yield from _output(output, f"outputs[{number}]")
        elif key == "attachments" and isinstance(cell[key], dict):
            for name, bundle in cell[key].items():
                yield from _bundle(bundle, _under("attachments", name))
        else:
            yield from _leaves(cell[key], key)
    metadata = cell.get("metadata")
    for key in (*_DRAWN_BY, KEY):
        if isinstance(metadata, dict) and key in metadata:
            yield from _leaves(metadata[key], key)


def _output(output: Json, where: str) -> Iterator[tuple[str, Json]]:
    if not isinstance(output, dict):
        yield from _leaves(output, where)
        return
    for key, value in output.items():
        if key == "data":
            yield from _bundle(value, f"{where}.data")
        elif key == "text":
            yield from _leaves(_joined(value), f"{where}.text")
        elif not (key == "execution_count" and _is_count(value)) and value != {}:
            yield from _leaves(value, _under(where, key))


def _is_count(value: Json) -> bool:
    """Whether this is a number or nothing: viewers show whatever stands there."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _bundle(bundle: Json, where: str) -> Iterator[tuple[str, Json]]:
    """Data by MIME type; the base64 of an image may be broken into lines."""
    if not isinstance(bundle, dict):
        yield from _leaves(bundle, where)
        return
    for mime, value in bundle.items():
        text = _joined(value)
        if isinstance(text, str):
            image = mime.startswith(("image/", "application/octet")) and "svg" not in mime
            yield _under(where, mime), "".join(text.split()) if image else text
        else:
            yield from _leaves(text, _under(where, mime))


def _joined(value: Json) -> Json:
    """Text that nbformat keeps as lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _under(where: str, key: str) -> str:
    """The path of a key; one that is no plain word is quoted, so that no two things have the same path."""
    return f"{where}.{key}" if _PLAIN.fullmatch(key) else f"{where}[{orjson.dumps(key).decode()}]"


def _leaves(value: Json, where: str) -> Iterator[tuple[str, Json]]:
    """Everything in a value that holds nothing else, with its path; an empty list or object is such a thing too."""
    stack = [(where, value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict) and item:
            stack += [(_under(path, key), inner) for key, inner in item.items()]
        elif isinstance(item, list) and item:
            stack += [(f"{path}[{number}]", inner) for number, inner in enumerate(item)]
        else:
            yield path, item
