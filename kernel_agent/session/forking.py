"""The host's side of branching: who still needs a kernel's process, and how a branch of it is had.

A branch is a child process of its trunk (`branching.py`) in the trunk's run folder, so the trunk's process outlives its
session until the last branch is released. Guarantees: a released process and its folder are gone when nobody needs them any
more; the process taken for a branch is the one that listens on its socket and descends from the trunk, whatever the
kernel says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import struct
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel_agent.session.channel import KernelChannel
from kernel_agent.session.dialogue import KernelDied
from kernel_agent.session.slots import Slot

FORK_SECONDS = 10.0
"""How long a fork may take, up to its sockets."""
MAX_WORK_BYTES = 64_000_000
"""Largest working folder that is copied for a branch; over it the branch is made by replay."""
_PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}  # as branch_process.PORTS, which needs ipykernel
_LAST = _PORTS["iopub"]  # bound after shell and control


class NotForked(Exception):
    """There is no branch by process fork. The text says why."""


class Lease:
    """A running kernel process; it is stopped when its session released it and its branches are gone."""

    def __init__(self, channel: KernelChannel, *, slot: Slot | None = None, trunk: Lease | None = None) -> None:
        """From a slot, or a branch of `trunk`, which has counted it already (`fork`)."""
        self.channel, self.slot, self.trunk = channel, slot, trunk
        self.branches = 0
        self._wanted, self._stopped = True, False

    async def release(self) -> None:
        """The session needs neither it nor its slot any more. Safe to call twice."""
        self._wanted = False
        await self._settle()

    async def lose_branch(self) -> None:
        """A branch is gone."""
        self.branches -= 1
        await self._settle()

    async def stop(self) -> None:
        """Stop it now; branches of it die too. The slot stays the session's, unless that has released it."""
        if self._stopped:
            return
        self._stopped = True
        try:
            if self.slot is None:
                await self.channel.stop()
            elif self._wanted:
                await self.slot.drop()
            else:
                await self.slot.close()
        finally:
            if self.trunk is not None:
                await self.trunk.lose_branch()

    async def _settle(self) -> None:
        if not self._wanted and not self.branches:
            await self.stop()


@dataclass(frozen=True, kw_only=True)
class Forked:
    """A branch that has its sockets and no channel yet; the trunk counts it. `info` is as in a connection file."""

    trunk: Lease
    pid: int
    info: Mapping[str, Any]


async def fork(trunk: Lease, *, reseed: bool) -> Forked:
    """Fork the idle kernel. When this returns the copy is made, and the trunk may go on. Raises NotForked, KernelDied."""
    number = uuid.uuid4().hex[:8]
    connection = trunk.channel.connection
    if connection.get("transport") != "ipc":
        raise NotForked("the kernel is met over a network, not in a folder of this machine")
    ip, key = str(Path(connection["ip"]).with_name(f"b{number}")), secrets.token_hex(32)
    pid = trunk.channel.pid
    if pid is None:
        raise NotForked("the kernel's process is not known here")
    order = {"id": number, "ip": ip, "key": key, "max_work_bytes": MAX_WORK_BYTES, "reseed": reseed}
    unfinished = False
    try:
        async with asyncio.timeout(FORK_SECONDS):
            if why := await _ask(trunk.channel, "branch", json.dumps(order)):
                raise NotForked(why)
            unfinished = True
            await _bound(trunk.channel, number, Path(f"{ip}-{_LAST}"))
        child = _listener(f"{ip}-{_PORTS['shell']}", pid)
        unfinished = False
    except TimeoutError as error:
        raise NotForked(f"the kernel did not fork within {FORK_SECONDS:.0f} s") from error
    except OSError as error:
        raise NotForked(f"the branch does not listen: {error}") from error
    finally:
        if unfinished:
            await _abandon(trunk.channel, number)
    trunk.branches += 1
    info: dict[str, Any] = {f"{name}_port": port for name, port in _PORTS.items()}
    info |= {"ip": ip, "key": key, "transport": "ipc", "signature_scheme": "hmac-sha256"}
    return Forked(trunk=trunk, pid=child, info=info)


async def attach(forked: Forked) -> Lease:
    """Connect to a branch. Raises KernelError, and then the branch is killed."""
    trunk = forked.trunk

    async def remove_sockets() -> None:
        for port in _PORTS.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{forked.info['ip']}-{port}")  # noqa: PTH108 (an async function may not use pathlib's)

    try:
        channel = await KernelChannel.attach(
            forked.info, pid=forked.pid, isolation=trunk.channel.isolation, on_stop=remove_sockets
        )
    except BaseException:
        await trunk.lose_branch()
        raise
    return Lease(channel, trunk=trunk)


async def _ask(channel: KernelChannel, function: str, argument: str) -> str | None:
    """Run a function of `branching` in the kernel; returns the reason it says."""
    said: list[str] = []

    def hear(message: Mapping[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(str(message["content"]["text"]))

    code = f"from kernel_agent.session import branching as _b; _b.{function}({argument!r}); del _b"
    reply = await channel.execute(code, hear, silent=True)
    if reply["content"]["status"] != "ok":
        return f"the kernel could not look: {reply['content'].get('ename')}: {reply['content'].get('evalue')}"
    try:
        why = json.loads("".join(said).splitlines()[-1])["why"]
    except (ValueError, LookupError, TypeError):
        return "the kernel's answer is not to be read"
    return None if why is None else str(why)[:500]


async def _abandon(channel: KernelChannel, number: str) -> None:
    """Have the trunk end what may have become of a fork that nobody waits for any more."""
    with contextlib.suppress(KernelDied, TimeoutError):
        async with asyncio.timeout(1.0):
            await _ask(channel, "abandon", number)


async def _bound(channel: KernelChannel, number: str, path: Path) -> None:
    """Wait until the branch's socket is there; asks the trunk now and then what became of the fork."""
    look = time.monotonic() + 0.25
    while not path.exists():  # noqa: ASYNC240 (it takes microseconds)
        await asyncio.sleep(0.001)
        if time.monotonic() > look:
            if why := await _ask(channel, "outcome", number):
                raise NotForked(why)
            look = time.monotonic() + 0.25


def _listener(path: str, trunk: int) -> int:
    """Process id of who listens on the socket, as this process sees it. Raises NotForked where it is no child of the trunk's."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(1.0)
        peer.connect(path)
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = int(struct.unpack("3i", credentials)[0])
    above = pid
    while above > 1:  # a kernel could put any socket of the machine at the path, and its owner would be killed for it
        above = _parent(above)
        if above == trunk:
            return pid
    raise NotForked(f"process {pid} listens on the branch's socket, and is no child of the kernel's")


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
