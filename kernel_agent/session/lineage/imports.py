"""Reacting to imports: OpenCV is wrapped once it is there; NumPy is left alone once numba is (it knows functions by identity)."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kernel_agent.session.lineage import arrays, opencv


def install() -> None:
    """Act on what is imported, and on what will be."""
    for name, action in _ACTIONS.items():
        module = sys.modules.get(name)
        if module is not None:
            action(module)
    sys.meta_path.insert(0, _Watcher())


def _numba(_: ModuleType) -> None:
    arrays.uninstall()


_ACTIONS = {"cv2": opencv.install, "numba": _numba}


class _Watcher:
    """Finds nothing itself: has the others find the module, and acts after it was executed."""

    def __init__(self) -> None:
        self.inside = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """As a meta path finder's."""
        action = _ACTIONS.get(name)
        if action is None or getattr(self.inside, "busy", False):
            return None
        self.inside.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.inside.busy = False
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return None
        if name == "numba":
            arrays.uninstall()
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            action(sys.modules.get(name, module))

        loader.exec_module = exec_module
        return spec
