"""Small files in the schemas of the published data sets, made by the tests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (24, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def base64_png(colour: tuple[int, int, int] = (200, 30, 30)) -> str:
    return base64.b64encode(png(colour, (60, 40))).decode()


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    head = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["\t".join(head), *("\t".join(str(row.get(key, "")) for key in head) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rl_row(**changes: Any) -> dict[str, Any]:
    """A row of MVToolBench as it is published."""
    return {
        "data_source": "hiertext",
        "prompt": [{"role": "user", "content": "<image>\nHow many times does 'the' appear?"}],
        "images": [{"bytes": png()}],
        "ability": "hiertext",
        "env_name": "hiertext",
        "reward_model": {"ground_truth": "2", "style": "model"},
        "extra_info": {
            "answer": "2",
            "bbox": [1, 2, 9, 8],
            "dataset_name": "hiertext",
            "index": 0,
            "question": "How many times does 'the' appear?",
            "split": "train",
            "transform": ["crop", "rotate_90"],
        },
    } | changes
