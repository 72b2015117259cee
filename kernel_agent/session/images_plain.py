"""Image files that every viewer shows alike: what a PNG or JPEG holds besides its pixels.

A decoder gives the pixels of a file; a browser may show another frame of it, other colours (gamma, profile), or have it turned (EXIF).
Guarantees of a file that `not_plain` has nothing to say of: it holds one whole picture, nothing after it, and

- PNG: 8 bits a sample or less; IHDR, PLTE and tRNS (they are part of the pixels), IDAT with exactly the rows that IHDR announces, IEND;
  besides, what no viewer draws by: pHYs with square pixels, tIME, and text (tEXt, zTXt, iTXt) that is no EXIF or XMP in
  disguise. So what matplotlib and Pillow write passes; gAMA, cHRM, sRGB, iCCP, cICP, eXIf and animation (acTL, fcTL, fdAT) do not.
- JPEG: baseline, 8 bits, grey or YCbCr, one scan, a JFIF header without a thumbnail, tables and comments. No EXIF, profile, Adobe or other
  application's segment.

Not covered: whether the pixels themselves can be decoded (`images.decode_output`).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kernel_agent.session.png import isal_zlib

if TYPE_CHECKING:
    from kernel_agent.types import Size

_fast: Any = isal_zlib or zlib
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ONCE = (b"IHDR", b"PLTE", b"tRNS", b"IEND", b"pHYs", b"tIME")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_DISGUISED = (b"xml:", b"raw profile")
_PIECE, _INFLATED = 1 << 16, 1 << 20
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_TABLES = {0xDB: "DQT", 0xC4: "DHT", 0xDD: "DRI", 0xFE: "COM"}


class _NotPlain(ValueError):
    """What a file holds that a plain one does not."""


def not_plain(data: bytes, mime: str, size: Size | None = None) -> str | None:
    """Why this is no plain file of a picture (of `size`, where that is given); None where it is one."""
    checks = {"image/png": _check_png, "image/jpeg": _check_jpeg}
    try:
        if mime not in checks:
            return f"it is {mime[:40]!r}, neither PNG nor JPEG"
        width, height = checks[mime](data)
        if size is not None and (width, height) != tuple(size):
            return f"it is {width}x{height} px, the record says {size[0]}x{size[1]}"
    except _NotPlain as problem:
        return str(problem)
    except (struct.error, IndexError, zlib.error, _fast.error) as error:
        return f"it is damaged ({error})"
    return None


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _NotPlain(problem)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk, up to IEND, which has to be the end."""
    at = len(_PNG)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        _require(crc == _fast.crc32(body, _fast.crc32(kind)), f"its chunk {_name(kind)} is damaged")
        yield kind, body
        at += 12 + length
    _require(at == len(data), f"{len(data) - at:,} bytes follow its end")


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "replace")


def has_alpha(png: bytes) -> bool:
    """Whether a plain PNG has transparency."""
    return png[25] in (4, 6) or b"tRNS" in png[: png.index(b"IDAT")]


