"""A kernel that holds images by name, and pools of such kernels; kernel_side.py runs inside the kernel.

`Session`, `KernelPool` and its `PoolMetrics` are the room's only doors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel_agent.session.pool import KernelPool
    from kernel_agent.session.pool_metrics import PoolMetrics
    from kernel_agent.session.session import Session

__all__ = ["KernelPool", "PoolMetrics", "Session"]

_HOME = {"KernelPool": "pool", "PoolMetrics": "pool_metrics", "Session": "session"}


def __getattr__(name: str) -> Any:
    # Lazy: the kernel imports this package too, and must not load the host's side.
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(name)
