"""A bundle: one zip file with a run and all that a stranger needs to check it, and the audit of one.

It holds `run.ipynb` (as it is, with its seal), every image as a file, the versions the run was made with, and how to check it. All
but the notebook follows from the notebook, so the audit compares each file with what the notebook gives: the seal covers them all.
The README names the layout of the bundle: in another one than this version's (`LAYOUT`) the files that only describe are "unchecked".
Guarantees: nothing is ever unpacked to the disk, so names cannot lead anywhere; a bundle that would grow beyond `MAX_BYTES` in
all, holds too many files, or could be read as another one is refused before it is read; a file that is damaged, changed, put in or taken out is named.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kernel_agent.audit import crate
from kernel_agent.audit.finding import Finding, Outcome, Report
from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.codec import text
from kernel_agent.trajectory.reading import read_file
from kernel_agent.types import Json

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOK = "run.ipynb"
MAX_BYTES = 1 << 30
"""Most bytes of all files of a bundle together, unpacked."""
MAX_FILES = 20_000
LAYOUT = 2
"""Version of what the files that describe a run say. Raise it with any change of that."""
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif", "image/bmp": "bmp"}
_NUMBER = re.compile(rb"^Layout (\d{1,9})\b", re.MULTILINE)
_LOCAL = struct.Struct("<4s5H3L2H")
"""What stands before a file: APPNOTE 4.3.7 of the zip format. In the directory it has `_LISTED` bytes, and that ends in `_END`."""
_LISTED, _END = 46, 22
_UTF8 = 0x800
_DATE = (1980, 1, 1, 0, 0, 0)
_README = f"""A run of CodeVision: a vision-language model answered a question about images by writing Python.

run.ipynb          the run: question, thoughts, code, outputs, answer, and the record of every request
images/            every picture of it, as in the notebook
requirements.txt   the versions it was made with
ro-crate-metadata.json   the same for research archives (Process Run Crate)

Check it:

    pip install kernel-agent
    codevision audit BUNDLE.zip --html report.html

The code is run again in an isolated kernel; no model is needed. If the run is signed, ask its author for the public key and add
--require-signer KEY: a signature by an unknown key shows only that the file is as its signer left it.

