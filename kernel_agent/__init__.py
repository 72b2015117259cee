"""CodeVision: a vision-language model answers questions about images by writing Python in a managed Jupyter kernel.

`ask("What is written on the label?", "photo.jpg")` runs the whole thing and returns a `Trajectory`. The public names
below load on first use, so that importing the package stays cheap (no torch, vLLM, Jupyter server or OpenAI client).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel_agent.agent import Agent
    from kernel_agent.api import ask
    from kernel_agent.session import KernelPool, PoolMetrics, Session
    from kernel_agent.trajectory import Trajectory
    from kernel_agent.types import Budget, KernelOptions, Sampling, Status, StopReason, Task

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Budget",
    "KernelOptions",
    "KernelPool",
    "PoolMetrics",
    "Sampling",
    "Session",
    "Status",
    "StopReason",
    "Task",
    "Trajectory",
    "ask",
]

_HOME = {
    "Agent": "agent",
    "ask": "api",
    "KernelPool": "session",
    "PoolMetrics": "session",
    "Session": "session",
    "Trajectory": "trajectory",
    "Task": "types",
    "Budget": "types",
    "KernelOptions": "types",
    "Sampling": "types",
    "Status": "types",
    "StopReason": "types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kernel_agent' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kernel_agent.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext kernel_agent`: adds `%codevision`."""
    from kernel_agent.magic import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext kernel_agent`."""
    from kernel_agent.magic import unload

    unload(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
