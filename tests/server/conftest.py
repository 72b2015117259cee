"""A real Jupyter server with the extension, and runs of the scripted model."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def on_servers_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test runs on the loop that pytest-jupyter's server lives on, not on one of pytest-asyncio's."""

    @functools.wraps(test)
    def run(jp_asyncio_loop: Any, **fixtures: Any) -> None:
        jp_asyncio_loop.run_until_complete(asyncio.wait_for(test(**fixtures), 240))

    own = inspect.signature(test)
    loop = inspect.Parameter("jp_asyncio_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = own.replace(parameters=[loop, *own.parameters.values()])  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


@pytest.fixture
def jp_server_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("XDG_CONFIG_HOME", "CODEVISION_SIGNING_KEY", "CODEVISION_MODEL", "CODEVISION_BASE_URL"):
        monkeypatch.delenv(
            name, raising=False
        )  # the home folder is a new one already: whoever runs this may have a key
    root = tmp_path / "root"
    root.mkdir()
    return {
        "ServerApp": {"jpserver_extensions": {"kernel_agent.server": True}, "root_dir": str(root)},
        "CodeVisionServer": {"isolation": "auto"},
    }


@pytest.fixture
def root(jp_serverapp: Any, picture: Image.Image) -> Path:
    """The server's folder, with a picture in it."""
    folder = Path(jp_serverapp.root_dir)
    picture.save(folder / "picture.png")
    return folder
