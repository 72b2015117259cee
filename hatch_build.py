"""The build hook: a wheel ships the JupyterLab panel where it has been built (`make panel`), and goes without it where not.

It never runs Node, so installing from a clone needs none and takes no time. `CODEVISION_PANEL=required` (`make wheel`) makes a missing panel
an error. Editable installs go without it: `make panel` links the built panel into the environment, so that it is never stale.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PANEL = "kernel_agent/labextension"
SHARED = "share/jupyter/labextensions/@kernel-agent/jupyterlab"
HOW = "The JupyterLab panel is not built. With Node 20 or newer: `make panel`; released wheels contain it."


class Panel(BuildHookInterface[Any]):
    """Adds the built panel to the shared data of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build; `version` is "standard" or "editable"."""
        if self.target_name != "wheel" or version != "standard":
            return
        root = Path(self.root)
        if (root / PANEL / "package.json").is_file():
            build_data["shared_data"][PANEL] = SHARED
            build_data["shared_data"]["extensions/jupyterlab/install.json"] = f"{SHARED}/install.json"
        elif os.environ.get("CODEVISION_PANEL") == "required":
            raise RuntimeError(HOW)
        else:
            self.app.display_warning(f"{HOW} This wheel goes without it.")
