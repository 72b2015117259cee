"""A small instance of Sigstore, and a run that was signed through it; only where the package is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from forging import record
from PIL import Image
from sigstored import signer_for

from kernel_agent.audit.seal import sign_file
from kernel_agent.blocking import run_blocking


@pytest.fixture(scope="module", params=[1, 2], ids=["rekor1", "rekor2"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from private_sigstore import running

    with running(tmp_path_factory.mktemp("instance") / "here", rekor=request.param) as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sigstore") / "run.ipynb"
    run_blocking(record(["print('seen')", "image_0.size"], Image.new("RGB", (60, 40), "red"), path=path))
    return path.read_bytes()


@pytest.fixture(scope="module")
def signed(instance: Any, run: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("signed") / "run.ipynb"
    path.write_bytes(run)
    sign_file(path, signer_for(instance))
    return path.read_bytes()
