"""Ctrl-C before a command is under way: while Python still reads the modules, and where no command hears it itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("imported", ["typer.core", "kernel_agent.doctor"])
def test_ctrl_c_is_one_line_from_the_start(imported: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "kernel_agent.cli", "doctor"],  # tells each module it has read
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    assert process.stderr is not None
    read = next(line for line in process.stderr if line.split("|")[-1].strip() == imported)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, out, said) == (130, "", ["codevision: Interrupted."]), (read, errors)
