"""macOS: a profile for `sandbox-exec`, which Apple calls Seatbelt. Level MEDIUM.

Denies everything, then allows: reading the plan's readable paths, using scratch, sockets in the run folder, starting
programs that were readable, signals to oneself and one's children. No network, no Mach service but those that libSystem needs to
start. The kernel of macOS has no limit on address space; the watchdog needs /proc, which it has not: memory is not capped there.

Written from the documentation and profiles that macOS ships; it has not been run by the authors' tests, which need macOS. The
functional probe decides on each machine whether it is used.
"""

from __future__ import annotations

from pathlib import Path

from kernel_agent.provisioners.sandbox.plan import Plan

PROGRAM = "/usr/bin/sandbox-exec"
_SYSTEM = (
    "/System",
    "/usr/lib",
    "/usr/share",
    "/usr/bin",
    "/bin",
    "/Library/Apple",
    "/Library/Fonts",
    "/private/var/db/dyld",
)
_MACH = ("com.apple.system.notification_center", "com.apple.system.opendirectoryd.libinfo", "com.apple.system.logger")


def prefix(plan: Plan) -> list[str]:
    """What to put before a kernel's command."""
    return [PROGRAM, "-p", profile(plan)]


def profile(plan: Plan) -> str:
    """The profile, in Apple's dialect of Scheme."""
    readable = "\n".join(f"    {_beneath(path)}" for path in (*_SYSTEM, *plan.readable, plan.folder))
    services = " ".join(f'(global-name "{name}")' for name in _MACH)
    return f"""(version 1)
(deny default)
(allow process-fork)
(allow signal (target self) (target children))
(allow sysctl-read)
(allow file-read-metadata)
(allow mach-lookup {services})
(allow file-read* process-exec
    (literal "/") (literal "/dev/null") (literal "/dev/random") (literal "/dev/urandom")
{readable})
(allow file-read* file-write* process-exec {_beneath(plan.scratch)})
(allow file-write* (literal "/dev/null"))
(allow file-write-create file-write-unlink (require-all (vnode-type SOCKET) {_beneath(plan.folder)}))
(allow network-bind network-inbound (local unix-socket {_beneath(plan.folder)}))
(deny file-write* (literal "{_quoted(plan.connection_file)}"))
"""


def _beneath(path: str) -> str:
    return f'({"subpath" if Path(path).is_dir() else "literal"} "{_quoted(path)}")'


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace('"', '\\"')
