"""Signing by itself: whatever writes a run's notebook has it signed, and nothing that somebody changed is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from PIL import Image

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.keys import default_key, load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.audit.signing import own_signer
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import InputError
from kernel_agent.live import LiveRun, RunOptions, Runs
from kernel_agent.live.run import RunState
from kernel_agent.models import ScriptedModel
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import KernelOptions

LOOK = "Look.\n```python\nprint('seen')\nimage_0.rotate(90, expand=True)\n```"
DONE = "<answer>7</answer>"


@pytest.fixture(autouse=True)
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration, still without a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    monkeypatch.delenv("CODEVISION_SIGNING_KEY", raising=False)
    return tmp_path / "conf"


@pytest.fixture
def key(conf: Path) -> str:
    """The user's key, made; its name."""
    make_key(default_key())
    return str(load_signer(default_key()).public_key.keyid)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[..., Runs]]:
    made: list[Runs] = []

    def make(*replies: str, folder: bool = True, **defaults: Any) -> Runs:
        model = ScriptedModel([*replies, *[LOOK, DONE] * 9])
        options = RunOptions(protocol="fenced", **defaults)
        kernel = KernelOptions(isolation="none")
        where = tmp_path / "runs" if folder else None
        made.append(Runs(where, choose=lambda name, url: model, kernel=kernel, defaults=options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _ended(run: LiveRun) -> Path:
    """Wait until the turn is over; the notebook."""
    run.wait()
    end = time.monotonic() + 60
    while run.state is not RunState.IDLE:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert run.trajectory.path is not None
    return run.trajectory.path


def _signed(path: Path, key: str) -> bool:
    """Whether the notebook is sealed by this key; if it is sealed at all the seal and all it covers hold."""
    if "seal" not in orjson.loads(path.read_bytes())["metadata"]["codevision"]:
        return False
    report, _ = run_blocking(audit_file(path, RerunOptions(code=False), expected=Expected(signers=(key,))))
    assert report.findings == ()
    return True


def _changed(path: Path, cell: str, **fields: Any) -> None:
    run = orjson.loads(path.read_bytes())
    next(item for item in run["cells"] if item["id"] == cell).update(fields)
    path.write_bytes(orjson.dumps(run))


def test_each_turn_ends_sealed_and_so_do_branches_and_copies(
    runs: Callable[..., Runs], picture: Image.Image, key: str, tmp_path: Path
) -> None:
    run = runs().start("How many?", [picture])
    path = _ended(run)
    assert _signed(path, key)
    run.do("ask", question="And now?")
    assert _ended(run) == path
    assert _signed(path, key)
    assert len(Trajectory.load(path).turns) == 2
    branch = run.do("fork", steps=1)
    assert branch is not None
    assert branch.trajectory.path is not None
    assert _signed(branch.trajectory.path, key)
    edited = run.do("edit", step=0, code="image_0.size")
    assert edited is not None
    assert _signed(_ended(edited), key)
    assert _signed(run.trajectory.save(tmp_path / "copy.ipynb"), key)
    assert _signed(run.trajectory.fork(2).save(tmp_path / "fork.ipynb"), key)
    run.do("close")
    assert _signed(path, key)


def test_a_run_in_memory_is_signed_when_it_is_saved(
    runs: Callable[..., Runs], picture: Image.Image, key: str, tmp_path: Path
) -> None:
    run = runs(folder=False).start("How many?", [picture])
    run.wait()
    assert _signed(run.trajectory.save(tmp_path / "run.ipynb"), key)


def test_a_saved_run_that_is_opened_and_asked_on_is_saved_and_sealed(
    runs: Callable[..., Runs], picture: Image.Image, key: str
) -> None:
    first = runs()
    path = _ended(first.start("How many?", [picture]))
    first.close()
    again = runs().open(path)
    again.do("ask", question="And now?")
    assert _ended(again) == path
    assert [turn.question for turn in Trajectory.load(path).turns] == ["How many?", "And now?"]
    assert _signed(path, key)


def test_where_nobody_wants_it_or_there_is_no_key_nothing_is_signed_nor_said(
    runs: Callable[..., Runs], picture: Image.Image, conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not _signed(_ended(runs().start("How many?", [picture])), "")
    make_key(default_key())
    assert not _signed(_ended(runs(sign=False).start("How many?", [picture])), "")
    assert not _signed(_ended(runs().start("How many?", [picture], RunOptions(sign=False))), "")
    assert "signed" not in caplog.text
    default_key().unlink()
    with pytest.raises(InputError, match=r"signing-key\.pem cannot be read"):
        runs().start("How many?", [picture], RunOptions(sign=True))


def _locked(path: Path) -> None:
    form = PrivateFormat.PKCS8
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"x")))


