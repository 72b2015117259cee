"""The judge's end of host processes: asks for cases, and calls a host process that dies or hangs a broken claim."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from kernel_agent.types import Json
from perf.attacks.case import Case, Result
from perf.attacks.host import descendants
from perf.attacks.profiles import Profile
from perf.attacks.world import sweep

START_SECONDS = 300.0


@contextlib.contextmanager
def _machine() -> Iterator[None]:
    """Held by one attack on the machine at a time, of all this user's processes."""
    with (Path(tempfile.gettempdir()) / f"codevision-attacks-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Unavailable(Exception):
    """This machine cannot have the profile; the message is the session's own."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One case in one profile. `detail`: why it is NOT, or what an unclaimed attack did."""

    case: str
    profile: str
    result: Result
    detail: str
    seconds: float

    def json(self) -> dict[str, Json]:
        """As in the report."""
        return asdict(self)


class Host:
    """A host process of one profile, started when it is first needed and again when it was lost."""

    def __init__(self, profile: Profile, *, controls: bool = False) -> None:
        self.profile, self.controls = profile, controls
        self._process: subprocess.Popen[str] | None = None
        self._words: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it where it does not run. Raises Unavailable."""
        if self._process is not None:
            return
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        command = [sys.executable, "-m", "perf.attacks.serve", self.profile.name]
        self._process = subprocess.Popen(
            command + ["--controls"] * self.controls,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        answer = self._answer(START_SECONDS)
        if "ready" not in answer:
            self.close()
            if "unavailable" in answer:
                raise Unavailable(answer["unavailable"])
            raise RuntimeError(f"The host process of {self.profile.name} did not start: {answer['lost']}")

    def run(self, case: Case) -> Outcome:
        """One case. Raises Unavailable. Of attacks on the machine itself one runs at a time."""
        self.start()
        with _machine() if case.harmful else contextlib.nullcontext():
            return self._run(case)

    def _run(self, case: Case) -> Outcome:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(case.name + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it died between the cases: the answer says so
        answer = self._answer(case.seconds)
        if "lost" in answer:
            self.close(lost=True)
            claimed = self.profile.level in case.claimed
            answer = {"result": Result.NOT if claimed else Result.NOT_CLAIMED, "detail": answer["lost"], "seconds": 0}
        return Outcome(
            case=case.name,
            profile=self.profile.name,
            result=Result(answer["result"]),
            detail=answer["detail"],
            seconds=answer["seconds"],
        )

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        if not ready:
            return {"lost": f"the host process hung for {seconds:.0f} s"}
        return {"lost": f"the host process ended with status {self._process.wait(60)}. {self._last_words()}"}

    def _last_words(self) -> str:
        assert self._words is not None
        self._words.seek(0)
        return self._words.read()[-400:].decode(errors="replace").strip()

    def close(self, *, lost: bool = False) -> None:
        """End it and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        below = descendants(process.pid)
        with contextlib.suppress(OSError):  # what was written to one that died is written again
            process.stdin.close()
        try:
            process.wait(1 if lost else 60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in below:
            try:
                with open(f"/proc/{pid}/cmdline") as words:  # noqa: PTH123
                    ours = "kernel_agent" in words.read()
                if ours:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        sweep()
        if self._words is not None:
            self._words.close()
