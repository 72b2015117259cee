"""A root of the process's own, made of what its plan lets it read, and nothing else.

Guarantees: every folder of the host's is mounted read-only, without devices or setuid, also what is mounted beneath it; the run folder
is the only exception, and its connection file is read-only again. Everything written goes to one tmpfs of limited size and
number of files. /proc shows the process's own namespace. Nothing of the old root is left. Needs Linux 5.12 or later,
a mount namespace of the process's own, and to be run in a new process-id namespace.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from kernel_agent.provisioners.sandbox.plan import Plan
from kernel_agent.provisioners.sandbox.syscalls import call, checked, libc

DEVICES = ("null", "zero", "full", "random", "urandom")
ROOT_BYTES, ROOT_FILES = 4 << 20, 16384
"""Of the tmpfs that holds mount points and generated files, read-only in the end."""
RUN = "/run/kernel"
"""Where the run folder is mounted; its own path is a link to here. Beneath a folder that may be written to, such as /tmp, it
would be writable too: Landlock's rights hold for all that is below."""
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC_PRIVATE = 0x4000 | 1 << 18
_MNT_DETACH = 2
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE, _OPEN_TREE_CLONE = -100, 0x1000, 0x8000, 1
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_MOVE_FROM_EMPTY_PATH = 4


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def build(plan: Plan) -> None:
    """Make the root and move into it. Raises OSError."""
    _mount(None, "/", None, _MS_REC_PRIVATE)
    # opened first: the new root covers the run folder, whatever that is below
    trees = [(path, _tree(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)) for path in plan.readable]
    trees += [(f"/dev/{name}", _tree(f"/dev/{name}", _ATTR_NOSUID)) for name in DEVICES]
    trees.append((RUN, _tree(plan.folder, _ATTR_NOSUID | _ATTR_NODEV)))
    if os.path.lexists(plan.connection_file):
        name = Path(plan.connection_file).name
        trees.append((f"{RUN}/{name}", _tree(plan.connection_file, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)))
    root = plan.folder
    _tmpfs(root, ROOT_BYTES, ROOT_FILES)
    os.chdir(root)
    _data(plan, root)
    for path, target in plan.links:
        _place(root + path).symlink_to(target)
    for path, tree in trees:
        _attach(tree, root + path)
    _place(root + plan.folder).symlink_to(RUN)
    _generate(plan, root)
    (Path(root) / "proc").mkdir()
    _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    call("pivot_root", b".", b".")
    checked(libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _tree(path: str, attributes: int) -> int:
    """A detached copy of what is mounted there, with these attributes all the way down."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    tree = call("open_tree", _AT_FDCWD, os.fsencode(path), flags)
    wanted = _Attributes(attributes, 0, 0, 0)
    call("mount_setattr", tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted))
    return tree


def _attach(tree: int, place: str) -> None:
    if not os.path.lexists(place):  # the connection file is there already, in the run folder
        target = _place(place)
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
    call("move_mount", tree, b"", _AT_FDCWD, os.fsencode(place), _MOVE_FROM_EMPTY_PATH)
    os.close(tree)


def _place(path: str) -> Path:
    """The path, once its parent is there."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)


def _tmpfs(place: str, size: int, files: int) -> None:
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes={files},mode=0755")


def _data(plan: Plan, root: str) -> None:
    """One tmpfs for all that is written: its size bounds the sum."""
    owner = os.geteuid() if plan.user is None else plan.user
    _place(root + plan.scratch).mkdir()
    _tmpfs(root + plan.scratch, plan.tmp_bytes, plan.tmp_files)
    for name, place in ((".", None), (".tmp", "/tmp"), (".shm", "/dev/shm")):
        source = Path(root + plan.scratch) / name
        source.mkdir(mode=0o700, exist_ok=True)
        os.chown(source, owner, owner if plan.user is not None else -1)
        if place:
            _place(root + place).mkdir()
            _mount(str(source), root + place, None, _MS_BIND)


def _generate(plan: Plan, root: str) -> None:
    """What programs look for in /etc and /dev."""
    uid = os.geteuid() if plan.user is None else plan.user
    gid = os.getegid() if plan.user is None else plan.user
    files = {
        "/etc/passwd": f"kernel:x:{uid}:{gid}::{plan.work}:/bin/sh\n",
        "/etc/group": f"kernel:x:{gid}:\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for path, text in files.items():
        _place(root + path).write_text(text)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path(f"{root}/dev/{name}").symlink_to(target)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    ctypes.set_errno(0)
    arguments = (encoded(source), encoded(target), encoded(kind), ctypes.c_ulong(flags), encoded(options))
    checked(libc.mount(*arguments), f"mount {kind or source or ''} on {target}")
