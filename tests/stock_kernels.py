"""How a stock kernel is started so that its sockets are its own: of the TCP ports that are found free, another may take one first."""

from __future__ import annotations

from pathlib import Path


def sockets(folder: Path) -> dict[str, str]:
    """Options of `KernelManager`: Unix sockets in a folder of this kernel alone."""
    return {"transport": "ipc", "ip": str(folder / "k")}


def options(folder: Path) -> list[str]:
    """The same for a command line."""
    return [f"--KernelManager.{name}={value}" for name, value in sockets(folder).items()]
