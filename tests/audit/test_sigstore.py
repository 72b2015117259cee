"""Sigstore signatures, made and checked against a small instance on this machine: `make test-sigstore`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from forging import record
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.batch import audit_folder
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.finding import Report
from kernel_agent.audit.html import to_html
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.audit.sigstore_check import MAX_BYTES, Trust, load, trust_of
from kernel_agent.audit.sigstore_sign import SigstoreSigner
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import InputError, SigningError, StorageError
from kernel_agent.trajectory import Trajectory

pytestmark = pytest.mark.sigstore

ALICE = "alice@example.org"
NO_CODE = RerunOptions(code=False)


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
    sign_file(path, _signer(instance))
    return path.read_bytes()


def _signer(instance: Any, email: str = ALICE) -> SigstoreSigner:
    return SigstoreSigner(instance.token(email), Trust(instance=instance.config))


def _expected(instance: Any, *emails: str) -> Expected:
    return Expected(
        identities=tuple((email, instance.issuer) for email in emails), trust=Trust(instance=instance.config)
    )


def _audit(data: bytes, path: Path, expected: Expected) -> Report:
    path.write_bytes(data)
    return run_blocking(audit_file(path, NO_CODE, expected=expected))[0]


def _places(report: Report) -> set[tuple[str, str, str]]:
    return {(str(item.outcome), item.cell, item.field) for item in report.findings if item.check == "integrity"}


def _changed(data: bytes, change: Callable[[Any], Any]) -> bytes:
    notebook = orjson.loads(data)
    change(notebook)
    return orjson.dumps(notebook)


def _seal(notebook: Any) -> Any:
    return notebook["metadata"]["codevision"]["seal"]


def _bundle(data: bytes) -> Any:
    return _seal(orjson.loads(data))["sigstore"][0]


def _command(*given: str, **options: Any) -> Any:
    return CliRunner().invoke(app, [*given], **options)


# Signing and auditing


def test_the_commands_sign_say_what_is_published_and_audit_without_the_network(
    instance: Any, run: bytes, tmp_path: Path
) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(run)
    config.write_text(instance.config)
    began = time.time()
    trust = ("--trust-config", str(config))
    done = _command("sign", str(path), "--sigstore", *trust, env={"SIGSTORE_IDENTITY_TOKEN": instance.token()})
    assert done.exit_code == 0, done.output
    assert f"Sigstore writes {ALICE}, subject-1 into its log" in done.stderr
    assert f"signer {ALICE} ({instance.issuer}), log entry" in done.stdout
    required = ("--cert-identity", ALICE, "--cert-oidc-issuer", instance.issuer)
    asked = len(instance.asked)
    command = ["audit", str(path), "--no-code", "--json", "--html", str(tmp_path / "report.html"), *trust, *required]
    alone = (
        "import os, sys\n"
        "def hook(event, given):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        os.write(2, repr(given).encode()); os._exit(77)\n"
        "sys.addaudithook(hook)\n"
        "from kernel_agent.cli import main\n"
        "sys.argv[1:] = " + repr(command) + "\nmain()"
    )
    offline = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, timeout=120)
    assert offline.returncode == 0, offline.stdout + offline.stderr
    assert offline.stderr == ""
    assert len(instance.asked) == asked
    [found] = json.loads(offline.stdout)["seal"]["sigstore"]
    assert (found["identity"], found["issuer"]) == (ALICE, instance.issuer)
    assert began - 1 <= found["time"] <= time.time()
    assert f"{ALICE} ({instance.issuer}) through Sigstore, in the log on" in (tmp_path / "report.html").read_text()
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            alone.replace("'--trust-config', ", "'--refresh-trust', '--head', ").replace(str(config), ""),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
    )
    assert again.returncode == 77, again.stdout + again.stderr  # so the hook sees the network where it is asked for


def test_a_key_and_identities_sign_one_notebook_in_any_order(instance: Any, run: bytes, tmp_path: Path) -> None:
    make_key(tmp_path / "key.pem")
    key = load_signer(tmp_path / "key.pem")
    for order in ((key, "alice", "bob"), ("alice", key, "bob"), ("alice", "bob", key)):
        path = tmp_path / "run.ipynb"
        path.write_bytes(run)
        for who in order:
            sign_file(path, who if not isinstance(who, str) else _signer(instance, f"{who}@example.org"))
        expected = _expected(instance, ALICE, "bob@example.org")
        both = Expected(signers=(key.public_key.keyid,), identities=expected.identities, trust=expected.trust)
        report = _audit(path.read_bytes(), path, both)
        assert report.exit_code == 0, report.findings
        assert report.seal is not None
        assert [item.identity for item in report.seal.identified] == [ALICE, "bob@example.org"]
        assert report.seal.signers == (key.public_key.keyid,)


def test_signing_twice_keeps_both_and_signing_what_was_changed_replaces(
    instance: Any, signed: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(signed)
    seal = sign_file(path, _signer(instance))
    assert len(seal.bundles) == 2
    assert _audit(path.read_bytes(), path, _expected(instance, ALICE)).exit_code == 0
    path.write_bytes(_changed(signed, _guess))
    assert len(sign_file(path, _signer(instance, "mallory@example.org")).bundles) == 1
    again = path.read_bytes()
    assert _places(_audit(again, path, _expected(instance))) == set()  # whole, and only a known identity tells
    assert _places(_audit(again, path, _expected(instance, ALICE))) == {("fails", "seal", "signer")}
    path.write_bytes(
        _changed(signed, lambda nb: _entry(nb).update(logIndex="7"))
    )  # a signature that was broken is not kept
    assert len(sign_file(path, _signer(instance)).bundles) == 1


def _guess(notebook: Any) -> None:
    next(cell for cell in notebook["cells"] if cell["id"] == "step-0-thought")["source"] = ["I guess."]


def _entry(notebook: Any) -> Any:
    return _seal(notebook)["sigstore"][0]["verificationMaterial"]["tlogEntries"][0]


def test_in_python_in_a_bundle_and_in_a_folder(instance: Any, run: bytes, tmp_path: Path) -> None:
    folder, config = tmp_path / "runs", tmp_path / "config.json"
    folder.mkdir()
    config.write_text(instance.config)
    (folder / "run.ipynb").write_bytes(run)
    loaded = Trajectory.load(folder / "run.ipynb")
    assert loaded.sign_sigstore(instance.token(), trust_config=config) == ALICE
    known = {"identities": [(ALICE, instance.issuer)], "trust_config": config, "code": False}
    assert loaded.audit(**known).exit_code == 0
    assert loaded.audit(**known | {"identities": [("bob@example.org", instance.issuer)]}).exit_code == 1
    write_bundle(folder / "run.ipynb", tmp_path / "run.zip")
    report, trajectory = run_blocking(audit_file(tmp_path / "run.zip", NO_CODE, expected=_expected(instance, ALICE)))
    assert report.exit_code == 0
    assert ALICE in to_html(report, trajectory)
    batch = run_blocking(
        audit_folder(folder, tmp_path / "out.jsonl", NO_CODE, expected=_expected(instance, ALICE), jobs=1)
    )
    assert batch.exit_code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["signed_by"] == [f"{ALICE} ({instance.issuer})"]


# Whatever is changed


def test_a_changed_cell_is_named(instance: Any, signed: bytes, tmp_path: Path) -> None:
    report = _audit(_changed(signed, _guess), tmp_path / "run.ipynb", _expected(instance, ALICE))
    assert ("fails", "step 1, thought", "source") in _places(report)
    assert report.exit_code == 1


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (value, key)
        if isinstance(inner, (dict, list)):
            yield from _leaves(inner)


def test_every_value_of_a_signature_is_covered(instance: Any, signed: bytes, tmp_path: Path) -> None:
    count = len(list(_leaves(_bundle(signed))))
    assert count > 20
    for number in range(count):
        for kind in ("changed", "taken out", "put in"):
            notebook = orjson.loads(signed)
            holder, key = list(_leaves(_seal(notebook)["sigstore"][0]))[number]
            if kind == "put in" and not isinstance(holder[key], dict):
                continue
            if kind == "put in":
                holder[key]["added"] = "x"
            elif kind == "taken out":
                taken = holder.pop(key)
                stamps = (
                    "rfc3161Timestamps" in taken or "signedTimestamp" in taken if isinstance(taken, dict) else False
                )
                if instance.rekor == 1 and (stamps or key == "rfc3161Timestamps"):
                    continue  # the log's own signed time is enough
            elif isinstance(holder[key], (dict, list)):
                continue
            else:
                at = 0 if key == "keyId" and instance.rekor == 2 else len(holder[key]) // 2
                holder[key] = holder[key][:at] + ("1" if holder[key][at] != "1" else "2") + holder[key][at + 1 :]
            report = _audit(orjson.dumps(notebook), tmp_path / "run.ipynb", _expected(instance, ALICE))
            assert report.exit_code == 1, (key, kind, report.findings)
            assert {item.cell for item in report.findings} == {"seal"}, (key, kind, report.findings)


def test_a_signature_over_another_run_is_none(instance: Any, run: bytes, signed: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other.ipynb"
    other.write_bytes(_changed(run, _guess))
    sign_file(other, _signer(instance))
    swapped = _changed(signed, lambda nb: _seal(nb).update(sigstore=[_bundle(other.read_bytes())]))
    report = _audit(swapped, tmp_path / "run.ipynb", _expected(instance, ALICE))
    assert _places(report) == {("fails", "seal", "sigstore[0]"), ("fails", "seal", "signer")}
    assert "another statement" in report.findings[0].message
    forged = _changed(signed, lambda nb: _seal(nb)["sigstore"][0].update(_payload(_bundle(signed), swapped)))
    assert _audit(forged, tmp_path / "run.ipynb", _expected(instance, ALICE)).exit_code == 1


def _payload(bundle: Any, swapped: bytes) -> Any:
    """A signature over one statement around another."""
    return {"dsseEnvelope": {**_bundle(swapped)["dsseEnvelope"], "payload": bundle["dsseEnvelope"]["payload"]}}


@pytest.mark.parametrize(
    "hostile",
    [
        7,
        [],
        {},
        {"mediaType": 1, "dsseEnvelope": {"payload": None, "signatures": 3}},
        {"dsseEnvelope": {"payload": "", "signatures": [7]}, "mediaType": ""},
    ],
)
def test_what_is_no_signature_fails(hostile: Any, instance: Any, signed: bytes, tmp_path: Path) -> None:
    data = _changed(signed, lambda nb: _seal(nb).update(sigstore=[hostile]))
    assert _places(_audit(data, tmp_path / "run.ipynb", _expected(instance))) == {("fails", "seal", "sigstore[0]")}
    for value in ([], 7, "x", [_bundle(signed)] * 200):
        data = _changed(signed, lambda nb, value=value: _seal(nb).update(sigstore=value))
        assert ("fails", "seal", "envelope") in _places(_audit(data, tmp_path / "run.ipynb", _expected(instance)))


def test_a_huge_signature_is_not_read(instance: Any, signed: bytes, tmp_path: Path) -> None:
    huge = copy.deepcopy(_bundle(signed))
    huge["verificationMaterial"]["certificate"]["rawBytes"] += "A" * (50 * MAX_BYTES)
    data = _changed(signed, lambda nb: _seal(nb).update(sigstore=[huge] * 5))
    began = time.perf_counter()
    report = _audit(data, tmp_path / "run.ipynb", _expected(instance))
    assert time.perf_counter() - began < 10
    assert len(report.findings) == 5
    assert all(f"at most {MAX_BYTES:,}" in item.message for item in report.findings)


# Who, and when


def test_another_identity_or_issuer_fails_only_where_one_is_required(
    instance: Any, signed: bytes, tmp_path: Path
) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(signed)
    config.write_text(instance.config)
    audit = ("audit", str(path), "--no-code", "--trust-config", str(config))
    assert _command(*audit).exit_code == 0
    assert "not compared with whom you know: see --require-signer, --cert-identity" in " ".join(
        _command(*audit).output.split()
    )
    for who, issuer in (("bob@example.org", instance.issuer), (ALICE, "https://accounts.google.com")):
        done = _command(*audit, "--cert-identity", who, "--cert-oidc-issuer", issuer)
        assert done.exit_code == 1
        assert f"not signed by {who} ({issuer}): signed by {ALICE}" in " ".join(done.output.split())
    for given in (["--cert-identity", ALICE], ["--cert-oidc-issuer", instance.issuer]):
        assert _command(*audit, *given).exit_code == 2


def test_a_certificate_that_is_over_is_whole_by_the_logs_time(instance: Any, run: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    instance.life = 2
    try:
        sign_file(path, _signer(instance))
    finally:
        instance.life = 600
    time.sleep(3)
    assert _audit(path.read_bytes(), path, _expected(instance, ALICE)).exit_code == 0


def test_a_log_whose_time_is_not_the_certificates_makes_no_signature(run: bytes, tmp_path: Path) -> None:
    from private_sigstore import running

    path = tmp_path / "run.ipynb"
    path.write_bytes(run)
    with running(tmp_path / "late") as late:
        late.skew = 7200
        with pytest.raises(SigningError, match="does not hold"):
            sign_file(path, _signer(late))
    assert path.read_bytes() == run


def test_another_instance_is_unchecked_and_fails_where_somebody_is_required(
    instance: Any, signed: bytes, tmp_path: Path
) -> None:
    from private_sigstore import running

    with running(tmp_path / "other") as other:
        strange = Trust(instance=other.config)
    for trust in (strange, Trust(), trust_of(staging=True)):
        report = _audit(signed, tmp_path / "run.ipynb", Expected(trust=trust))
        assert _places(report) == {("unchecked", "seal", "sigstore[0]")}
        assert report.exit_code == 2
        assert "another instance" in report.findings[0].message
        assert "--trust-config" in report.findings[0].message
        required = Expected(identities=((ALICE, instance.issuer),), trust=trust)
        assert _audit(signed, tmp_path / "run.ipynb", required).exit_code == 1


def test_without_a_trust_root_nothing_is_said_of_anybody(
    instance: Any, signed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # where the package wants to put its own
    load.cache_clear()
    report = _audit(signed, tmp_path / "run.ipynb", Expected(identities=((ALICE, instance.issuer),)))
    load.cache_clear()
    assert _places(report) == {("unchecked", "seal", "sigstore[0]"), ("unchecked", "seal", "signer")}
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
    signer = _signer(instance)

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
        sign_file(path, _signer(instance))
    assert (path.read_bytes(), len(instance.asked)) == (before, asked)
    going.close()
    sign_file(path, _signer(instance))


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
    done = _command("sign", str(path), "--sigstore", "--trust-config", str(config))
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
    browser.write_text("import sys, urllib.request\nurllib.request.urlopen(sys.argv[1], timeout=20).read()\n")
    monkeypatch.setenv("BROWSER", f"{sys.executable} {browser} %s")
    command = [sys.executable, "-m", "kernel_agent.cli", "sign", str(path), "--sigstore", "--trust-config", str(config)]
    asked = len(instance.asked)
    done = subprocess.run(command, input="n\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Sigstore writes your e-mail address")
    assert "nobody can take it out again" in done.stderr
    assert (len(instance.asked), path.read_bytes()) == (asked, run)
    done = subprocess.run(command, input="y\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "/login" in instance.asked[asked:]
    assert _audit(path.read_bytes(), path, _expected(instance, ALICE)).exit_code == 0


def test_a_login_through_a_link_and_a_code(instance: Any, run: bytes, tmp_path: Path, alone: None) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(run)
    config.write_text(instance.config)
    given = ("sign", str(path), "--sigstore", "--trust-config", str(config), "--oauth-force-oob", "--yes")
    done = _command(*given, input="by-hand\n")
    assert done.exit_code == 0, done.output
    assert done.stderr.index("Sigstore writes") < done.stderr.index("Go to the following link")
    assert _audit(path.read_bytes(), path, _expected(instance, ALICE)).exit_code == 0
    assert _command("sign", str(path), "--staging").exit_code == 2
    assert _command(*given, "--key", "some.pem").exit_code == 2


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
