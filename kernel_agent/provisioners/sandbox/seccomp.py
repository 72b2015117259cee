"""Which system calls a kernel's code may not make.

A deny-list: libraries use too many calls for an allow-list that lasts. What is left open is what Python, NumPy, Pillow,
OpenCV, Matplotlib, asyncio, threads, subprocesses and new ZMQ sockets over ipc need.
"""

from __future__ import annotations

import signal

from kernel_agent.provisioners.sandbox.bpf import (
    ALLOW,
    DENY,
    IGNORE,
    KILL,
    UNKNOWN,
    Block,
    answer,
    assemble,
    load,
    when,
    when_any,
    when_not,
)

# fmt: off
_DENIED = [
    # other processes, keys, and the kernel's own machinery
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise", "process_mrelease",
    "migrate_pages", "move_pages",
    "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "lookup_dcookie", "vhangup",
    "syslog", "acct", "quotactl", "quotactl_fd",
    "nfsservctl", "uselib", "ustat", "sysfs", "modify_ldt", "iopl", "ioperm", "create_module", "init_module",
    "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot", "swapon", "swapoff", "lsm_set_self_attr",
    # memory that no limit counts
    "memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "shmdt", "msgget", "msgsnd", "msgrcv", "msgctl",
    "semget", "semop", "semctl", "semtimedop",
    "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr",
    # mounts and namespaces
    "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_tree", "open_tree_attr", "move_mount",
    "mount_setattr", "fsopen", "fsconfig",
    "fsmount", "fspick", "statmount", "listmount", "name_to_handle_at", "open_by_handle_at",
    # attributes, watching of other processes' files, clocks and names
    "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr",
    "removexattrat", "file_setattr", "fanotify_init",
    "fanotify_mark", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname",
    "pidfd_send_signal",
]
# fmt: on
_ABSENT = ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"]
"""Said not to exist: callers then use an older call, whose arguments can be looked at."""
_MODES_AND_TIMES = ["chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat"]
_OWNERS = ["chown", "fchown", "lchown", "fchownat", "mknod", "mknodat"]
_GROUPS = ["setsid", "setpgid"]
_SIGNALS = ["kill", "tkill", "rt_sigqueueinfo"]
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 1, 5, 0xF
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PR_SET_PDEATHSIG = 1
_ASK = 0xFFFFFFFF


def rules(*, namespaces: bool, first: bool, signals: bool) -> list[tuple[str, Block]]:
    """The rules as blocks.

    Args:
        namespaces: whether the process has namespaces of its own. Without, no `connect` (sockets that are files could be
            the host's) and no change of a file's mode, owner or times (it could be the host's).
        first: whether it is its namespace's process 1, which no signal from inside can kill: then SIGKILL to it kills
            whoever sends it, so that a kernel can end itself.
        signals: whether something else keeps it from signalling the host's processes.
    """
    blocks = [(name, answer(DENY)) for name in _DENIED]
    blocks += [(name, answer(UNKNOWN)) for name in _ABSENT]
    blocks += [
        (
            "socket",
            load(0) + when_not(_AF_UNIX, DENY) + load(1, _SOCK_TYPE) + when_not(_SOCK_STREAM, DENY) + answer(ALLOW),
        ),
        # a pair of datagram sockets could send to any other one that is a file
        (
            "socketpair",
            load(0)
            + when_not(_AF_UNIX, DENY)
            + load(1, _SOCK_TYPE)
            + when(_SOCK_STREAM, ALLOW)
            + when(_SOCK_SEQPACKET, ALLOW)
            + answer(DENY),
        ),
        ("clone", load(0) + when_any(_NEW_NAMESPACES, DENY) + answer(ALLOW)),
        ("ioctl", load(1) + when(_TIOCSTI, DENY) + when(_TIOCLINUX, DENY) + answer(ALLOW)),
        ("personality", load(0) + when(_ASK, ALLOW) + when(0, ALLOW) + answer(DENY)),
        # a kernel may not arrange to survive its parent
        ("prctl", load(0) + when_not(_PR_SET_PDEATHSIG, ALLOW) + load(1) + when(signal.SIGKILL, ALLOW) + answer(DENY)),
    ]
    if not namespaces:
        blocks.append(("connect", answer(DENY)))
        blocks += [(name, answer(IGNORE)) for name in _MODES_AND_TIMES + _GROUPS]
        blocks += [(name, answer(DENY)) for name in _OWNERS]
    if not signals:
        blocks += [(name, answer(DENY)) for name in _SIGNALS]
    elif first:
        blocks.append(("kill", load(0) + when_not(1, ALLOW) + load(1) + when(signal.SIGKILL, KILL) + answer(ALLOW)))
    return blocks


def program(*, namespaces: bool, first: bool, signals: bool) -> Block:
    """The rules as a filter for `bpf.install`."""
    return assemble(rules(namespaces=namespaces, first=first, signals=signals))
