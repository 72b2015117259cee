"""Cages: one isolated process, at each level, by each way to it, started by root and by an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import kernel_agent

ORDINARY = 60500
"""A uid that is nobody's and no kernel's."""
# Each way there is on this machine; what is missing here is said by the probes, which have tests of their own.
WAYS = [("strong", "namespaces"), ("medium", "landlock+seccomp")] + (
    [("strong", "bubblewrap")] if shutil.which("bwrap") else []
)
WHO = ["root", "user"] if os.geteuid() == 0 else ["user"]


@dataclass(frozen=True, kw_only=True)
class Result:
    said: Any
    wrong: str
    status: int
    host: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Python:
    """An interpreter and an environment in which the sandbox's modules are found, and the uid to run as."""

    program: str
    env: dict[str, str]
    uid: int | None

    def run(self, *arguments: str, given: str = "", seconds: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd="/",
            env=self.env,
            **self.identity,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.program, *arguments], text=True, cwd="/", env=self.env, **self.identity, **options
        )

    @property
    def identity(self) -> dict[str, Any]:
        return {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}


@dataclass(frozen=True, kw_only=True)
class Cage:
    level: str
    how: str
    who: str
    python: Python
    host: str = field(default=str(Path(__file__).with_name("cage_host.py")))

    @property
    def strong(self) -> bool:
        return self.level == "strong"

    def run(self, code: str, **limits: int) -> Result:
        """Run the code inside. What it prints last is JSON."""
        order = {"level": self.level, "how": self.how, "code": textwrap.dedent(code), "limits": limits}
        done = self.python.run("-c", Path(self.host).read_text(), given=json.dumps(order))
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        lines = result["said"].strip().splitlines()
        return Result(
            said=json.loads(lines[-1]) if lines else None,
            wrong=result["wrong"],
            status=result["status"],
            host=result["host"],
        )

    def tried(self, tries: str, **limits: int) -> dict[str, str]:
        """Each line `name: expression` is tried: the error's name, or "open"."""
        pairs = [line.strip().partition(": ") for line in tries.strip().splitlines()]
        result = self.run(_TRY + json.dumps({name: expression for name, _, expression in pairs}) + ")", **limits)
        assert result.said is not None, result.wrong
        said: dict[str, str] = result.said
        return said


_TRY = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def attempt(expression):
    try:
        eval(expression)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    except BaseException as error:
        return type(error).__name__
    return "open"
def report(tries):
    print(json.dumps({name: attempt(expression) for name, expression in tries.items()}))
report("""


@pytest.fixture(scope="session")
def pythons() -> Iterator[Callable[[str], Python]]:
    """For "root" this interpreter; for "user" one that every user can reach, with a copy of the package that every user can read."""
    with TemporaryDirectory(prefix="cv-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        temporary = folder / "tmp"
        temporary.mkdir()
        temporary.chmod(0o1777)
        package = Path(kernel_agent.__file__).parent
        shutil.copytree(package, folder / "kernel_agent", ignore=shutil.ignore_patterns("embedded", "__pycache__"))
        env = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": name,
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "TMPDIR": str(temporary),
        }

        def made(who: str) -> Python:
            if who == "root":
                return Python(program=sys.executable, env=env | {"HOME": str(Path.home())}, uid=None)
            if os.geteuid() != 0:
                return Python(program=sys.executable, env=env | {"HOME": str(Path.home())}, uid=None)
            reachable = all(above.stat().st_mode & 1 for above in Path(sys.executable).resolve().parents)
            program = sys.executable if reachable else "/usr/bin/python3"
            return Python(program=program, env=env | {"HOME": "/nonexistent"}, uid=ORDINARY)

        yield made


@pytest.fixture(params=WAYS, ids=" ".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Level, and the way to it."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(params=WHO)
def python(request: pytest.FixtureRequest, pythons: Callable[[str], Python]) -> Python:
    return pythons(request.param)


@pytest.fixture(params=[f"{level} {how} {who}" for level, how in WAYS for who in WHO])
def cage(request: pytest.FixtureRequest, pythons: Callable[[str], Python]) -> Cage:
    level, how, who = request.param.split()
    return Cage(level=level, how=how, who=who, python=pythons(who))
