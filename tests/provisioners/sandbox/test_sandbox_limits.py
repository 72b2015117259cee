"""Limits: what runs out in a cage runs out there alone, and the process can go on."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
MIB = 1 << 20
_WHO = ["root", "user"] if os.geteuid() == 0 else ["user"]
_STRONG_WAYS = ["namespaces", "bubblewrap"] if shutil.which("bwrap") else ["namespaces"]
STRONG = [f"strong {how} {who}" for how in _STRONG_WAYS for who in _WHO]
MEDIUM_ROOT = ["medium landlock+seccomp root"] if os.geteuid() == 0 else []


def test_memory_is_a_memory_error_and_can_be_used_again(cage):
    result = cage.run(
        """
        said = []
        for size in (200, 400, 200):
            try:
                said.append(len(bytearray(size << 20)) >> 20)
            except MemoryError:
                said.append("MemoryError")
        print(json.dumps(said))
        """,
        memory_bytes=256 * MIB,
    )
    assert result.said == [200, "MemoryError", 200]


def test_file_size_and_open_files(cage):
    result = cage.run(
        """
        import errno
        said = []
        try:
            with open("big", "wb") as file:
                file.write(bytes(2 << 20))
        except OSError as error:
            said.append(errno.errorcode[error.errno])
        os.unlink("big")
        files = []
        try:
            while True:
                files.append(os.dup(0))
        except OSError as error:
            said += [errno.errorcode[error.errno], len(files) < 64]
        print(json.dumps(said))
        """,
        file_bytes=MIB,
        open_files=64,
    )
    assert result.said == ["EFBIG", "EMFILE", True]


@pytest.mark.parametrize("cage", STRONG, indirect=True)  # MEDIUM claims nothing: files are the host's
def test_disk_fill(cage):
    result = cage.run(
        """
        import errno
        written, failed = 0, []
        for folder in (plan.work, "/tmp", "/dev/shm"):
            try:
                for number in range(1000):
                    with open(f"{folder}/{number}", "wb") as file:
                        written += file.write(bytes(1 << 20))
            except OSError as error:
                failed.append(errno.errorcode[error.errno])
        print(json.dumps([written >> 20, failed]))
        """,
        tmp_bytes=16 * MIB,
    )
    written, failed = result.said
    assert written <= 16
    assert failed == ["ENOSPC"] * 3


# an ordinary user's processes are counted together at MEDIUM: there the watchdog has the cap
@pytest.mark.parametrize("cage", [*STRONG, *MEDIUM_ROOT], indirect=True)
def test_fork_bomb_and_recovery(cage):
    result = cage.run(
        """
        import signal, subprocess
        children = []
        try:
            while len(children) < 1000:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        except BlockingIOError:
            pass
        count = len(children)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        again = subprocess.run([sys.executable, "-c", "print(1 + 1)"], capture_output=True, text=True).stdout
        print(json.dumps([count < 40, again]))
        """,
        processes=40,
    )
    assert result.said == [True, "2\n"]
