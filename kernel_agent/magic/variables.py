"""What a word of the magic's line means: a variable of the notebook, an expression on one, or a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernel_agent.errors import ImageError, InputError
from kernel_agent.types import KernelImage

_WORDS = "a file, a PIL image, an array, a matplotlib figure, or a list of those"


def resolve(words: Sequence[str], namespace: Mapping[str, Any]) -> list[Any]:
    """The images that the words name, in order; a list or tuple of images gives all of its items.

    A word is looked up in this order: a variable (`photo`, `_`), an expression that begins with one (`photos[0]`, `fig.axes[0]`),
    a file or URL. InputError where it is none of these, or no picture.
    """
    found: list[Any] = []
    for word in words:
        found += _pictures(_value(word, namespace), word)
    return found


def is_picture(value: Any) -> bool:
    """Whether a variable's value can be given as an image; cheap, for completion: nothing is opened."""
    if isinstance(value, (list, tuple)):
        return 0 < len(value) <= 64 and all(is_picture(item) for item in value)
    kind = type(value)
    if kind.__module__.startswith(("PIL.", "matplotlib.")):
        return hasattr(value, "getbands") or hasattr(value, "savefig") or hasattr(value, "get_figure")
    if isinstance(value, (KernelImage, Path)):
        return True
    return _is_array(value)


def _value(word: str, namespace: Mapping[str, Any]) -> Any:
    root = word.split("[")[0].split(".")[0].strip()
    if word in namespace:
        return namespace[word]
    if root.isidentifier() and root in namespace and not Path(word).exists():
        try:
            return eval(word, dict(namespace))  # the user's own expression, in the user's own kernel
        except Exception as error:
            raise InputError(f"{word!r} could not be evaluated: {type(error).__name__}: {error}") from error
    if word.startswith(("http://", "https://", "data:")) or Path(word).expanduser().is_file():
        return word if ":" in word[:6] else Path(word).expanduser()
    raise InputError(f"{word!r} is neither a variable here nor a file: give {_WORDS}")


def _pictures(value: Any, word: str) -> list[Any]:
    if isinstance(value, KernelImage):
        return [value.to_pil()]
    if isinstance(value, (list, tuple)):
        if not value:
            raise InputError(f"{word} is empty: give {_WORDS}")
        return [item for number, each in enumerate(value) for item in _pictures(each, f"{word}[{number}]")]
    if hasattr(value, "savefig"):
        return [_drawn(value)]
    if type(value).__module__.startswith("matplotlib") and hasattr(value, "get_figure"):
        return [_drawn(value.get_figure())]
    if hasattr(value, "getbands") or isinstance(value, (str, Path, bytes)) or _is_array(value):
        return [value]
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a torch tensor
        return _pictures(value.detach().cpu().numpy(), word)
    raise ImageError(f"{word} is no image but a {type(value).__name__}: give {_WORDS}")


def _drawn(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def _is_array(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    if not hasattr(value, "dtype") or not isinstance(shape, tuple) or hasattr(value, "columns"):
        return False
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] in (1, 3, 4)))
