"""The cases of `perf.attacks`, in every profile that this machine can have, and the proof that their judges can say NOT."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel_agent.types import Isolation
from perf.attacks.case import Case, Result, all_cases
from perf.attacks.drive import Host, Outcome, Unavailable
from perf.attacks.profiles import PROFILES, Profile
from perf.attacks.table import BEGIN, END, rewrite, table

pytestmark = pytest.mark.kernels
CASES = list(all_cases().values())


def claimed() -> Iterator[object]:
    """Profile by profile, so that each has one host process; attacks that take long are for the command alone."""
    for profile in PROFILES.values():
        if profile.level is Isolation.CONTAINER and "CODEVISION_CONTAINER_IMAGE" not in os.environ:
            continue  # nobody said that there is an engine
        for case in CASES:
            if profile.level in case.claimed:
                marks = [pytest.mark.slow] if case.slow else []
                marks.append(pytest.mark.xdist_group(profile.name))
                yield pytest.param(profile, case, id=f"{profile.name}-{case.name}", marks=marks)


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    open_: dict[str, Host] = {}
    yield open_
    for host in open_.values():
        host.close()


@pytest.mark.parametrize(("profile", "case"), list(claimed()))
def test_claim_holds(hosts: dict[str, Host], profile: Profile, case: Case) -> None:
    host = hosts.setdefault(profile.name, Host(profile))
    try:
        outcome = host.run(case)
    except Unavailable as error:
        pytest.fail(f"this machine cannot have it: {error}")  # `codevision doctor` says why
    assert outcome.result is case.holds, f"{case.must} {outcome.detail}"


@pytest.mark.xdist_group("none")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.control])
def test_gets_through_where_nothing_is_claimed(hosts: dict[str, Host], case: Case) -> None:
    """On an unprotected kernel: an attack that fails there too would prove nothing elsewhere."""
    host = hosts.setdefault("controls", Host(PROFILES["none"], controls=True))
    outcome = host.run(case)
    assert outcome.result is Result.NOT_CLAIMED
    assert outcome.detail.startswith("gets through"), outcome.detail


@pytest.mark.xdist_group("none")
def test_what_could_hurt_is_not_run_where_it_is_not_claimed(hosts: dict[str, Host]) -> None:
    host = hosts.setdefault("controls", Host(PROFILES["none"], controls=True))
    harmful = [case for case in CASES if case.harmful]
    assert {case.name for case in harmful} >= {"fork bomb", "kill(-1)", "RSS", "/tmp fill"}
    for case in harmful:
        assert Isolation.NONE not in case.claimed
        assert host.run(case).detail == "not run"


def test_a_host_process_that_is_lost_is_a_broken_claim() -> None:
    def end(scene: object) -> str:
        raise AssertionError("never called here")

    lost = Case(name="no such case", group="", holds=Result.BLOCKED, claimed=frozenset(Isolation), must="", attack=end)
    with Host(PROFILES["none"]) as host:
        outcome = host.run(lost)
        assert outcome.result is Result.NOT
        assert "KeyError" in outcome.detail
        assert host.run(all_cases()["set_next_input"]).result is Result.BLOCKED  # with a new one


def test_the_table_is_written_between_its_markers(tmp_path: Path) -> None:
    outcomes = [
        Outcome(case="~/.ssh", profile=name, result=result, detail="", seconds=0.0)
        for name, result in (("medium-plain", Result.BLOCKED), ("none", Result.NOT_CLAIMED))
    ]
    document = tmp_path / "isolation.md"
    document.write_text(f"before\n{BEGIN}\nyesterday\n{END}\nafter\n")
    rewrite(outcomes, document)
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| what must hold | medium-plain | none |\n")
    assert text.endswith(f"| blocked | NOT CLAIMED |\n{END}\nafter\n")
    assert "yesterday" not in text
    assert table(outcomes).count("\n") == 3
    document.write_text("no markers")
    with pytest.raises(ValueError, match="Put the two lines back"):
        rewrite(outcomes, document)


def test_the_document_has_a_row_for_every_case() -> None:
    text = (Path(__file__).parents[2] / "docs" / "isolation.md").read_text()
    missing = [case.name for case in CASES if f"| **{case.name}**: " not in text]
    assert not missing, f"{missing}: run `python -m perf.attacks --table`"
