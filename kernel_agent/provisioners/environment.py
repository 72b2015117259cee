"""What a kernel gets of its host's environment."""

from __future__ import annotations

from collections.abc import Mapping

_KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TEMP",
    "TMP",
    "VIRTUAL_ENV",
    "SYSTEMROOT",
    "IPYTHONDIR",
    "JPY_SESSION_NAME",
)
_KEPT_PREFIXES = ("LC_", "PYTHON", "LD_LIBRARY", "DYLD_", "FONTCONFIG", "XDG_CACHE", "OMP_", "OPENBLAS_", "MKL_")


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that Python needs and nothing else, so no key or token of the user's gets in."""
    kept = {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    kept.setdefault("PYTHONHASHSEED", "0")
    kept.setdefault("OPENBLAS_NUM_THREADS", "1")
    kept["PYTHONDONTWRITEBYTECODE"] = "1"
    return kept