Layout {LAYOUT} of bundles.
"""


def write_bundle(source: Path, target: Path, *, force: bool = False) -> list[str]:
    """Bundle a saved run; returns the names of the files. TrajectoryError, StorageError as in loading and saving."""
    from kernel_agent.errors import StorageError
    from kernel_agent.trajectory import files

    run = Trajectory.load(source)
    if target.exists() and not force:
        raise StorageError(f"{target} exists: choose another name or add --force (force=True)")
    if not target.parent.is_dir():
        raise StorageError(f"{target}: there is no folder {target.parent}: make it, or write to another place")
    held = {NOTEBOOK: read_file(source), **members(run)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        for name, data in held.items():
            kind = zipfile.ZIP_STORED if name.startswith("images/") else zipfile.ZIP_DEFLATED
            bundle.writestr(zipfile.ZipInfo(name, _DATE), data, kind)
    with files.explained(target, packed.tell()):
        files.write_atomically(target, packed.getvalue(), target.with_name(f".{target.name}.tmp"))
    return list(held)


def members(run: Trajectory) -> dict[str, bytes]:
    """All files of a bundle that follow from its notebook, by name."""
    names = {image.index: f"images/{image.name}.{_EXTENSIONS.get(image.mime, 'bin')}" for image in run.images}
    files = {"README.txt": _README.encode(), "requirements.txt": _requirements(run.header)}
    files |= {names[image.index]: image.data for image in run.images}
    return {**files, crate.NAME: crate.crate(run, files, names)}


def _requirements(header: Mapping[str, Json]) -> bytes:
    environment = header.get("environment")
    known: Mapping[str, Json] = environment if isinstance(environment, Mapping) else {}
    packages = known.get("packages")
    lines = [f"# Python {known.get('python', 'unknown')} on {known.get('platform', 'unknown')}"]
    if isinstance(packages, Mapping):
        lines += [f"{name}=={number}" for name, number in sorted(packages.items())]
    return (text("\n".join(" ".join(line.split()) for line in lines)) + "\n").encode()


def is_bundle(data: bytes, name: str) -> bool:
    """Whether these bytes are those of a zip file, or are called so."""
    return data.startswith(b"PK\x03\x04") or name.lower().endswith(".zip")


def read_bundle(data: bytes, name: str) -> tuple[dict[str, bytes], list[Finding]]:
    """The files of a bundle, and those that cannot be read. TrajectoryError where it is none or too large."""
    try:
        bundle = zipfile.ZipFile(io.BytesIO(data))
        entries = bundle.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise TrajectoryError(f"{name} is no whole bundle: {error}"[:300]) from error
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_FILES or size > MAX_BYTES:
        raise TrajectoryError(
            f"{name} holds {len(entries):,} files of {size:,} bytes in all: at most {MAX_FILES:,} and {MAX_BYTES:,} are read"
        )
    if not _is_plain(data, bundle):
        raise TrajectoryError(
            f"{name} is not packed as bundles are: other programs may find other files in it. Use the bundle as it was written"
        )
    held: dict[str, bytes] = {}
    found = [_finding("comment", "the bundle has a comment")] if bundle.comment else []
    left = MAX_BYTES
    for entry in entries:
        if entry.filename in held:
            found.append(_finding(entry.filename, "two files have this name"))
            continue
        try:
            with bundle.open(entry) as file:
                held[entry.filename] = file.read(left + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            RuntimeError,
            NotImplementedError,
            ValueError,
            OSError,
        ) as error:
            held[entry.filename] = b""
            found.append(_finding(entry.filename, f"it cannot be read: {error}"))
        left -= len(held[entry.filename])
        if left < 0:
            raise TrajectoryError(f"{name} grows to more than {MAX_BYTES:,} bytes, the most that an audit reads")
    if NOTEBOOK not in held:
        raise TrajectoryError(f"{name} is no bundle of a run: it has no {NOTEBOOK}")
    return held, found


def _is_plain(data: bytes, bundle: zipfile.ZipFile) -> bool:
    """Whether the files, stored or deflated, one after another, and their directory are all there is.

    Some programs read files that no directory lists, or take names and sizes from what stands before each file.
    """
    at = listed = 0
    for entry in bundle.infolist():
        plain = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not entry.flag_bits & ~_UTF8
        plain &= stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)  # no link
        if not plain or entry.header_offset != at or entry.extra or entry.comment or at + _LOCAL.size > len(data):
            return False
        name = entry.orig_filename.encode("utf-8" if entry.flag_bits else "cp437")
        sizes = (entry.CRC, entry.compress_size, entry.file_size, len(name), 0)
        signature, _, flags, method, _, _, *rest = _LOCAL.unpack_from(data, at)
        if (signature, flags, method, *rest) != (b"PK\3\4", entry.flag_bits, entry.compress_type, *sizes):
            return False
        if data[at + _LOCAL.size : at + _LOCAL.size + len(name)] != name:
            return False
        at += _LOCAL.size + len(name) + entry.compress_size
        listed += _LISTED + len(name)
    return at == bundle.start_dir and at + listed + _END + len(bundle.comment) == len(data)


def check_members(held: Mapping[str, bytes], run: Trajectory) -> Iterator[Finding]:
    """Each file of a bundle against what the notebook in it gives."""
    expected = members(run)
    layout = _layout(held)
    for name in expected.keys() - held.keys():
        yield _member(name, "it was taken out of the bundle", layout)
    for name in held.keys() - expected.keys() - {NOTEBOOK}:
        yield _member(name, "the notebook knows nothing of this file", layout)
    for name, data in expected.items():
        if name in held and held[name] != data:
            yield _member(name, "it is not what the notebook gives", layout)


def _layout(held: Mapping[str, bytes]) -> int:
    """The layout that a bundle's README names; the first one named none."""
    named = _NUMBER.search(held.get("README.txt", _README.encode()))
    return int(named[1]) if named else 1


def with_members(report: Report, run: Trajectory | None, held: Mapping[str, bytes], found: list[Finding]) -> Report:
    """The report of the notebook in a bundle, with what its other files say."""
    names = {finding.field for finding in found}
    more = [] if run is None else [item for item in check_members(held, run) if item.field not in names]
    return replace(report, findings=(*report.findings, *found, *sorted(more, key=lambda item: item.field)))


def _member(name: str, message: str, layout: int) -> Finding:
    """What does not hold of a file; one that only describes cannot be checked in another layout."""
    found = _finding(name, message)
    if layout == LAYOUT or name.startswith("images/"):
        return found
    message = f"{message} (it is in layout {layout}, and this version knows {LAYOUT})"
    return replace(found, outcome=Outcome.UNCHECKED, message=message)


def _finding(name: str, message: str) -> Finding:
    plain = name.encode("utf-8", "replace").decode()[:200]
    return Finding(check="integrity", outcome=Outcome.FAILS, cell="bundle", field=plain, message=message[:300])
