"""Rows out of files: parquet, JSON, JSON lines, TSV and CSV, or a folder of them.

Rows come in file order, files by name. A line that is no JSON object is a `Problem` and the rest is read; a file that is
none of these, or is cut off, ends with a problem of its own (its index is -1). NaN (what some writers make of a missing
cell) is None. Parquet needs pyarrow (`kernel-agent[eval]`).
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from kernel_agent.errors import InputError
from kernel_agent.types import Json

Row: TypeAlias = Mapping[str, Json]
SUFFIXES = (".parquet", ".json", ".jsonl", ".tsv", ".csv")
BATCH = 16
"""Parquet rows read at a time: pictures of tens of megapixels are in them."""


class RowError(ValueError):
    """A row that cannot be used; the message says which field and why."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row that was skipped. `index` counts the rows of `file` from 0; -1 is the file itself."""

    file: str
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.index}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A row and where it stands."""

    file: Path
    index: int
    row: Row

    def problem(self, reason: object) -> Problem:
        """Why this row is skipped."""
        return Problem(file=str(self.file), index=self.index, reason=str(reason))


def data_files(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files meant by `path`: itself, or those of a folder by name. InputError where there are none."""
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise InputError(f"{path} is no data file: give one that ends in {', '.join(suffixes)}.")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist: give the data file, or the folder with the data files.")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    if not found:
        raise InputError(f"{path} holds no data file ({', '.join(suffixes)}): give the folder that does.")
    return found


def read_rows(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Found | Problem]:
    """Every row of the file or folder, and a problem for each that cannot be read. Raises InputError."""
    for file in data_files(path, suffixes):
        reader = _READERS[file.suffix.lower()]
        index = -1
        try:
            for index, row in enumerate(reader(file)):
                if isinstance(row, Mapping):
                    yield Found(file=file, index=index, row={key: _no_nan(value) for key, value in row.items()})
                else:
                    yield Problem(file=str(file), index=index, reason=_not_a_row(row))
        except (OSError, ValueError, csv.Error) as error:
            after = f"after row {index}: " if index >= 0 else ""
            yield Problem(file=str(file), index=-1, reason=f"{after}the file cannot be read ({error})")


def _not_a_row(row: object) -> str:
    return str(row) if isinstance(row, Exception) else f"a {type(row).__name__}, not an object with named fields"


def _no_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _parquet(file: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(f"{file} is a parquet file, which needs pyarrow: pip install 'kernel-agent[eval]'") from error
    with parquet.ParquetFile(file) as source:
        for batch in source.iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()


def _json(file: Path) -> Iterator[Any]:
    data = orjson.loads(file.read_bytes())
    if isinstance(data, dict):  # {"data": [...]}, {"0": {...}, "1": {...}}, or one row
        lists = [value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1 and len(data) <= 4:
            data = lists[0]
        elif data and all(isinstance(value, dict) for value in data.values()):
            data = list(data.values())
        else:
            data = [data]
    if not isinstance(data, list):
        raise ValueError(f"it holds a {type(data).__name__}, not a list of rows")
    yield from data


def _json_lines(file: Path) -> Iterator[Any]:
    with file.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                yield error


def _table(file: Path) -> Iterator[Any]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # pictures are in the cells, as base64
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        for row in reader:
            if None in row:
                yield ValueError(f"{len(row[None]) + len(row) - 1} cells, the header has {len(row) - 1}")
            else:
                yield {key: value for key, value in row.items() if value not in ("", None)}


_READERS = {".parquet": _parquet, ".json": _json, ".jsonl": _json_lines, ".tsv": _table, ".csv": _table}