def _check_png(data: bytes) -> Size:
    _require(data.startswith(_PNG), "it is no PNG")
    kinds: list[bytes] = []
    rows: list[bytes] = []
    head = b""
    for kind, body in _chunks(data):
        kinds.append(kind)
        if kind == b"IHDR":
            head = body
        elif kind == b"IDAT":
            rows.append(body)
        elif kind == b"pHYs":
            across, down, _ = struct.unpack(">IIB", body)
            _require(across == down, "its pixels are not square (pHYs)")
        elif kind in _TEXT:
            _require(not body.lower().startswith(_DISGUISED), "it holds EXIF or XMP as text")
        else:
            _require(kind in _ONCE, f"it holds the chunk {_name(kind)}")
    for kind in _ONCE:
        _require(kinds.count(kind) <= 1, f"it holds {_name(kind)} twice")
    _require(kinds[0] == b"IHDR" and bool(rows), "its chunks are not in order")
    starts = sum(kind == b"IDAT" and before != b"IDAT" for before, kind in pairwise(kinds))
    first = kinds.index(b"IDAT")
    late = [kind for kind in (b"PLTE", b"tRNS") if kind in kinds[first:]]
    _require(starts == 1 and not late and kinds[:first].count(b"PLTE") <= 1, "its chunks are not in order")
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", head)
    _require(depth <= 8, f"it has {depth} bits a sample")
    _require(
        colour in _CHANNELS and not compression and not filtering and interlaced <= 1, "its header is of no kind known"
    )
    _require((b"PLTE" in kinds) == (colour == 3), "it has a palette that is not its own, or lacks one")
    _require(b"tRNS" not in kinds or colour in (0, 2, 3), "it has transparency twice")
    bits = depth * _CHANNELS[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - left) // x), -(-(height - top) // y)) for left, top, x, y in passes)
    wanted = sum(down * (1 + (across * bits + 7) // 8) for across, down in sizes if across > 0 and down > 0)
    _require(_inflated(rows, wanted) == wanted, "its rows are not those that its header announces")
    return width, height


def _inflated(rows: list[bytes], most: int) -> int:
    """How many bytes the rows are, counted up to a piece more than `most`; -1 where their stream does not end with them."""
    inflater, count = _fast.decompressobj(), 0
    pieces = (memoryview(body)[at : at + _PIECE] for body in rows for at in range(0, len(body), _PIECE))
    for piece in pieces:
        if inflater.eof:
            return -1
        part: bytes | memoryview = piece
        while part and not inflater.eof:
            count += len(inflater.decompress(part, _INFLATED))
            part = inflater.unconsumed_tail
            if count > most:
                return count
    while not inflater.eof and (more := inflater.decompress(b"", _INFLATED)):
        count += len(more)
    return count if inflater.eof and not inflater.unused_data else -1


def _check_jpeg(data: bytes) -> Size:
    _require(data.startswith(b"\xff\xd8\xff"), "it is no JPEG")
    at, frames, scans, header, size = 2, 0, 0, False, (0, 0)
    while True:
        start, marker, length = struct.unpack_from(">BBH", data, at)
        _require(start == 0xFF, "bytes lie between its segments")
        body = data[at + 4 : at + 2 + length]
        _require(len(body) == length - 2, "its end is missing")
        at += 2 + length
        if marker == 0xE0:
            _require(
                not header and body.startswith(b"JFIF\x00") and len(body) == 14, "it has another header than JFIF's"
            )
            across, down, *thumbnail = struct.unpack(">HHBB", body[8:])
            _require(across == down, "its pixels are not square (JFIF)")
            _require(not any(thumbnail), "it holds a thumbnail")
            header = True
        elif marker == 0xC0:
            frames += 1
            depth, height, width, channels = struct.unpack_from(">BHHB", body)
            _require(depth == 8 and channels in (1, 3), "it is not grey or colour of 8 bits")
            size = width, height
        elif marker == 0xDA:
            scans += 1
            found = _MARKER.search(data, at)
            _require(found is not None, "its end is missing")
            assert found is not None
            at = found.start()
            if data[at + 1] == 0xD9:
                break
        else:
            _require(marker in _TABLES, f"it holds the segment {_segment(marker)}")
    _require(at + 2 == len(data), f"{len(data) - at - 2:,} bytes follow its end")
    _require(header and frames == scans == 1, "it is not one baseline picture in one scan")
    return size


def orientation(exif: bytes) -> int | None:
    """How EXIF says that a picture is to be turned, 1 where it does not say; None where readers may disagree on it."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return None if tiff else 1
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        entries = [struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * number) for number in range(count)]
    except struct.error:
        return None
    told = [entry[1:] for entry in entries if entry[0] == 0x0112]
    if not told:
        return 1
    kind, values, value = told[0]
    return value if len(told) == 1 and (kind, values) == (3, 1) else None


def _segment(marker: int) -> str:
    return f"APP{marker - 0xE0}" if 0xE0 <= marker <= 0xEF else f"{marker:#04x}"
