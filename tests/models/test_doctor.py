"""`codevision doctor` as data: real kernel, real folder, a server that is there and one that is not."""

from __future__ import annotations

import sys
from pathlib import Path

from kernel_agent.doctor import checks


def test_each_thing_is_tried_and_nothing_raises(tmp_path: Path) -> None:
    found = {
        check.name: check
        for check in checks(base_url="http://127.0.0.1:9/v1", vllm_python=sys.executable, folder=tmp_path)
    }
    for name in ("Python", "packages", "kernel", "torch and transformers", "output folder"):
        assert found[name].ok is True, found[name]
    assert "embedded model" in found
    assert found["vLLM"].ok is None
    assert "--python" in found["vLLM"].remedy
    assert found["model server"].ok is False
    assert "127.0.0.1:9" in found["model server"].detail
    assert found["isolation"].detail
    assert {check.name: check for check in checks(folder=tmp_path / "missing")}["output folder"].ok is False
