"""One real vLLM server for all tests of this folder. What is missing fails: nothing here skips."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_agent.embedded import checkpoint_path
from kernel_agent.models import VLLMServer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "models"))  # tiny_model
PYTHON = Path(os.environ.get("CODEVISION_VLLM_PYTHON") or ROOT / ".venv-vllm/bin/python")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def python() -> Path:
    assert PYTHON.exists(), f"{PYTHON} is missing: run tests/vllm_server/make_env.sh (make test-vllm does)"
    return PYTHON


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The embedded checkpoint."""
    return Path(checkpoint_path())


@pytest.fixture(scope="session")
def server(checkpoint: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    with VLLMServer(
        checkpoint, python=python, served_name="small", log=tmp_path_factory.mktemp("log") / "vllm.log"
    ) as it:
        print(f"vLLM was ready after {it.start_seconds:.1f} s")
        yield it
