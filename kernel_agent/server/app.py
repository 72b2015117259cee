"""The extension's configuration and life: `c.CodeVisionServer.model = ...` in a Jupyter server's configuration."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Int, Unicode

from kernel_agent.live import RunOptions, Runs
from kernel_agent.server.handlers import handlers
from kernel_agent.types import Isolation, KernelOptions


class CodeVisionServer(ExtensionApp):
    """Runs of vision-language models that think in Python, for the JupyterLab panel."""

    name = "kernel_agent"
    app_name = "CodeVision"
    extension_url = "/codevision"
    load_other_extensions = True

    model = Unicode("", help="Model of runs that name none; empty: the embedded one, or the server's only one.").tag(
        config=True
    )
    base_url = Unicode("", help="OpenAI-compatible server of runs that name none.").tag(config=True)
    api_key = Unicode("", help="Key of that server; CODEVISION_API_KEY where empty.").tag(config=True)
    isolation = Unicode("auto", help="Least isolation of kernels; the panel can ask for more, never for less.").tag(
        config=True
    )
    sign = Bool(True, help="Sign what runs save, where the server's user has a key (codevision sign).").tag(config=True)
    runs_folder = Unicode("codevision-runs", help="Where runs are saved, under the server's root folder.").tag(
        config=True
    )
    max_upload_mb = Int(64, min=1, help="Largest image taken from a page, in MiB.").tag(config=True)
    max_live_runs = Int(32, min=1, help="Most runs at once; beyond it idle ones are closed.").tag(config=True)

    def initialize_settings(self) -> None:
        """Make the runs that the handlers share."""
        assert self.serverapp is not None
        root = Path(self.serverapp.root_dir).resolve()
        isolation: Any = "auto" if self.isolation == "auto" else Isolation(self.isolation)
        self.runs = Runs(
            root / self.runs_folder,
            defaults=RunOptions(
                model=self.model or os.environ.get("CODEVISION_MODEL") or None,
                base_url=self.base_url or os.environ.get("CODEVISION_BASE_URL") or None,
                sign=None if self.sign else False,
            ),
            kernel=KernelOptions(isolation=isolation),
            api_key=self.api_key or os.environ.get("CODEVISION_API_KEY") or None,
            max_live=self.max_live_runs,
        )
        self.settings.update(
            codevision_runs=self.runs,
            codevision_root=root,
            codevision_max_upload=self.max_upload_mb << 20,
        )

    def initialize_handlers(self) -> None:
        """Add the addresses."""
        self.handlers.extend(handlers())

    async def stop_extension(self) -> None:
        """Stop every run and its kernel before the server ends; their notebooks stay."""
        await asyncio.to_thread(self.runs.close)
