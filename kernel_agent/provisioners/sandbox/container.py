"""Kernels in a container of Docker or Podman. Level CONTAINER.

The image is the user's, named in CODEVISION_CONTAINER_IMAGE; `CONTAINERFILE` makes one. A container sees its run folder,
where its sockets are, and nothing else of the host. On macOS and Windows engines run in a virtual machine, through which sockets
in a shared folder do not connect: Linux only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from kernel_agent.provisioners.sandbox.plan import Plan

IMAGE_VARIABLE = "CODEVISION_CONTAINER_IMAGE"
ENGINES = ("podman", "docker")
CONTAINERFILE = """\
# docker build -t codevision-kernel -f Containerfile . ; export CODEVISION_CONTAINER_IMAGE=codevision-kernel
FROM python:3.12-slim
RUN pip install --no-cache-dir kernel-agent
ENTRYPOINT ["python", "-m", "kernel_agent.session.kernel_app"]
"""
_SECONDS = 10.0
_SHIELD = """engine=$0 name=$1; shift
exec 3<&0
(read -r _ <&3; "$engine" kill "$name") >/dev/null 2>&1 &
"$@" </dev/null 3<&- &
trap 'kill -TERM $!' TERM; trap : INT
while :; do wait $!; status=$?; kill -0 $! 2>/dev/null || exit $status; done"""
"""Kills the container when its standard input ends: with the host. An engine's own process is none of this one's children."""


def engine() -> str:
    """The first engine that answers; "" for none."""
    for name in ENGINES:
        if shutil.which(name) and not _ask(name, "info"):
            return name
    return ""


def unusable() -> str:
    """Why no container can be had here; "" where one can."""
    if sys.platform != "linux":
        return f"sockets in a shared folder do not reach a container on {sys.platform}"
    found = engine()
    if not found:
        return f"neither {' nor '.join(ENGINES)} answers"
    image = os.environ.get(IMAGE_VARIABLE, "")
    if not image:
        return f"{found} answers, but {IMAGE_VARIABLE} names no image"
    if _ask(found, "image", "inspect", image):
        return f"{found} has no image {image}"
    return ""


def command(plan: Plan, image: str, *, program: str, name: str) -> list[str]:
    """The command that runs the kernel; ended by `[program, "kill", name]`, and when its standard input ends.

    `plan.scratch` becomes a tmpfs in it.
    """
    user = plan.user if plan.user is not None else os.geteuid()
    group = plan.user if plan.user is not None else os.getegid()
    size = f"rw,nosuid,nodev,mode=1777,size={plan.tmp_bytes // 2}"
    own = [f"--ulimit=nproc={plan.processes}"] if plan.user is not None else []  # counts this kernel's alone
    # rootless Podman maps the host's user to root inside, unless told to keep it
    keep = ["--userns=keep-id"] if program == "podman" and os.geteuid() != 0 else []
    if program == "podman":
        keep.append("--read-only-tmpfs=false")  # it would copy what the image has in /var/tmp and /run into memory
    variables = {
        "HOME": plan.work,
        "IPYTHONDIR": f"{plan.scratch}/ipython",
        "MPLCONFIGDIR": f"{plan.scratch}/matplotlib",
    }
    return [
        *("/bin/sh", "-c", _SHIELD, program, name),
        *(program, "run", "--rm", "--init", "--name", name, *keep),
        *("--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--ipc=private"),
        *(f"--user={user}:{group}", f"--pids-limit={plan.processes}"),
        *(f"--memory={plan.memory_bytes}", f"--memory-swap={plan.memory_bytes}"),
        *(f"--ulimit=nofile={plan.open_files}", f"--ulimit=fsize={plan.file_bytes}", "--ulimit=core=0", *own),
        *(f"--tmpfs={plan.scratch}:{size}", f"--tmpfs=/tmp:{size}", f"--workdir={plan.scratch}"),
        *(f"--volume={plan.folder}:{plan.folder}", f"--volume={plan.connection_file}:{plan.connection_file}:ro"),
        *(word for key, value in variables.items() for word in ("--env", f"{key}={value}")),
        *(image, "-f", plan.connection_file),
    ]


def _ask(*words: str) -> str:
    """What is wrong with this command; "" where it succeeds."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"status {done.returncode}")
