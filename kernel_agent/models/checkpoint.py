"""What a checkpoint folder says about itself, read without torch: family, dtype, revision, hashes of its files (see hashes.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from kernel_agent.errors import InputError, ModelFailed
from kernel_agent.types import Json

_SMALL = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_COMMIT = re.compile(r"[0-9a-f]{40}")


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


def small_files(path: str | Path) -> list[Path]:
    """All that decides beside the weights what a model is asked and does: configuration, tokenizer, processor, chat template."""
    return sorted(file for file in Path(path).iterdir() if file.suffix in _SMALL and file.is_file())


def snapshot(name: str, revision: str | None, variables: Mapping[str, str], folder: str | None = None) -> Path | None:
    """The folder of a hub checkpoint in the cache that a process with these variables uses (or `folder`); None where it has none."""
    home = variables.get("XDG_CACHE_HOME") or Path(variables.get("HOME") or Path.home()) / ".cache"
    hub = Path(variables.get("HF_HOME") or Path(home) / "huggingface") / "hub"
    cache = Path(folder or variables.get("HF_HUB_CACHE") or hub) / f"models--{name.replace('/', '--')}"
    wanted = revision or "main"
    if not _COMMIT.fullmatch(wanted):
        try:
            wanted = (cache / "refs" / wanted).read_text().strip()
        except (OSError, ValueError):
            return None
    found = cache / "snapshots" / wanted
    return found if _COMMIT.fullmatch(wanted) and found.is_dir() else None


def commit(path: str | Path) -> str | None:
    """The hub's revision, of a folder in a hub cache."""
    folder = Path(path)
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None
