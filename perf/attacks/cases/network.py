"""Sockets: to this machine, to others, and the ways around `socket`. Listeners of the host tell what arrived."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perf.attacks.case import NAMESPACED, SANDBOXED, Result, case
from perf.attacks.scene import Scene, said

HIT = """
import socket
def hit(family, kind, address, protocol=0):
    try:
        s = socket.socket(family, kind, protocol); s.settimeout(2)
        s.connect(address); s.send(b"hello")
    except Exception as error: print(type(error).__name__, error)
"""

RING = """
import ctypes, mmap, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments))
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
params = ctypes.create_string_buffer(120)
ring = syscall(425, 8, params)
sq_entries, cq_entries, _, _, _, features = struct.unpack_from("6I", params, 0)
sq = struct.unpack_from("7I", params, 40); cq = struct.unpack_from("6I", params, 80)
rings = mmap.mmap(ring, max(sq[6] + 4 * sq_entries, cq[5] + 16 * cq_entries), offset=0)
entries = mmap.mmap(ring, 64 * sq_entries, offset=0x10000000)
def submit(entry):
    tail = struct.unpack_from("I", rings, sq[1])[0]
    place = tail & struct.unpack_from("I", rings, sq[2])[0]
    entries[64 * place : 64 * place + 64] = entry.ljust(64, b"\\0")
    struct.pack_into("I", rings, sq[6] + 4 * place, place)
    struct.pack_into("I", rings, sq[1], tail + 1)
    syscall(426, ring, 1, 1, 1, 0, 0)
    head = struct.unpack_from("I", rings, cq[0])[0]
    result = struct.unpack_from("Qi", rings, cq[5] + 16 * (head & struct.unpack_from("I", rings, cq[2])[0]))[1]
    struct.pack_into("I", rings, cq[0], head + 1)
    return result
address = ctypes.create_string_buffer(struct.pack("<H", 2) + struct.pack(">H", port) + socket.inet_aton("127.0.0.1") + bytes(8), 16)
made = submit(struct.pack("<BBHiQQII", 45, 0, 0, 2, 1, 0, 0, 0))  # IORING_OP_SOCKET: AF_INET, SOCK_STREAM
print("socket", made)
print("connect", submit(struct.pack("<BBHiQQ", 16, 0, 0, made, 16, ctypes.addressof(address))))
"""

METADATA_ADDRESS = "169.254.169.254"


def arrived(scene: Scene, code: str, **values: Any) -> str:
    scene.world.ears.heard()
    scene.run(code, **values)
    heard = scene.world.ears.heard()
    return f"it arrived: {', '.join(heard)}" if heard else ""


@case("TCP loopback", Result.BLOCKED, SANDBOXED)
def tcp(scene: Scene) -> str:
    """No TCP connection reaches a service of this machine, by IPv4 or IPv6."""
    ears = scene.world.ears
    code = HIT + (
        "hit(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', port))\n"
        "hit(socket.AF_INET, socket.SOCK_STREAM, ('0.0.0.0', port))\n"
        "hit(socket.AF_INET6, socket.SOCK_STREAM, ('::1', port6))\n"
        "hit(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', port), 262)"  # MPTCP
    )
    return arrived(scene, code, port=ears.port("tcp"), port6=ears.port("tcp6"))


@case("UDP", Result.BLOCKED, SANDBOXED)
def udp(scene: Scene) -> str:
    """No datagram reaches a service of this machine, by IPv4 or IPv6."""
    ears = scene.world.ears
    code = HIT + (
        "hit(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', port))\n"
        "hit(socket.AF_INET6, socket.SOCK_DGRAM, ('::1', port6))\n"
        "hit(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', port), 136)"  # UDP-Lite
    )
    return arrived(scene, code, port=ears.port("udp"), port6=ears.port("udp6"))


@case("DNS", Result.BLOCKED, SANDBOXED)
def dns(scene: Scene) -> str:
    """No query reaches a name server, so no secret leaves in a name."""
    code = (
        HIT
        + """
