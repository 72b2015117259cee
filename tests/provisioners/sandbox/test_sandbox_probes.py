"""The choice of a level: by trying, with reasons, and never silently none."""

from __future__ import annotations

import json
import sys

import pytest

from kernel_agent.errors import KernelError
from kernel_agent.provisioners.sandbox.probes import choose

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
ASK = """
import json, sys
from kernel_agent.errors import KernelError
from kernel_agent.provisioners.sandbox.bpf import DENY, answer, assemble, install
from kernel_agent.provisioners.sandbox.probes import choose
wanted, *denied = sys.argv[1:]
if denied:
    install(assemble([(name, answer(DENY)) for name in denied]))
try:
    choice = choose(wanted)
    print(json.dumps({"level": choice.level, "how": choice.how, "steps": choice.steps_down}))
except KernelError as error:
    print(json.dumps({"error": str(error)}))
"""
NO_MOUNTS = ("unshare", "mount", "open_tree")
"""Without these neither we nor bubblewrap can make a sandbox."""


def ask(python, wanted: str, *denied: str) -> dict[str, str]:
    done = python.run("-c", ASK, wanted, *denied)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


def test_the_strongest_that_works(python):
    assert ask(python, "auto") == {"level": "strong", "how": "namespaces", "steps": ""}


def test_one_that_is_required(python):
    assert ask(python, "medium")["level"] == "medium"
    assert ask(python, "none") == {"level": "none", "how": "nothing", "steps": ""}


def test_a_step_down_is_told_with_its_reason_and_remedy(python):
    chosen = ask(python, "auto", *NO_MOUNTS)
    assert chosen["level"] == "medium"
    assert "strong by namespaces" in chosen["steps"]
    assert "Operation not permitted" in chosen["steps"]
    assert "user namespaces" in chosen["steps"]


def test_a_required_level_that_does_not_work_is_refused(python):
    said = ask(python, "strong", *NO_MOUNTS)["error"]
    assert "strong by namespaces" in said
    assert "strong by bubblewrap" in said
    assert "Remedy:" in said
    assert "--unsafe-no-sandbox" in said


def test_nothing_works_and_nothing_is_chosen(python):
    said = ask(python, "auto", *NO_MOUNTS, "landlock_create_ruleset")["error"]
    for level in ("strong", "medium", "container"):
        assert f"{level} by" in said
    assert "--unsafe-no-sandbox" in said


def test_a_word_that_is_no_level():
    with pytest.raises(KernelError, match="not 'tight'"):
        choose("tight")
