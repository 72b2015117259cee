"""Where the package `sigstore` is not installed, its signatures are unchecked, and the remedy is told."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pytest
from forging import record
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.batch import audit_folder
from kernel_agent.audit.finding import Report
from kernel_agent.audit.html import to_html
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.audit.sigstore_check import FORMAT
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import SigningError
from kernel_agent.trajectory import Trajectory

REMEDY = "a Sigstore signature is there and was not checked: pip install 'kernel-agent[sigstore]'"
NO_CODE = RerunOptions(code=False)
WHO = ("alice@example.org", "https://accounts.google.com")


@pytest.fixture
def key(tmp_path: Path) -> Any:
    make_key(tmp_path / "key.pem")
    return load_signer(tmp_path / "key.pem")


@pytest.fixture
def path(tmp_path: Path, key: Any) -> Path:
    """A run with a key's signature, and beside it what looks like one of Sigstore."""
    assert find_spec("sigstore") is None, "these tests are for an environment without kernel-agent[sigstore]"
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "run.ipynb"
    run_blocking(record(["print('seen')"], Image.new("RGB", (60, 40), "red"), path=path))
    sign_file(path, key)
    _change(path, lambda seal: seal.update(sigstore=[_like_a_bundle(seal["envelope"]["payload"])]))
    return path


def _like_a_bundle(payload: str) -> Any:
    return {
        "mediaType": FORMAT,
        "verificationMaterial": {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{"logIndex": "1"}]},
        "dsseEnvelope": {
            "payload": payload,
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": "AAAA"}],
        },
    }


def _change(path: Path, change: Callable[[Any], Any]) -> None:
    notebook = orjson.loads(path.read_bytes())
    change(notebook["metadata"]["codevision"]["seal"])
    path.write_bytes(orjson.dumps(notebook))


def _audit(path: Path, **expected: Any) -> Report:
    return run_blocking(audit_file(path, NO_CODE, expected=Expected(**expected)))[0]


def test_a_signature_that_cannot_be_checked_is_told_with_the_remedy(path: Path, key: Any, tmp_path: Path) -> None:
    report = _audit(path, signers=(key.public_key.keyid,))
    assert [(str(item.outcome), item.field, item.message) for item in report.findings] == [
        ("unchecked", "sigstore[0]", REMEDY)
    ]
    assert report.exit_code == 2
    assert "was not checked: pip install" in to_html(report)
    batch = run_blocking(audit_folder(path.parent, tmp_path / "out.jsonl", NO_CODE, jobs=1))
    assert batch.exit_code == 2
    assert orjson.loads((tmp_path / "out.jsonl").read_bytes())["signed_by"] == [key.public_key.keyid]
    required = _audit(path, identities=(WHO,))  # whether they signed is not known either
    assert {(str(item.outcome), item.field) for item in required.findings} == {
        ("unchecked", "sigstore[0]"),
        ("unchecked", "signer"),
    }


def test_what_can_be_told_without_the_package_is(path: Path, key: Any) -> None:
    sign_file(path, key)  # one more signature keeps what could not be checked
    assert REMEDY in [item.message for item in _audit(path).findings]
    _change(path, lambda seal: seal.update(sigstore=[_like_a_bundle("e30=")]))
    report = _audit(path)
    assert [(str(item.outcome), item.field) for item in report.findings] == [("fails", "sigstore[0]")]
    assert "another statement" in report.findings[0].message
    _change(path, lambda seal: seal.pop("sigstore"))
    assert _audit(path).exit_code == 0
    assert [item.field for item in _audit(path, identities=(WHO,)).findings] == ["signer"]
    assert _audit(path, identities=(WHO,)).exit_code == 1


def test_signing_says_what_is_missing_and_asks_nobody(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    (tmp_path / "config.json").write_text("{}")
    for given in ([], ["--identity-token", "x.y.z"], ["--trust-config", str(tmp_path / "config.json")]):
        done = CliRunner().invoke(app, ["sign", str(path), "--sigstore", *given])
        assert done.exit_code == 1
        assert "pip install 'kernel-agent[sigstore]'" in done.stderr
        assert "writes" not in done.stderr
    done = CliRunner().invoke(app, ["audit", str(path), "--no-code", "--trust-config", str(tmp_path / "config.json")])
    assert done.exit_code == 2
    assert "pip install 'kernel-agent[sigstore]'" in done.stderr
    with pytest.raises(SigningError, match=r"kernel-agent\[sigstore\]"):
        Trajectory.load(path).sign_sigstore("x.y.z")
    assert path.read_bytes() == before
