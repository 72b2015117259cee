"""The private folder of a kernel and its branches: sockets, handed-over images, the working folder, the log."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

_MAX_PATH = 60
"""Longest path: that of a Unix socket has 107 bytes."""


class RunFolder:
    """A new folder (mode 0700), removed when as many have released it as held it. Whoever makes it holds it."""

    def __init__(self) -> None:
        self.path = _short_folder()
        self._holders = 1

    def hold(self) -> None:
        """One more needs it."""
        self._holders += 1

    def release(self) -> None:
        """One less needs it."""
        self._holders -= 1
        if self._holders == 0:
            shutil.rmtree(self.path, ignore_errors=True)


def _short_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cv-"))
    if len(str(folder)) > _MAX_PATH:
        with contextlib.suppress(OSError):
            short = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
            folder.rmdir()
            return short
    return folder