@pytest.mark.parametrize(
    "spoil",
    [
        _locked,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"\xff" * 2000),
        lambda path: path.symlink_to(path),
    ],
)
def test_a_key_that_cannot_be_used_is_told_and_stops_nothing(
    spoil: Callable[[Path], object],
    runs: Callable[..., Runs],
    picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CODEVISION_SIGNING_KEY", str(tmp_path / "key.pem"))
    spoil(tmp_path / "key.pem")
    run = runs().start("How many?", [picture])
    assert not _signed(_ended(run), "")
    assert run.trajectory.answer == "7"
    assert "nothing is signed" in caplog.text
    assert str(tmp_path / "key.pem") in caplog.text


def test_a_key_that_is_named_and_not_there_is_told(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert own_signer() is None
    assert "signed" not in caplog.text
    monkeypatch.setenv("CODEVISION_SIGNING_KEY", "/nowhere/key.pem")
    assert own_signer() is None
    assert "/nowhere/key.pem cannot be read" in caplog.text


def test_what_was_changed_between_two_turns_is_not_sealed_again_(
    runs: Callable[..., Runs], picture: Image.Image, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = runs()
    run = first.start("How many?", [picture])
    path = _ended(run)
    _changed(path, "step-0", source="print('unseen')")
    run.do("ask", question="And now?")
    assert _ended(run) == path
    assert not _signed(path, key)
    assert "its seal did not hold before: step 1, source" in caplog.text
    assert run.trajectory.answer == "7"
    branch = run.do("fork", steps=1)
    assert branch is not None
    assert branch.trajectory.path is not None
    assert not _signed(branch.trajectory.path, key)
    first.close()
    for saved in (path, branch.trajectory.path):  # neither is it later, when no broken seal is to be seen any more
        again = runs().open(saved)
        again.do("ask", question="And then?")
        assert not _signed(_ended(again), key)
        assert "its seal did not hold once" in again.trajectory.unsigned
        again.do("close")


def test_a_record_changed_before_it_is_taken_up_is_not_sealed_until_a_person_does(
    runs: Callable[..., Runs], picture: Image.Image, key: str, tmp_path: Path
) -> None:
    first = runs()
    path = _ended(first.start("How many?", [picture]))
    first.close()
    run = orjson.loads(path.read_bytes())
    run["metadata"]["codevision"]["header"]["kernel_seed"] += 1  # no cell shows it
    path.write_bytes(orjson.dumps(run))
    opened = runs().open(path)
    report = opened.trajectory.audit(code=False)  # opening it hides nothing
    assert report.exit_code == 1
    assert report.seal is not None
    assert not _signed(opened.trajectory.fork(1).save(tmp_path / "fork.ipynb"), key)
    branch = opened.do("fork", steps=1)
    assert branch is not None
    assert branch.trajectory.path is not None
    assert not _signed(branch.trajectory.path, key)
    opened.do("ask", question="And now?")
    assert not _signed(_ended(opened), key)
    assert [event.kind for event in Trajectory.load(path).events].count("seal_broken") == 1
    opened.do("close")
    sign_file(path, load_signer(default_key()))  # a person says that it is as it should be
    signed = runs().open(path)
    signed.do("ask", question="And last?")
    assert "seal" in orjson.loads(_ended(signed).read_bytes())["metadata"]["codevision"]


def test_cells_of_an_unsigned_run_that_were_changed_are_not_sealed(
    runs: Callable[..., Runs], picture: Image.Image, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = runs(sign=False)
    path = _ended(first.start("How many?", [picture]))
    first.close()
    _changed(path, "step-0-thought", source="I did not look.")
    again = runs().open(path)
    again.do("ask", question="And now?")
    assert not _signed(_ended(again), key)
    assert "it was loaded from a notebook that is not signed" in caplog.text


def test_a_run_is_signed_by_itself_only_where_this_key_had_signed_what_it_goes_on_from(
    runs: Callable[..., Runs], picture: Image.Image, key: str, tmp_path: Path
) -> None:
    """Else whoever changes a run and takes its seal away, or signs it anew, has it sealed by its owner's next question."""
    first = runs()
    path = _ended(first.start("How many?", [picture]))
    first.close()
    make_key(tmp_path / "other.pem")
    other = load_signer(tmp_path / "other.pem")
    for seal in (None, other):
        copy = tmp_path / f"{'stripped' if seal is None else 'resigned'}.ipynb"
        run = orjson.loads(path.read_bytes())
        del run["metadata"]["codevision"]["seal"]
        copy.write_bytes(orjson.dumps(run))
        if seal is not None:
            sign_file(copy, seal)
        live = runs()
        opened = live.open(copy)
        for question in ("And now?", "And then?"):
            opened.do("ask", question=question)
            assert not _signed(_ended(opened), key)
        assert "was loaded from a notebook that" in opened.trajectory.unsigned
        assert not _signed(opened.trajectory.fork(1).save(tmp_path / f"fork of {copy.name}"), key)
        live.close()
    Trajectory.load(path).save(tmp_path / "again.ipynb")
    odd = orjson.loads(path.read_bytes())
    odd["metadata"]["codevision"]["header"]["branch_of"] = "x"
    path.write_bytes(orjson.dumps(odd))
    opened = runs().open(path)
    opened.do("ask", question="And now?")
    assert not _signed(_ended(opened), key)


def test_a_run_whose_seal_did_not_hold_once_is_unchecked_until_a_person_signs(
    runs: Callable[..., Runs], picture: Image.Image, key: str
) -> None:
    first = runs()
    path = _ended(first.start("How many?", [picture]))
    first.close()
    run = orjson.loads(path.read_bytes())
    run["metadata"]["codevision"]["header"]["kernel_seed"] += 1
    path.write_bytes(orjson.dumps(run))
    opened = runs().open(path)
    opened.do("ask", question="And now?")
    _ended(opened)
    opened.do("close")
    report = Trajectory.load(path).audit(code=False)
    assert (report.exit_code, [(item.cell, item.field) for item in report.findings]) == (2, [("run", "seal")])
    assert "header" in report.findings[0].message
    sign_file(path, load_signer(default_key()))
    report, _ = run_blocking(audit_file(path, RerunOptions(code=False)))
    assert report.exit_code == 0


def test_what_an_editor_does_on_saving_stops_no_seal(runs: Callable[..., Runs], picture: Image.Image, key: str) -> None:
    run = runs().start("How many?", [picture])
    path = _ended(run)
    saved = nbformat.read(path, as_version=4)
    saved.metadata["widgets"] = {}
    saved.cells[3].metadata["collapsed"] = True
    saved.cells.append(nbformat.v4.new_markdown_cell("A remark of mine.", id="mine"))
    path.write_text(json.dumps(nbformat.from_dict(saved), indent=3))
    sign_file(path, load_signer(default_key()))  # with the remark
    run.do("ask", question="And now?")
    assert _ended(run) == path
    sealed = orjson.loads(path.read_bytes())
    assert "mine" in {cell["id"] for cell in sealed["cells"]}
    assert "seal" in sealed["metadata"]["codevision"]
    report, _ = run_blocking(audit_file(path, RerunOptions(code=False), expected=Expected(signers=(key,))))
    assert [(finding.cell, str(finding.outcome)) for finding in report.findings] == [("cell 'mine'", "unchecked")]


def test_a_new_run_over_another_file_is_signed(
    runs: Callable[..., Runs], picture: Image.Image, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.ipynb"
    path.write_text("{}")
    for _ in range(2):  # no notebook at first, then a signed run that somebody changed
        run = runs().start("How many?", [picture], save_to=path, force=True)
        assert _signed(_ended(run), key)
        run.do("close")
        _changed(path, "step-0", source="1")
