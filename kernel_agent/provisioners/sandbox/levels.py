"""How strongly a kernel is isolated."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """What a level contains, strongest first.

    STRONG: namespaces of its own (files, processes, network, IPC, host name), Landlock, seccomp, limits. No file of the
    host but the read-only interpreter and libraries, no socket of the host, no process of the host, no network.
    Not contained: faults of the Linux kernel itself, and time: CPU is shared.

    MEDIUM: Landlock, seccomp and limits, without namespaces. No file outside the readable set, no network, no connection,
    no signal to and no tracing of other processes. Not contained: names and attributes of the host's files can be seen
    (stat, not read), its process ids too; a fork bomb is stopped by the host's watchdog, not by a limit, where the kernel
    runs as an ordinary user; processes that leave the kernel's process group outlive it. What fails there though it is
    harmless: multiprocessing pools and managers (they need /dev/shm and sockets), chmod and utime (which do nothing).

    CONTAINER: whatever Docker or Podman contains, with no network, no capability and a read-only image.

    NONE: an ordinary process.
    """

    STRONG = "strong"
    MEDIUM = "medium"
    CONTAINER = "container"
    NONE = "none"
