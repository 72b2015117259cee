"""Writing files that are whole at every moment, the lock of a run, and what is said where that fails."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kernel_agent.errors import StorageError
from kernel_agent.trajectory.journal import write_all

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def notebook_path(path: str | os.PathLike[str]) -> Path:
    """The file to write to, links followed. StorageError where there can be none."""
    target = Path(path)
    if target.suffix != ".ipynb":
        raise StorageError(f"{target} is not named as a notebook: give a name that ends in .ipynb")
    target = target.resolve()
    if not target.parent.is_dir():
        raise StorageError(f"{target}: there is no folder {target.parent}: make it, or write to another place")
    if target.exists() and not target.is_file():
        raise StorageError(f"{target} is no regular file: write to another name")
    return target


def folder_of(path: Path) -> Path:
    """The folder beside a notebook that holds journal and blobs while the run goes on."""
    return path.with_suffix(".codevision")


@contextmanager
def explained(path: Path, needed: int) -> Iterator[None]:
    """Turn an OSError inside into a StorageError that names the path, the bytes needed and free, and the remedy."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        why = f"{path} cannot be written: {os.strerror(error.errno) if error.errno else error}."
        size = f" Needed {needed} bytes, free {free}."
        remedy = " Write to another place"
        if error.errno in _FULL:
            remedy = " Free some space or raise the limit on file sizes, or save to another disk"
        elif error.errno in _DENIED:
            remedy = f" Give yourself the right to write in {path.parent}, or write to another place"
        whole = "; the run in memory is whole and `save` works elsewhere."
        raise StorageError(why + size + remedy + whole) from error


def write_atomically(path: Path, data: bytes, temporary: Path) -> None:
    """Replace `path` by `data` at once and durably; `temporary` is on the same disk and gone afterwards."""
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            with suppress(FileNotFoundError):
                os.fchmod(file, path.stat().st_mode & 0o7777)
            write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def splice(file: int, offset: int, size: int, data: bytes) -> None:
    """Put `data` in place of what a file of `size` bytes holds from `offset` on.

    What lies beyond the old end is written first: a full disk shows there, and the file is then cut back to what it was.
    Whatever else goes wrong, the old tail is put back.
    """
    old = os.pread(file, size - offset, offset)
    beyond = data[size - offset :]
    try:
        write_all(file, beyond, size)
        write_all(file, data[: size - offset], offset)
        os.ftruncate(file, offset + len(data))
    except BaseException:
        os.ftruncate(file, size)
        write_all(file, old, offset)
        raise


def free_name(path: Path) -> Path:
    """`RUN-1.ipynb`, `RUN-2.ipynb`, ...: the first that does not exist."""
    number = 1
    while (other := path.with_stem(f"{path.stem}-{number}")).exists() or folder_of(other).exists():
        number += 1
    return other


class Lock:
    """The exclusive right to write a run, held while the process lives (flock on `lock` in the run's folder, made here)."""

    def __init__(self, folder: Path, notebook: Path) -> None:
        import fcntl

        while True:
            folder.mkdir(exist_ok=True)
            file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                pid = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(file)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                here = " (this one)" if pid == str(os.getpid()) else ""
                raise StorageError(
                    f"{notebook} is being written by process {pid}{here}: wait until it has ended, or give another name"
                ) from error
            if _is_still(file, folder / "lock"):
                break
            os.close(file)  # its holder removed it between our open and our lock
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Let others write."""
        os.close(self._file)


def _is_still(file: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