query = b"\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0" + b"\\x06canary\\x07invalid\\0\\0\\1\\0\\1"
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(query, ("127.0.0.1", port))
    s.sendmsg([query], [], 0, ("127.0.0.1", port))
except Exception as error: print(error)
"""
    )
    return arrived(scene, code, port=scene.world.ears.port("udp"))


@case("metadata IP", Result.BLOCKED, SANDBOXED, harmful=True)
def metadata(scene: Scene) -> str:
    """The cloud's metadata address is not even asked (seen in the host's own table of connections)."""
    port = random.randrange(20_000, 60_000)  # not the 80 that other programs of this machine ask
    code = f"""
import socket, time
try:
    s = socket.socket(); s.setblocking(False)
    try: s.connect(("{METADATA_ADDRESS}", {port}))
    except BlockingIOError: pass
    time.sleep(0.4)
except Exception as error: print(error)
"""
    with connections_to(METADATA_ADDRESS, port) as seen:
        scene.run(code)
    return "a connection was tried on the host's network" if seen else ""


@contextlib.contextmanager
def connections_to(address: str, port: int) -> Iterator[list[str]]:
    """Lines of the host's TCP table with this remote address and port."""
    number = f" {socket.inet_aton(address)[::-1].hex().upper()}:{port:04X} "
    seen: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.extend(line for line in Path("/proc/net/tcp").read_text().splitlines() if number in line)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@case("pathname socket", Result.BLOCKED, SANDBOXED)
def pathname(scene: Scene) -> str:
    """A service's socket in the file system, as Docker or a database has one, is not reached."""
    code = HIT + "for way in (path, '/proc/1/root' + path): hit(socket.AF_UNIX, socket.SOCK_STREAM, way)"
    return arrived(scene, code, path=scene.world.ears.path)


@case("abstract socket", Result.BLOCKED, SANDBOXED)
def abstract(scene: Scene) -> str:
    """A service's abstract socket is not reached."""
    return arrived(scene, HIT + "hit(socket.AF_UNIX, socket.SOCK_STREAM, path)", path=scene.world.ears.abstract)


@case("AF_UNIX datagram", Result.BLOCKED, SANDBOXED)
def unix_datagram(scene: Scene) -> str:
    """Nor are datagram sockets, in the file system or abstract."""
    ears = scene.world.ears
    code = HIT + "for path in paths: hit(socket.AF_UNIX, socket.SOCK_DGRAM, path)"
    return arrived(scene, code, paths=[ears.datagram_path, ears.abstract + "-d"])


@case("netlink/vsock", Result.BLOCKED, SANDBOXED)
def netlink(scene: Scene) -> str:
    """Neither the kernel's netlink bus nor a virtual machine's vsock carries anything out."""
    code = (
        HIT
        + """
hit(socket.AF_NETLINK, socket.SOCK_DGRAM, (netlink, 0), 2)
if vsock: hit(socket.AF_VSOCK, socket.SOCK_STREAM, (1, vsock))
"""
    )
    ears = scene.world.ears
    return arrived(scene, code, netlink=ears.port("netlink"), vsock=ears.port("vsock"))


@case("io_uring connect", Result.BLOCKED, SANDBOXED, control=Path("/proc/sys/kernel/io_uring_disabled").exists())
def io_uring(scene: Scene) -> str:
    """A connection that io_uring makes, past any filter of `socket` and `connect`, does not arrive."""
    return arrived(scene, RING, port=scene.world.ears.port("tcp"))


@case("own network only", Result.BLOCKED, NAMESPACED)
def interfaces(scene: Scene) -> str:
    """The kernel sees no network but its own: not the sockets that the host listens on."""
    code = """
for name in ("tcp", "unix"):
    try: print(*(line for line in open("/proc/net/" + name) if port in line or path in line))
    except OSError as error: print(error.strerror)
"""
    ears = scene.world.ears
    port, path = f"0100007F:{ears.port('tcp'):04X}", str(ears.path)
    text = said(scene.run(code, port=port, path=path))
    return "the host's connections are seen" if port in text or path in text else ""
