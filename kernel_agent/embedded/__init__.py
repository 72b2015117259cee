"""The small model that ships with the package. What it can and cannot do: MODEL_CARD.md beside this file."""

from __future__ import annotations

from pathlib import Path


def checkpoint_path() -> Path:
    """The folder with the weights, for `transformers` and vLLM alike. Raises FileNotFoundError where it is missing."""
    folder = Path(__file__).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no weights in {folder}: reinstall the package, or train them (MODEL_CARD.md says how)"
        )
    return folder
