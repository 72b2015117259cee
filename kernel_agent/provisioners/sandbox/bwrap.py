"""The same sandbox made by bubblewrap, where this process may not make namespaces but that program may.

Ubuntu's AppArmor is such a case. The kernel then applies the other layers (uid, limits, Landlock, seccomp) by a plan with
`namespaces=False`. Bubblewrap executes a program: it serves plain starts only.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from kernel_agent.provisioners.sandbox.mounts import RUN
from kernel_agent.provisioners.sandbox.plan import Plan

_SHIELD = 'trap "" INT; exec "$0" "$@"'
"""Bubblewrap's own process is in the group that an interrupt is sent to, and would end; `enter` undoes it for the kernel."""
_TMPFS = (("{scratch}", 2), ("/tmp", 4), ("/dev/shm", 4))
"""Place, and the part of `tmp_bytes` it gets: bubblewrap makes each its own tmpfs."""


def prefix(plan: Plan) -> list[str]:
    """What to put before a kernel's command. The process must be spawned by a thread that lives on (`spawn.spawn`)."""
    program = shutil.which("bwrap")
    if program is None:
        raise FileNotFoundError("bubblewrap (bwrap) is not installed")
    root = os.geteuid() == 0
    paths, links = (*plan.readable, "/etc/passwd", "/etc/group"), dict(plan.links)
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if root:  # to become the spare user inside, which a user namespace would not let it
        arguments += ["--cap-drop", "ALL"]
        arguments += [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
    else:
        arguments.append("--unshare-user")
        if "--disable-userns" in _options(program):
            arguments.append("--disable-userns")
    arguments += ["--die-with-parent", "--hostname", "kernel", "--proc", "/proc", "--dev", "/dev"]
    for place, part in _TMPFS:
        arguments += [
            "--perms",
            "1777",
            "--size",
            str(plan.tmp_bytes // part),
            "--tmpfs",
            place.format(scratch=plan.scratch),
        ]
    # it would make parents readable by root alone
    parents = {str(above) for path in (*paths, *links, plan.folder, RUN) for above in list(Path(path).parents)[:-1]}
    for parent in sorted(parents - {"/tmp", "/dev"}):
        arguments += ["--perms", "0755", "--dir", parent]
    for path in paths:
        arguments += ["--ro-bind", path, path]
    for link, target in links.items():
        arguments += ["--symlink", target, link]
    arguments += ["--bind", plan.folder, RUN, "--symlink", RUN, plan.folder]
    if os.path.lexists(plan.connection_file):
        arguments += ["--ro-bind", plan.connection_file, f"{RUN}/{Path(plan.connection_file).name}"]
    arguments += ["--remount-ro", "/", "--chdir", "/"]
    return ["/bin/sh", "-c", _SHIELD, program, *arguments, "--"]


@functools.cache
def _options(program: str) -> str:
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=10).stdout
