"""What all tests share: small pictures with known content, and sessions that are closed whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.model_server import in_order, playing

# only for tests/server, but pytest takes plugins at the top alone; other suites run in environments without it
pytest_plugins = ["pytest_jupyter.jupyter_server"] if find_spec("pytest_jupyter") else []


@pytest.fixture
def picture() -> Image.Image:
    """60x40, four quarters of different colours: every orientation of it is different."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = (255, 0, 0)
    pixels[:20, 30:] = (0, 255, 0)
    pixels[20:, :30] = (0, 0, 255)
    pixels[20:, 30:] = (255, 255, 0)
    return Image.fromarray(pixels)


@pytest.fixture
def picture_file(tmp_path: Path, picture: Image.Image) -> Path:
    path = tmp_path / "picture.png"
    picture.save(path)
    return path


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts servers that play a script; see `model_server.in_order`."""
    with ExitStack() as servers:
        yield lambda *replies, **options: servers.enter_context(playing(in_order(replies), **options))
