"""The folder of a training: `train.json` says what was asked, so that the same call goes on and another is refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from kernel_agent.errors import InputError
from kernel_agent.types import Json

RECORD = "train.json"


def check_free(folder: Path) -> None:
    """InputError where it holds something that is no training."""
    if not (folder / RECORD).exists() and folder.is_dir() and any(path.suffix != ".part" for path in folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no training: give another folder")


def read_record(
    folder: Path, asked: Mapping[str, Mapping[str, Json]], may_differ: Collection[str] = ()
) -> dict[str, Json] | None:
    """The record of the training that it holds, None for none. InputError where that is another than was asked for."""
    check_free(folder)
    if not (folder / RECORD).exists():
        return None
    found: dict[str, Json] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    differing = [
        f"{part}.{key}={found.get(part, {}).get(key)!r:.60}"
        for part, values in json.loads(json.dumps(asked)).items()
        for key, value in values.items()
        if key not in may_differ and found.get(part, {}).get(key) != value
    ]
    if differing:
        raise InputError(
            f"{folder} holds another training ({', '.join(differing)}): give the same arguments to go on, or another folder"
        )
    return found


def write_record(folder: Path, record: Mapping[str, Json]) -> None:
    """It appears whole."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / RECORD)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest of transformers' Trainer that was written to its end: the trainer's state comes last."""
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            whole.append((int(state["global_step"]), path))
        except (OSError, ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None
