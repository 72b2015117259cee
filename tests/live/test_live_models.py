"""Live runs that name the same model share it, from its first load on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from kernel_agent.blocking import background_loop, run_blocking
from kernel_agent.errors import ModelError
from kernel_agent.live import LiveRun, Runs
from kernel_agent.models import Model, ScriptedModel
from kernel_agent.types import KernelOptions

DONE = "<answer>red</answer>"


class Loading:
    """A chooser of models that takes until `go`, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.count, self.failures = 0, failures
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, name: str | None, url: str | None) -> Model:
        self.count += 1
        number = self.count
        self.begun.set()
        assert self.go.wait(60)
        if number <= self.failures:
            raise ModelError("the weights are not there")
        return ScriptedModel([DONE] * 4)


@pytest.fixture
def start(picture: Image.Image) -> Iterator[Callable[[Loading], Callable[[], LiveRun]]]:
    with contextlib.ExitStack() as stack:

        def make(loading: Loading) -> Callable[[], LiveRun]:
            runs = Runs(choose=loading, kernel=KernelOptions(isolation="none"))
            stack.callback(runs.close)
            return lambda: runs.start("What colour?", [picture])

        yield make


def until_starting(count: int) -> None:
    """Wait until so many runs are on their way on the background loop, and have come as far as their model."""
    end = time.monotonic() + 60
    while (
        sum(getattr(task.get_coro(), "__name__", "") == "_new" for task in asyncio.all_tasks(background_loop())) < count
    ):
        assert time.monotonic() < end, f"there are no {count} runs on their way"
        time.sleep(0.01)
    run_blocking(asyncio.sleep(0))


def test_runs_of_the_same_moment_load_a_model_once(start: Callable[[Loading], Callable[[], LiveRun]]) -> None:
    loading = Loading()
    begin = start(loading)
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(begin) for _ in range(2)]
        until_starting(2)
        loading.go.set()
        first, second = (run.result() for run in both)
    assert [first.wait().answer, second.wait().answer] == ["red", "red"]
    assert first.agent.model is second.agent.model
    assert loading.count == 1


def test_a_load_that_failed_is_tried_again(start: Callable[[Loading], Callable[[], LiveRun]]) -> None:
    loading = Loading(failures=1)
    begin = start(loading)
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(begin) for _ in range(2)]
        until_starting(2)
        loading.go.set()
        assert [str(run.exception()) for run in both] == ["the weights are not there"] * 2
    assert begin().wait().answer == "red"
    assert loading.count == 2


def test_who_is_interrupted_does_not_take_the_model_from_others(
    start: Callable[[Loading], Callable[[], LiveRun]],
) -> None:
    loading = Loading()
    begin = start(loading)
    with ThreadPoolExecutor() as threads:

        def other() -> LiveRun:
            assert loading.begun.wait(60)
            threads.submit(lambda: (until_starting(2), os.kill(os.getpid(), signal.SIGINT)))
            return begin()

        second = threads.submit(other)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                begin()
        finally:
            signal.signal(signal.SIGINT, before)
        loading.go.set()
        assert second.result().wait().answer == "red"
    assert loading.count == 1
