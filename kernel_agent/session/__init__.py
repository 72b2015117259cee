"""A kernel that holds images by name. `Session` is the room's only door; kernel_side.py runs inside the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel_agent.session.session import Session

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    # Lazy: the kernel imports this package too, and must not load the host's side.
    if name == "Session":
        from kernel_agent.session.session import Session

        return Session
    raise AttributeError(name)
