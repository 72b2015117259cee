"""Who signed through Sigstore, and when; how they log in. Part of `make test-sigstore`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sigstored import ALICE, audited, command_line, expecting, places, signer_for

from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.audit.sigstore_check import Trust, load, trust_of
from kernel_agent.audit.sigstore_sign import SigstoreSigner
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import InputError, SigningError, StorageError
from kernel_agent.trajectory import Trajectory

pytestmark = pytest.mark.sigstore


# Who, and when


def test_another_identity_or_issuer_fails_only_where_one_is_required(
    instance: Any, signed: bytes, tmp_path: Path
) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(signed)
    config.write_text(instance.config)
    audit = ("audit", str(path), "--no-code", "--trust-config", str(config))
    assert command_line(*audit).exit_code == 0
    assert "not compared with whom you know: see --require-signer, --cert-identity" in " ".join(
        command_line(*audit).output.split()
    )
    for who, issuer in (("bob@example.org", instance.issuer), (ALICE, "https://accounts.google.com")):
        done = command_line(*audit, "--cert-identity", who, "--cert-oidc-issuer", issuer)
        assert done.exit_code == 1
        assert f"not signed by {who} ({issuer}): signed by {ALICE}" in " ".join(done.output.split())
    for given in (["--cert-identity", ALICE], ["--cert-oidc-issuer", instance.issuer]):
        assert command_line(*audit, *given).exit_code == 2


def test_a_certificate_that_is_over_is_whole_by_the_logs_time(instance: Any, run: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    instance.life = 10
    try:
        sign_file(path, signer_for(instance))
    finally:
        instance.life = 600
    time.sleep(11)
    assert audited(path.read_bytes(), path, expecting(instance, ALICE)).exit_code == 0


def test_a_log_whose_time_is_not_the_certificates_makes_no_signature(run: bytes, tmp_path: Path) -> None:
    from private_sigstore import running

    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    with running(tmp_path / "late") as late:
        late.skew = 7200
        with pytest.raises(SigningError, match="does not hold"):
            sign_file(path, signer_for(late))
    assert path.read_bytes() == run


def test_another_instance_is_unchecked_and_fails_where_somebody_is_required(
    instance: Any, signed: bytes, tmp_path: Path
) -> None:
    from private_sigstore import running

    with running(tmp_path / "other") as other:
        strange = Trust(instance=other.config)
    for trust in (strange, Trust(), trust_of(staging=True)):
        report = audited(signed, tmp_path / "run.ipynb", Expected(trust=trust))
        assert places(report) == {("unchecked", "seal", "sigstore[0]")}
        assert report.exit_code == 2
        assert "another instance" in report.findings[0].message
        assert "--trust-config" in report.findings[0].message
        required = Expected(identities=((ALICE, instance.issuer),), trust=trust)
        assert audited(signed, tmp_path / "run.ipynb", required).exit_code == 1


def test_without_a_trust_root_nothing_is_said_of_anybody(
    instance: Any, signed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # where the package wants to put its own
    load.cache_clear()
    report = audited(signed, tmp_path / "run.ipynb", Expected(identities=((ALICE, instance.issuer),)))
    load.cache_clear()
    assert places(report) == {("unchecked", "seal", "sigstore[0]"), ("unchecked", "seal", "signer")}
    assert "no trust root" in report.findings[0].message


def test_an_instance_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        trust_of(config=tmp_path / "no.json")
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(InputError, match="no trust root"):
        trust_of(config=tmp_path / "no.json")
    with pytest.raises(InputError, match="give it alone"):
        trust_of(config=tmp_path / "no.json", staging=True)


# Logging in


def test_tokens_that_cannot_be_used_sign_nothing(instance: Any, run: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    trust = Trust(instance=instance.config)
    asked = len(instance.asked)
    for token in ("", "no.token", instance.token(audience="other"), instance.token(seconds=-60)):
        with pytest.raises(SigningError, match="token"):
            SigstoreSigner(token, trust)
    assert len(instance.asked) == asked
    header, claims, _ = instance.token().split(".")
    with pytest.raises(SigningError, match="did not sign"):
        sign_file(path, SigstoreSigner(f"{header}.{claims}.{'A' * 86}", trust))  # Fulcio does not believe it
    assert path.read_bytes() == run


def test_a_notebook_that_changes_meanwhile_is_left_as_it_is(instance: Any, run: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    signer = signer_for(instance)

    class Slow(SigstoreSigner):
        def sign(self, statement: bytes) -> Any:
            path.write_bytes(run + b"\n")
            return signer.sign(statement)

    with pytest.raises(StorageError, match="changed while"):
        sign_file(path, Slow(instance.token(), Trust(instance=instance.config)))
    assert path.read_bytes() == run + b"\n"


def test_a_notebook_that_is_being_recorded_to_publishes_nothing(instance: Any, run: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    going = Trajectory.load(path)
    going.record_to(path, force=True)
    before, asked = path.read_bytes(), len(instance.asked)
    with pytest.raises(StorageError):
        sign_file(path, signer_for(instance))
    assert (path.read_bytes(), len(instance.asked)) == (before, asked)
    going.close()
    sign_file(path, signer_for(instance))


def test_a_ci_job_signs_with_its_own_token(
    instance: Any, run: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(run)
    config.write_text(instance.config)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{instance.url}/ci")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "the-job")
    assert Trajectory.load(path).sign_sigstore(trust_config=config) == ALICE
    done = command_line("sign", str(path), "--sigstore", "--trust-config", str(config))
    assert done.exit_code == 0, done.output
    assert f"Sigstore writes {ALICE}" in done.stderr
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    with pytest.raises(SigningError, match="gives no identity token"):
        Trajectory.load(path).sign_sigstore(trust_config=config)
    monkeypatch.delenv("GITHUB_ACTIONS")
    with pytest.raises(SigningError, match="no identity token: log in"):
        Trajectory.load(path).sign_sigstore(trust_config=config)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CI job around."""
    monkeypatch.delenv("SIGSTORE_IDENTITY_TOKEN", raising=False)
    monkeypatch.setenv("SIGSTORE_OIDC_DISABLE_AMBIENT_PROVIDERS", "1")


