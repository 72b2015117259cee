"""Programs that play the host in a process of their own, so that what it holds can be measured from outside any test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MEMORY = """
import json, re, sys
def peak():
    'The most memory this process ever held, in MiB.'
    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
"""


def host(code: str, *arguments: str, seconds: float = 600) -> Any:
    """What the program prints, as JSON. It has `peak()`."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY + code, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONWARNINGS": "ignore::ResourceWarning"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
