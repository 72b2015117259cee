"""A process that isolates itself and then tries what it may not do: `python -m kernel_agent.provisioners.sandbox.trial PLAN`.

Reads a line from its standard input, JSON: {"secret": a file of the host's, "socket": a socket of the host's, "pid": a process
of the host's}. Prints what it found open, as a JSON list; an empty list is a level that holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path

from kernel_agent.provisioners.sandbox.enter import enter, seal
from kernel_agent.provisioners.sandbox.plan import Plan


def main() -> None:
    """Isolate, try, tell."""
    plan = Plan.from_json(sys.argv[1])
    targets = json.loads(sys.stdin.readline())
    enter(plan, held=True)
    seal(plan)
    found = []
    with contextlib.suppress(OSError):
        Path(targets["secret"]).read_bytes()
        found.append("a file of the host can be read")
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_UNIX).connect(targets["socket"])
        found.append("a socket of the host can be reached")
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET)
        found.append("the network can be reached")
    with contextlib.suppress(OSError):
        os.kill(targets["pid"], 0)
        found.append("a process of the host can be signalled")
    if os.getresuid()[0] == 0:
        found.append("it is root")
    try:
        Path("written").write_text("x")
        socket.socket(socket.AF_UNIX).bind(f"{plan.folder}/trial")
    except OSError as error:
        found.append(f"its own folders cannot be used: {error}")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
