"""The Jupyter server extension: live runs (kernel_agent.live) over HTTP, for the JupyterLab panel.

Every address is authenticated and authorised, answers only this server's pages (XSRF, Origin), takes bounded JSON, and names
runs by ids that cannot leave the run folder. Keys of model servers stay here: they come from the environment or this server's
configuration and are never sent or taken. Runs belong to the server: a page that is reloaded or gone ends none.
"""

from __future__ import annotations

from kernel_agent.server.app import CodeVisionServer

__all__ = ["CodeVisionServer"]


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    return [{"module": "kernel_agent.server", "app": CodeVisionServer}]
