"""Processes that die with this one at once, whichever thread asked for them.

Linux sends a child its parent-death signal when the THREAD that started it ends. One thread of this process, which ends with it,
starts them all.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

_Order: TypeAlias = "tuple[Sequence[str], dict[str, Any], Future[subprocess.Popen[Any]]]"
_orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen`, from the thread that stays. Raises what it raises."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_serve, name="codevision-spawn", daemon=True)
            _thread.start()
    result: Future[subprocess.Popen[Any]] = Future()
    _orders.put((command, options, result))
    return result.result()


def _serve() -> None:
    while True:
        command, options, result = _orders.get()
        try:
            result.set_result(subprocess.Popen(command, **options))
        except BaseException as error:
            result.set_exception(error)


def _after_fork() -> None:
    global _orders, _lock, _thread
    _orders, _lock, _thread = queue.SimpleQueue(), threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
