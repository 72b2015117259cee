"""Seals: every change of content is named by cell and field, and what editors do on saving is none."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from forging import record
from jupyter_server.services.contents.filemanager import FileContentsManager
from PIL import Image
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Report
from kernel_agent.audit.keys import load_signer, make_key, pinned
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app
from kernel_agent.errors import InputError, TrajectoryError
from kernel_agent.trajectory import Trajectory

CODES = ["print('seen')\nimage_0.rotate(90, expand=True)", "1 / 0", "image_1.size"]
NO_CODE = RerunOptions(code=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seal")


@pytest.fixture(scope="module")
def key(place: Path) -> Path:
    make_key(place / "key.pem")
    return place / "key.pem"


@pytest.fixture(scope="module")
def sealed(place: Path, key: Path) -> bytes:
    path = place / "run.ipynb"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    run_blocking(record(CODES, Image.fromarray(pixels), path=path))
    sign_file(path, load_signer(key))
    return path.read_bytes()


def _audit(data: bytes, path: Path, key: Path | None = None) -> Report:
    path.write_bytes(data)
    signers = (load_signer(key).public_key.keyid,) if key is not None else ()
    return run_blocking(audit_file(path, NO_CODE, expected=Expected(signers=signers)))[0]


def _places(report: Report) -> set[tuple[str, str]]:
    return {(finding.cell, finding.field) for finding in report.findings if finding.check == "integrity"}


def _cell(run: Any, name: str) -> Any:
    return next(cell for cell in run["cells"] if cell["id"] == name)


def _step(run: Any, index: int) -> Any:
    return _cell(run, f"step-{index}")["metadata"]["codevision"]["record"]["step"]


def _lowest_bit(run: Any) -> None:
    data = _cell(run, "turn-0-question")["attachments"]["image_0.png"]
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
        pixels = np.array(picture)
    pixels[7, 9, 1] ^= 1
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    data["image/png"] = base64.b64encode(out.getvalue()).decode()


def _swap(run: Any) -> None:
    run["cells"][2], run["cells"][4] = run["cells"][4], run["cells"][2]


TAMPERINGS: list[tuple[Callable[[Any], Any], set[tuple[str, str]]]] = [
    (lambda run: _cell(run, "step-0").update(source=["print('unseen')"]), {("step 1", "source")}),
    (lambda run: _cell(run, "step-0")["outputs"][0].update(text=["other\n"]), {("step 1", "outputs[0].text")}),
    (
        lambda run: _cell(run, "step-1")["outputs"][0]["traceback"].pop(0),
        None,  # every later line of it moves
    ),
    (lambda run: _cell(run, "step-2-thought").update(source="I guess."), {("step 3, thought", "source")}),
    (
        lambda run: _step(run, 0)["completion"].update(text="x"),
        {("step 1", "codevision.record.step.completion.text")},
    ),
    (
        lambda run: _step(run, 2)["new_messages"][0].update(role="system"),
        {("step 3", "codevision.record.step.new_messages[0].role")},
    ),
    (
        lambda run: run["metadata"]["codevision"]["turns"][0].update(answer="8"),
        {("run", "codevision.turns[0].answer")},
    ),
    (lambda run: run["metadata"]["codevision"]["header"].pop("protocol"), {("run", "codevision.header.protocol")}),
    (_lowest_bit, {("turn 1, question", 'attachments["image_0.png"].image/png')}),
    (lambda run: run["cells"].remove(_cell(run, "setup")), {("setup", "cell")}),
    (lambda run: run["cells"].append({**_cell(run, "step-0"), "id": "x1"}), {("cell 'x1'", "cell")}),
    (_swap, {("step 1, thought", "order"), ("step 2, thought", "order")}),
    (
        lambda run: run["metadata"]["codevision"]["seal"]["fields"]["setup"].update(source='"x"'),
        {("seal", "fields of setup")},
    ),
    (
        lambda run: run["metadata"]["codevision"]["seal"]["envelope"]["signatures"][0].update(sig="QUJD"),
        {("seal", "signature"), ("seal", "signer")},
    ),
    (
        lambda run: run["metadata"]["codevision"]["seal"]["envelope"]["signatures"][0].update(note="checked by ann"),
        {("seal", "envelope")},
    ),
    (
        lambda run: run["metadata"]["codevision"]["seal"]["envelope"]["signatures"].clear(),
        {("seal", "envelope")},
    ),
    (lambda run: run["metadata"]["codevision"].pop("seal"), {("seal", "signature")}),
    (lambda run: run["metadata"]["codevision"].update(seal=7), {("seal", "envelope")}),
]


@pytest.mark.parametrize("number", range(len(TAMPERINGS)))
def test_each_tampering_is_found_at_its_cell_and_field(number: int, sealed: bytes, key: Path, tmp_path: Path) -> None:
    change, places = TAMPERINGS[number]
    run = orjson.loads(sealed)
    change(run)
    report = _audit(json.dumps(run).encode(), tmp_path / "run.ipynb", key)
    assert report.exit_code == 1
    if places is None:
        assert {(cell, field.partition(".traceback")[0]) for cell, field in _places(report)} == {
            ("step 2", "outputs[0]")
        }
    else:
        assert _places(report) == places


def test_what_editors_change_on_saving_is_no_content(sealed: bytes, key: Path, tmp_path: Path) -> None:
    assert _audit(sealed, tmp_path / "run.ipynb", key).exit_code == 0
    saved = nbformat.from_dict(copy.deepcopy(orjson.loads(sealed)))
    saved.metadata["widgets"] = {"state": {}}
    saved.metadata["kernelspec"]["name"] = "conda"
    saved.metadata["language_info"]["version"] = "3.12.1"
    for cell in saved.cells:
        cell.metadata["collapsed"] = True
        if cell.cell_type == "code":
            cell.execution_count = None
    text = nbformat.writes(saved, indent=4)
    floats = orjson.loads(text)
    floats["metadata"]["codevision"]["turns"][0]["started"] = int(
        floats["metadata"]["codevision"]["turns"][0]["started"]
    )
    assert _audit(text.encode(), tmp_path / "run.ipynb", key).findings == ()
    assert _places(_audit(orjson.dumps(floats), tmp_path / "run.ipynb", key)) == {
        ("run", "codevision.turns[0].started")
    }


def test_what_a_jupyter_server_saves_is_the_same_content(sealed: bytes, key: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    path.write_bytes(sealed)
    contents = FileContentsManager(root_dir=str(tmp_path))
    model = contents.get("run.ipynb")
    assert isinstance(model["content"]["cells"][0]["source"], str)  # as the browser has it
    model["content"]["metadata"]["toc-autonumbering"] = True
    contents.save(model, "run.ipynb")
    assert path.read_bytes() != sealed
    assert _audit(path.read_bytes(), path, key).findings == ()


def test_another_key_makes_a_whole_seal_that_only_a_known_signer_tells_apart(
    sealed: bytes, key: Path, tmp_path: Path
) -> None:
    path, other = tmp_path / "run.ipynb", tmp_path / "other.pem"
    make_key(other)
    run = orjson.loads(sealed)
    _cell(run, "step-0-thought")["source"] = ["Nothing to see."]
    path.write_bytes(orjson.dumps(run))
    sign_file(path, load_signer(other))
    again = path.read_bytes()
    assert _places(_audit(again, path)) == set()
    assert _places(_audit(again, path, key)) == {("seal", "signer")}
    path.write_bytes(sealed)  # a second signature on what is whole keeps the first
    sign_file(path, load_signer(other))
    both = path.read_bytes()
    for known in (key, other):
        assert _audit(both, path, known).exit_code == 0


def test_the_commands_sign_and_ask_for_a_signer(sealed: bytes, tmp_path: Path) -> None:
    path, conf = tmp_path / "run.ipynb", {"XDG_CONFIG_HOME": str(tmp_path / "conf")}
    path.write_bytes(sealed)
    done = CliRunner().invoke(app, ["sign", str(path)], env=conf)
    assert done.exit_code == 0, done.output
    own = next(line.split()[1] for line in done.stdout.splitlines() if line.endswith("(this key)"))
    head = done.stdout.split()[-1]
    assert (tmp_path / "conf/codevision/signing-key.pem").stat().st_mode & 0o777 == 0o600
    for given, code in ((["--require-signer", own, "--head", head], 0), (["--head", "0" * 64], 1)):
        done = CliRunner().invoke(app, ["audit", str(path), "--no-code", *given])
        assert done.exit_code == code, done.output
    done = CliRunner().invoke(app, ["audit", str(path), "--require-signer", "nobody.pub"])
    assert done.exit_code == 2
    run = Trajectory.load(path)
    assert run.sign(tmp_path / "conf/codevision/signing-key.pem") == own
    assert run.audit(code=False, signers=[own]).exit_code == 0
    assert run.audit(code=False, signers=["0" * 64]).exit_code == 1
    with pytest.raises(TrajectoryError, match="only a saved run"):
        run.branch(0).audit(signers=[own])


def test_keys_of_ssh_and_openssl_are_taken(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    forms = ((PrivateFormat.OpenSSH, Encoding.OpenSSH, PublicFormat.OpenSSH),)
    forms += ((PrivateFormat.PKCS8, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),)
    for private, coding, public in forms:
        (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, private, NoEncryption()))
        (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(coding, public))
        name = load_signer(tmp_path / "key").public_key.keyid
        assert pinned(str(tmp_path / "key.pub")) == name == pinned(name.upper())
        with pytest.raises(InputError, match="no private key"):
            load_signer(tmp_path / "key.pub")
        with pytest.raises(InputError, match="64 hexadecimal digits"):
            pinned(str(tmp_path / "key"))
    (tmp_path / "locked").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    with pytest.raises(InputError, match="it has a passphrase: give another"):
        load_signer(tmp_path / "locked")
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        pinned("a" * 63)
    with pytest.raises(InputError, match="exists"):
        make_key(tmp_path / "key")


def test_a_key_that_is_no_file_or_too_large_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for load in (load_signer, lambda path: pinned(str(path))):
        with pytest.raises(InputError, match="pipe cannot be read: it is no regular file: give"):
            load(tmp_path / "pipe")
        (tmp_path / "large").write_bytes(b"-" * 65_537)
        with pytest.raises(InputError, match="it has 65,537 bytes, and 65,536 are read at most: give"):
            load(tmp_path / "large")


@pytest.mark.slow
def test_every_kind_of_field_and_file_is_found_and_located(tmp_path: Path) -> None:
    from perf.tamper import measure

    figures = run_blocking(measure(tmp_path, 300, 4))
    assert figures["missed"] == []
    assert figures["n"] == figures["located"] >= 300
    assert figures["saved_alarms"] == 0