def test_a_login_in_the_browser_comes_after_what_is_published_was_said(
    instance: Any, run: bytes, tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, config, browser = tmp_path / "run.ipynb", tmp_path / "config.json", tmp_path / "browser.py"
    path.write_bytes(run)
    config.write_text(instance.config)
    browser.write_text("import sys, urllib.request\nurllib.request.urlopen(sys.argv[1], timeout=120).read()\n")
    monkeypatch.setenv("BROWSER", f"{sys.executable} {browser} %s")
    command = [sys.executable, "-m", "kernel_agent.cli", "sign", str(path), "--sigstore", "--trust-config", str(config)]
    asked = len(instance.asked)
    done = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert done.stderr.startswith("Sigstore writes your e-mail address")
    assert "nobody can take it out again" in done.stderr
    assert (len(instance.asked), path.read_bytes()) == (asked, run)
    done = subprocess.run(command, input="y\n", capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "/login" in instance.asked[asked:]
    assert audited(path.read_bytes(), path, expecting(instance, ALICE)).exit_code == 0


def test_a_login_through_a_link_and_a_code(instance: Any, run: bytes, tmp_path: Path, alone: None) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(run)
    config.write_text(instance.config)
    given = ("sign", str(path), "--sigstore", "--trust-config", str(config), "--oauth-force-oob", "--yes")
    done = command_line(*given, input="by-hand\n")
    assert done.exit_code == 0, done.output
    assert done.stderr.index("Sigstore writes") < done.stderr.index("Go to the following link")
    assert audited(path.read_bytes(), path, expecting(instance, ALICE)).exit_code == 0
    assert command_line("sign", str(path), "--staging").exit_code == 2
    assert command_line(*given, "--key", "some.pem").exit_code == 2


def test_tampering_with_either_kind_of_signatures_is_found(tmp_path: Path) -> None:
    from private_sigstore import running

    from perf.tamper import measure

    with running(tmp_path / "instance") as instance:
        named = SigstoreSigner(instance.token(seconds=600), Trust(instance=instance.config))
        figures = run_blocking(measure(tmp_path, 20, 3, named, only="seal: "))
    assert figures["missed"] == []
    assert figures["n"] == figures["located"] >= 20
    assert figures["saved_alarms"] == 0
    fields = {field.rpartition(".")[2] for field in figures["wanted"]}
    assert {
        "rawBytes",
        "logIndex",
        "integratedTime",
        "signedEntryTimestamp",
        "signedTimestamp",
        "sig",
        "payload",
    } <= fields
