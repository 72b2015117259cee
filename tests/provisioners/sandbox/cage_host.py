"""Run by tests, as root or as an ordinary user: a host that isolates one process, gives it code, and says how that ended.

Reads JSON {"level", "how", "code", "limits"} and prints JSON {"said", "status", "host": what became of the host's own things}. The code runs
after `enter` and `seal` and knows `plan`, `secret`, `address` (a listening socket of the host's), `outside` (a folder), `host` (a process).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kernel_agent.provisioners.sandbox import bwrap, users
from kernel_agent.provisioners.sandbox.prepare import clear, environment, prepare
from kernel_agent.provisioners.sandbox.spawn import spawn
from kernel_agent.types import Isolation

CHILD = """
import json, os, sys
from kernel_agent.provisioners.sandbox.enter import enter, seal
from kernel_agent.provisioners.sandbox.plan import Plan
plan = Plan.from_json(sys.argv[1])
globals().update(json.loads(sys.argv[2]))
enter(plan, held=True)
seal(plan)
exec(compile(sys.argv[3], "<cell>", "exec"))
"""


def main() -> None:
    order = json.loads(sys.stdin.read())
    level = Isolation(order["level"])
    user = users.lease()
    with tempfile.TemporaryDirectory(prefix="cage-") as name:
        outside = Path(name)
        outside.chmod(0o755)
        run, scratch = outside / "run", outside / "scratch"
        for folder in (run, scratch):
            folder.mkdir(mode=0o700)
        secret = outside / "secret"
        secret.write_text("of the host")
        secret.chmod(0o644)
        connection = run / "kernel.json"
        connection.write_text('{"key": "k"}')
        server = socket.socket(socket.AF_UNIX)
        server.bind(f"{name}/socket")
        server.listen()
        Path(f"{name}/socket").chmod(0o777)
        leak = os.open(secret, os.O_RDONLY)
        os.set_inheritable(leak, True)
        plan = prepare(
            level,
            connection_file=connection,
            scratch=scratch,
            namespaces=order["how"] == "namespaces",
            user=user,
            memory_mb=256,
        )
        plan = replace(plan, **order["limits"])
        known = {"secret": str(secret), "address": f"{name}/socket", "outside": name, "host": os.getpid()}
        command = [sys.executable, "-c", CHILD, plan.to_json(), json.dumps(known), order["code"]]
        if order["how"] == "bubblewrap":
            command = [*bwrap.prefix(plan), *command]
        env = environment(plan, os.environ | {"SERVICE_API_KEY": "hidden"})
        process = spawn(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            close_fds=False,
        )
        said, wrong = process.communicate(timeout=300)
        after = {
            "secret": secret.read_text(),
            "mode": oct(secret.stat().st_mode & 0o7777),
            "connection": connection.read_text(),
            "run": sorted(entry.name for entry in run.iterdir()),
            "outside": sorted(entry.name for entry in outside.iterdir()),
        }
        clear(outside)
        users.give_back(user)
    print(json.dumps({"said": said, "wrong": wrong, "status": process.returncode, "host": after}))


if __name__ == "__main__":
    main()
