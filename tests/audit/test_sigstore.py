"""Sigstore signatures, made and checked against a small instance on this machine: `make test-sigstore`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sigstored import (
    ALICE,
    NO_CODE,
    audited,
    bundle_of,
    changed,
    command_line,
    entry,
    expecting,
    guess,
    places,
    seal_of,
    signer_for,
)

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.batch import audit_folder
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.html import to_html
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.audit.sigstore_check import MAX_BYTES
from kernel_agent.blocking import run_blocking
from kernel_agent.trajectory import Trajectory

pytestmark = pytest.mark.sigstore


# Signing and auditing


def test_the_commands_sign_say_what_is_published_and_audit_without_the_network(
    instance: Any, run: bytes, tmp_path: Path
) -> None:
    path, config = tmp_path / "run.ipynb", tmp_path / "config.json"
    path.write_bytes(run)
    config.write_text(instance.config)
    began = time.time()
    trust = ("--trust-config", str(config))
    done = command_line("sign", str(path), "--sigstore", *trust, env={"SIGSTORE_IDENTITY_TOKEN": instance.token()})
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
    offline = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, timeout=300)
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
        timeout=300,
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
            sign_file(path, who if not isinstance(who, str) else signer_for(instance, f"{who}@example.org"))
        expected = expecting(instance, ALICE, "bob@example.org")
        both = Expected(signers=(key.public_key.keyid,), identities=expected.identities, trust=expected.trust)
        report = audited(path.read_bytes(), path, both)
        assert report.exit_code == 0, report.findings
        assert report.seal is not None
        assert [item.identity for item in report.seal.identified] == [ALICE, "bob@example.org"]
        assert report.seal.signers == (key.public_key.keyid,)


def test_signing_twice_keeps_both_and_signing_what_was_changed_replaces(
    instance: Any, signed: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(signed)
    seal = sign_file(path, signer_for(instance))
    assert len(seal.bundles) == 2
    assert audited(path.read_bytes(), path, expecting(instance, ALICE)).exit_code == 0
    path.write_bytes(changed(signed, guess))
    assert len(sign_file(path, signer_for(instance, "mallory@example.org")).bundles) == 1
    again = path.read_bytes()
    assert places(audited(again, path, expecting(instance))) == set()  # whole, and only a known identity tells
    assert places(audited(again, path, expecting(instance, ALICE))) == {("fails", "seal", "signer")}
    path.write_bytes(
        changed(signed, lambda nb: entry(nb).update(logIndex="7"))
    )  # a signature that was broken is not kept
    assert len(sign_file(path, signer_for(instance)).bundles) == 1


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
    report, trajectory = run_blocking(audit_file(tmp_path / "run.zip", NO_CODE, expected=expecting(instance, ALICE)))
    assert report.exit_code == 0
    assert ALICE in to_html(report, trajectory)
    batch = run_blocking(
        audit_folder(folder, tmp_path / "out.jsonl", NO_CODE, expected=expecting(instance, ALICE), jobs=1)
    )
    assert batch.exit_code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["signed_by"] == [f"{ALICE} ({instance.issuer})"]


# Whatever is changed


def test_a_changed_cell_is_named(instance: Any, signed: bytes, tmp_path: Path) -> None:
    report = audited(changed(signed, guess), tmp_path / "run.ipynb", expecting(instance, ALICE))
    assert ("fails", "step 1, thought", "source") in places(report)
    assert report.exit_code == 1


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (value, key)
        if isinstance(inner, (dict, list)):
            yield from _leaves(inner)


def test_every_value_of_a_signature_is_covered(instance: Any, signed: bytes, tmp_path: Path) -> None:
    count = len(list(_leaves(bundle_of(signed))))
    assert count > 20
    for number in range(count):
        for kind in ("changed", "taken out", "put in"):
            notebook = orjson.loads(signed)
            holder, key = list(_leaves(seal_of(notebook)["sigstore"][0]))[number]
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
            report = audited(orjson.dumps(notebook), tmp_path / "run.ipynb", expecting(instance, ALICE))
            assert report.exit_code == 1, (key, kind, report.findings)
            assert {item.cell for item in report.findings} == {"seal"}, (key, kind, report.findings)


def test_a_signature_over_another_run_is_none(instance: Any, run: bytes, signed: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other.ipynb"
    other.write_bytes(changed(run, guess))
    sign_file(other, signer_for(instance))
    swapped = changed(signed, lambda nb: seal_of(nb).update(sigstore=[bundle_of(other.read_bytes())]))
    report = audited(swapped, tmp_path / "run.ipynb", expecting(instance, ALICE))
    assert places(report) == {("fails", "seal", "sigstore[0]"), ("fails", "seal", "signer")}
    assert "another statement" in report.findings[0].message
    forged = changed(signed, lambda nb: seal_of(nb)["sigstore"][0].update(_payload(bundle_of(signed), swapped)))
    assert audited(forged, tmp_path / "run.ipynb", expecting(instance, ALICE)).exit_code == 1


def _payload(bundle: Any, swapped: bytes) -> Any:
    """A signature over one statement around another."""
    return {"dsseEnvelope": {**bundle_of(swapped)["dsseEnvelope"], "payload": bundle["dsseEnvelope"]["payload"]}}


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
    data = changed(signed, lambda nb: seal_of(nb).update(sigstore=[hostile]))
    assert places(audited(data, tmp_path / "run.ipynb", expecting(instance))) == {("fails", "seal", "sigstore[0]")}
    for value in ([], 7, "x", [bundle_of(signed)] * 200):
        data = changed(signed, lambda nb, value=value: seal_of(nb).update(sigstore=value))
        assert ("fails", "seal", "envelope") in places(audited(data, tmp_path / "run.ipynb", expecting(instance)))


def test_a_huge_signature_is_not_read(instance: Any, signed: bytes, tmp_path: Path) -> None:
    huge = copy.deepcopy(bundle_of(signed))
    huge["verificationMaterial"]["certificate"]["rawBytes"] += "A" * (50 * MAX_BYTES)
    data = changed(signed, lambda nb: seal_of(nb).update(sigstore=[huge] * 5))
    report = audited(data, tmp_path / "run.ipynb", expecting(instance))
    assert len(report.findings) == 5
    assert all(f"at most {MAX_BYTES:,}" in item.message for item in report.findings)
