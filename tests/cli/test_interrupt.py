"""Ctrl-C before a command is under way: while Python still reads the modules, and where no command hears it itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DROPPED = """
import signal, sys, weakref

def interrupted(event, given):
    if event == "import" and given[0] == "kernel_agent.doctor":
        one = type("", (), {})()
        reference = weakref.ref(one, lambda _: signal.raise_signal(signal.SIGINT))
        del one

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit it ignored
sys.addaudithook(interrupted)
sys.argv[1:] = ["doctor"]
from kernel_agent.cli import main
main()
"""


@pytest.mark.parametrize("imported", ["typer.core", "kernel_agent.doctor"])
def test_ctrl_c_is_one_line_from_the_start(imported: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "kernel_agent.cli", "doctor"],  # tells each module it has read
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        pipesize=4096,  # so it waits for us after some modules more
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    assert process.stderr is not None
    read = next(line for line in process.stderr if line.split(b"|")[-1].strip() == imported.encode())
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    said = [line for line in errors.decode().splitlines() if not line.startswith("import time:")]
    assert (process.returncode, out, said) == (130, b"", ["codevision: Interrupted."]), (read, errors)


def test_ctrl_c_where_python_drops_it_is_heard() -> None:
    """In the callback of a weak reference, as each import has one, or in a finalizer."""
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "codevision: Interrupted.\n")
