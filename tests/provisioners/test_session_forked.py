"""Every test of the session again, with kernels from the fork server."""

from __future__ import annotations

import functools
import importlib.util
import time
from pathlib import Path

import pytest

from kernel_agent import KernelOptions, Session
from kernel_agent.provisioners.zygote import close_parents, report

FORKED = KernelOptions(isolation="none")
_path = Path(__file__).parents[1] / "session" / "test_session.py"
_spec = importlib.util.spec_from_file_location("session_tests_forked", _path)
assert _spec is not None
assert _spec.loader is not None
_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tests)
vars(_tests)["Session"] = functools.partial(Session, kernel=FORKED)
globals().update({name: value for name, value in vars(_tests).items() if name.startswith("test_") or name == "session"})


@pytest.fixture(scope="module", autouse=True)
def warm() -> object:
    """The first kernel is an ordinary one: have it behind us."""
    close_parents()
    deadline = time.monotonic() + 60
    with Session(kernel=FORKED):
        while "1 warm" not in report().detail:
            assert time.monotonic() < deadline, report().detail
            time.sleep(0.05)
    yield
    close_parents()


def test_these_kernels_are_forks(session: Session) -> None:
    assert session._channel is not None
    assert session._channel._manager.provisioner.why_not_forked == ""
