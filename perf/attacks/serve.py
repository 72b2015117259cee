"""One host process for one profile: `python -m perf.attacks.serve PROFILE`, a case's name a line in, its outcome out.

What kills or hangs this process was not contained; drive.py says so. Outcomes are JSON lines on the descriptor that was
standard output; whatever else is written goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from typing import Any

from kernel_agent.errors import CodeVisionError
from perf.attacks.case import Case, Result, all_cases
from perf.attacks.profiles import PROFILES
from perf.attacks.scene import NotIsolated, Scene
from perf.attacks.world import World, new_secret

GIB = 1 << 30
OWN_LIMIT_BYTES = 24 * GIB
"""Address space of a host process and its kernels: the belt beside what is tested."""


def judge(case: Case, scene: Scene, *, controls: bool) -> tuple[Result, str]:
    """Run a case. With `controls` what is not claimed is tried too, where it is harmless."""
    scene.claimed = claimed = scene.profile.level in case.claimed
    if not claimed and (case.harmful or not controls):
        return Result.NOT_CLAIMED, "not run"
    try:
        if claimed:
            scene.check_isolated()
        problem = case.attack(scene)
        if claimed:
            problem = problem or scene.tidy()
    except NotIsolated as error:
        return Result.NOT, f"not run: {error}"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if claimed:
        return (Result.NOT, problem) if problem else (case.holds, "")
    with contextlib.suppress(Exception):
        scene.tidy()
    return Result.NOT_CLAIMED, f"gets through: {problem}" if problem else "did not get through"


def main() -> None:
    """Answer until the input ends."""
    profile = PROFILES[sys.argv[1]]
    controls = "--controls" in sys.argv
    os.environ.setdefault("CODEVISION_CANARY_API_KEY", new_secret())
    if "CODEVISION_CANARY_READY" not in os.environ:  # an environment is what a process was started with
        os.environ["CODEVISION_CANARY_READY"] = "1"
        os.environ["OPENAI_API_KEY"] = os.environ["CODEVISION_CANARY_API_KEY"]
        os.execv(sys.executable, [sys.executable, "-m", "perf.attacks.serve", *sys.argv[1:]])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (OWN_LIMIT_BYTES, OWN_LIMIT_BYTES))

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    with World() as world:
        scene = Scene(profile, world)
        try:
            try:
                _ = scene.session
            except CodeVisionError as error:
                answer(unavailable=str(error))
                return
            answer(ready=True)
            for line in sys.stdin:
                started = time.monotonic()
                result, detail = judge(all_cases()[line.strip()], scene, controls=controls)
                answer(result=result, detail=detail[:500], seconds=round(time.monotonic() - started, 2))
        finally:
            with contextlib.suppress(Exception):
                scene.close()


if __name__ == "__main__":
    main()
