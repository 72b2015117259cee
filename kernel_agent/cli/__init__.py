"""The `codevision` command: thin faces that read arguments and environment, call the package and print.

Exit codes: 0 done, 1 an error that was named, 2 wrong usage, 3 ended without an answer, 130 interrupted; where a command
has others, its module says so. Ctrl-C is heard from the first line on: one line, no traceback.
"""

from __future__ import annotations

import _thread
import io
import signal
import sys
import threading
from typing import Any


def main() -> None:
    """Entry point of the `codevision` command. SIGTERM ends a run as Ctrl-C does: notebook whole, no process left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = _dropped
    try:
        from kernel_agent.cli.commands import app

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        app()
    except KeyboardInterrupt:
        print("codevision: Interrupted.", file=sys.stderr)
        sys.exit(130)


def _dropped(error: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a finalizer or a weak reference's callback: a Ctrl-C there comes again in a moment."""
    if error.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(error)
        return
    again = threading.Timer(0.01, _thread.interrupt_main)
    again.daemon = True
    again.start()


def __getattr__(name: str) -> Any:  # loaded on first use, so that `main` begins at once
    if name == "app":
        from kernel_agent.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
