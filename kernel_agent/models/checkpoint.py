"""What a checkpoint folder says about itself, read without torch: family, dtype, size, hash of the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kernel_agent.errors import InputError, ModelFailed
from kernel_agent.types import Json

HASH_LIMIT = 8 * 2**30
"""Weights larger than this are not hashed: it would take longer than it tells."""


def embedded_path() -> Path:
    """Folder of the checkpoint that ships with the package. Raises ModelFailed where it is missing."""
    remedy = "Install the package again, or give a model: --base-url and --model, or the folder of a checkpoint."
    try:
        from kernel_agent.embedded import checkpoint_path

        path = Path(checkpoint_path())
    except (ImportError, FileNotFoundError) as error:
        raise ModelFailed(f"This installation has no embedded model: {error}. {remedy}") from None
    if not (path / "config.json").is_file():
        raise ModelFailed(f"The embedded model's folder {path} holds no config.json. {remedy}")
    return path


def resolve(name: str | Path) -> str:
    """ "embedded", a folder, or a hub name, as a path or name to load. Raises InputError for a path that is no checkpoint."""
    if str(name) == "embedded":
        return str(embedded_path())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f"{path} holds no config.json: give the folder of a checkpoint (config, weights, processor)."
            )
        return str(path.resolve())
    if path.exists() or path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") != 1:
        raise InputError(f"{name} is neither the folder of a checkpoint nor a hub name like Qwen/Qwen3-VL-8B-Instruct.")
    return str(name)


def read_config(path: str | Path) -> dict[str, Json]:
    """config.json of a local checkpoint; empty for a hub name. Raises InputError where it is no JSON."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is no JSON ({error}): the checkpoint is damaged, get it again.") from None
    return config if isinstance(config, dict) else {}


def weight_files(path: str | Path) -> list[Path]:
    """The weights of a local checkpoint, by name."""
    folder = Path(path)
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def weights_sha256(path: str | Path) -> str | None:
    """SHA-256 over the weight files one after another (one file: its own); None where there are none or they are huge."""
    files = weight_files(path)
    if not files or sum(file.stat().st_size for file in files) > HASH_LIMIT:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
