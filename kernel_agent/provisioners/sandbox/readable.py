"""What a kernel needs of the host's files: the interpreter, its libraries, the system's, fonts. Never a home or a project."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "timezone",
    "fonts",
    "alternatives",
    "mime.types",
    "magic",
)
_MOST_LINKS = 1000
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


@functools.cache
def readable(extra: tuple[str, ...] = ()) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Values for `Plan.readable` and `Plan.links`, for kernels that run this interpreter with this `sys.path`.

    Of a source tree on `sys.path` (an editable install) only this package is readable, not the tree, which may hold
    secrets: name others in `extra`.
    """
    found = [*_SYSTEM, *(f"/etc/{name}" for name in _ETC), *extra]
    found += [sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix, str(Path(__file__).parents[2])]
    found += [path for path in (sysconfig.get_config_var("LIBDIR"),) if path]
    found += [str(entry) for entry in map(Path, sys.path) if entry.name in _PACKAGE_FOLDERS or entry.is_file()]
    home = Path.home() if home_known() else Path("/nonexistent")
    found += [str(home / name) for name in (".fonts", ".local/share/fonts", ".cache/matplotlib")]
    found += _interpreter()
    links, paths = resolved(path for path in found if path.startswith(os.sep) and path != os.sep)
    return tuple(paths), tuple(links.items())


def resolved(paths: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The links on the way to the paths, and what they lead to, without what another one contains."""
    links: dict[str, str] = {}
    real: set[str] = set()
    for path in paths:
        at, left = Path("/"), list(Path(os.path.normpath(path)).parts[1:])
        while left and len(links) < _MOST_LINKS:
            at /= left.pop(0)
            if at.is_symlink():
                target = at.readlink()
                links[str(at)] = str(target)
                at = Path(os.path.normpath(at.parent / target))
                at, left = Path("/"), [*at.parts[1:], *left]
        if at.exists():
            real.add(str(at))
    kept = [path for path in sorted(real) if not any(str(above) in real for above in Path(path).parents)]
    inside = {link for link in links if any(str(above) in kept for above in Path(link).parents)}
    return {link: target for link, target in links.items() if link not in inside}, kept


def home_known() -> bool:
    """Whether this process has a home: a uid that no account has may have none."""
    return os.path.expanduser("~").startswith(os.sep)  # noqa: PTH111 (that one raises)


def fonts() -> str:
    """Folder with matplotlib's list of fonts; "" where it made none yet."""
    if not (own := os.environ.get("MPLCONFIGDIR")) and not home_known():
        return ""
    folder = Path(own or Path.home() / ".cache/matplotlib")
    return str(folder) if any(folder.glob("fontlist-*.json")) else ""


def _interpreter() -> list[str]:
    """Each link between `sys.executable` and the program it stands for."""
    chain: list[str] = []
    path = Path(sys.executable)
    while path.is_symlink() and len(chain) < 8:
        chain.append(str(path))
        path = path.parent / path.readlink()
    return [*chain, str(path)]
