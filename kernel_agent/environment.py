"""What a run depends on besides its inputs: versions and platform. No variables, paths or host names."""

from __future__ import annotations

import functools
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from kernel_agent.types import Json

PACKAGES = (
    "kernel-agent",
    "ipykernel",
    "ipython",
    "jupyter_client",
    "pillow",
    "numpy",
    "opencv-python-headless",
    "matplotlib",
    "torch",
    "transformers",
)


@functools.cache
def environment() -> dict[str, Json]:
    """Python, platform and the versions of the packages that decide what a cell shows."""
    packages: dict[str, str] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": sys.version.split()[0], "platform": platform.platform(), "packages": packages}
