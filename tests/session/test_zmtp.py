from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from hosts import host

from kernel_agent.session.zmtp import Buffer, Closed, Connection, HandshakeError, Limits, WireError, connect

pytestmark = pytest.mark.kernels

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + bytes(32)
SMALL = Limits(frame_bytes=1 << 20, message_frames=16, message_bytes=4 << 20)
HASTY = replace(SMALL, handshake_seconds=1.0)


def command(name: bytes, data: bytes) -> bytes:
    body = bytes((len(name),)) + name + data
    return b"\x04" + bytes((len(body),)) + body


def ready(kind: bytes) -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)


def frame(flags: int, size: int) -> bytes:
    return struct.pack(">BQ", flags | 2, size)


class Client:
    """A connection, what it received and how it ended."""

    connection: Connection

    def __init__(self) -> None:
        self.messages: asyncio.Queue[list[Buffer]] = asyncio.Queue()
        self.lost: asyncio.Future[WireError] = asyncio.get_running_loop().create_future()

    @classmethod
    async def to(cls, address: str, kind: Any = "DEALER", limits: Limits = Limits()) -> Client:
        client = cls()
        client.connection = await connect(
            address, kind, on_message=client.messages.put_nowait, on_lost=client.lost.set_result, limits=limits
        )
        return client

    async def get(self) -> list[Buffer]:
        async with asyncio.timeout(60):
            return await self.messages.get()

    async def end(self) -> WireError:
        async with asyncio.timeout(60):
            return await self.lost


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        made.setsockopt(zmq.RCVTIMEO, 60_000)
        yield made
        made.destroy(linger=0)


@contextlib.contextmanager
def peer(path: Path, play: Callable[[socket.socket], object]) -> Iterator[str]:
    """A listener that plays its part with the first who connects, in a thread."""
    clients: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            clients.append(listener.accept()[0])
            play(clients[0])
            while clients[0].recv(1 << 16):
                pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"ipc://{path}"
        for used in (listener, *clients):
            with contextlib.suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for used in clients:
        used.close()


@pytest.mark.parametrize("address", ["ipc", "tcp"])
async def test_messages_go_both_ways_unchanged(address: str, tmp_path: Path, context: Any) -> None:
    router = context.socket(zmq.ROUTER)
    if address == "ipc":
        where = f"ipc://{tmp_path}/r"
        router.bind(where)
    else:
        where = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    client = await Client.to(where)
    sizes = (0, 1, 254, 255, 256, 32767, 32768, 65536, 300_000, 5_000_000)
    for message in (
        [os.urandom(size) for size in sizes],
        [b""],
        [b"x" * 300] * 60,
        [memoryview(b"abc"), bytearray(70_000)],
    ):
        client.connection.send(message)
        who, *heard = await asyncio.to_thread(router.recv_multipart)
        assert heard == [bytes(part) for part in message]
        await asyncio.to_thread(router.send_multipart, [who, *heard])
        assert [bytes(part) for part in await client.get()] == heard
    assert client.connection.peer_pid == (os.getpid() if address == "ipc" else None)
    client.connection.close()


async def test_a_subscriber_gets_everything_once_it_is_subscribed(tmp_path: Path, context: Any) -> None:
    publisher = context.socket(zmq.XPUB)
    publisher.sndhwm = 0
    publisher.bind(f"ipc://{tmp_path}/p")
    client = await Client.to(f"ipc://{tmp_path}/p", "SUB")
    assert await asyncio.to_thread(publisher.recv) == b"\x01"
    for number in range(20_000):
        publisher.send_multipart([b"topic", str(number).encode()])
    assert [await client.get() for _ in range(20_000)] == [[b"topic", str(number).encode()] for number in range(20_000)]
    client.connection.close()


async def test_a_heartbeat_is_answered(tmp_path: Path) -> None:
    """As libzmq sends them: it hangs up where no PONG with the ping's context comes in time."""

    def play(sock: socket.socket) -> None:
        sock.sendall(GREETING + ready(b"ROUTER"))
        for context in (b"", b"beat", bytes(16)):
            sock.sendall(command(b"PING", b"\0\x02" + context))
            heard = b""
            while command(b"PONG", context) not in heard:
                part = sock.recv(1 << 16)
                if not part:
                    return
                heard += part
        sock.sendall(b"\x00\x04done")

    with peer(tmp_path / "p", play) as address:
        client = await Client.to(address)
        assert await client.get() == [b"done"]
        client.connection.close()


async def test_libzmq_takes_our_answers_to_its_heartbeats(tmp_path: Path, context: Any) -> None:
    router = context.socket(zmq.ROUTER)
    router.heartbeat_ivl, router.heartbeat_timeout = 100, 60_000
    router.bind(f"ipc://{tmp_path}/r")
    client = await Client.to(f"ipc://{tmp_path}/r")
    await asyncio.sleep(0.5)
    client.connection.send([b"still here"])
    assert (await asyncio.to_thread(router.recv_multipart))[1] == b"still here"
    client.connection.close()


async def test_the_end_of_the_peer_is_told(tmp_path: Path) -> None:
    def hangs_up(sock: socket.socket) -> None:
        sock.sendall(GREETING + ready(b"ROUTER"))
        sock.recv(1 << 16)  # only when greeted is the connection made; else it is an error of the connecting
        sock.shutdown(socket.SHUT_RDWR)

    with peer(tmp_path / "p", hangs_up):
        client = await Client.to(f"ipc://{tmp_path}/p")
        assert isinstance(await client.end(), Closed)
    with pytest.raises(Closed):
        client.connection.send([b"too late"])


@pytest.mark.parametrize(
    ("hostile", "what"),
    [
        (frame(0, 1 << 62), "bytes of a frame"),
        (frame(0, (1 << 20) + 1), "bytes of a frame"),
        ((frame(1, 1 << 19) + bytes(1 << 19)) * 9, "bytes of a message"),
        (b"\x01\x00" * 17, "frames of a message"),
        (frame(1, 40_000) + bytes(40_000) + b"\x01\x01x" * 16, "frames of a message"),
        (b"\x80\x00", "flags"),
        (b"\x05\x00", "flags"),
        (b"\x04\x00", "no place here"),
        (command(b"ERROR", b"\x03bad"), "refuses us"),
        (frame(4, 1 << 20), "bytes of a ZMTP command"),
        (command(b"PING", bytes(20)), "ping's context"),
        (command(b"PING", b"\0\0") * 1001, "pings in a second"),
    ],
    ids=range(12),
)
async def test_broken_rules_cost_the_connection(hostile: bytes, what: str, tmp_path: Path) -> None:
    with peer(tmp_path / "p", lambda sock: sock.sendall(GREETING + ready(b"ROUTER") + hostile)):
        client = await Client.to(f"ipc://{tmp_path}/p", limits=SMALL)
        error = await client.end()
    assert what in str(error)
    if error.limit is not None:
        assert error.value is not None
        assert error.value > error.limit
    assert client.messages.empty()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n" + bytes(64), "does not speak ZMTP"),
        (GREETING[:10] + b"\x01" + GREETING[11:], "does not speak ZMTP"),
        (GREETING.replace(b"NULL\0", b"CURVE"), "CURVE"),
        (GREETING + ready(b"PUB"), "of type b'PUB'"),
        (GREETING + command(b"READY", b"\x0bSocket-Type\xff\xff\xff\xff"), "cut off"),
        (GREETING + command(b"HELLO", b""), "READY was due"),
        (GREETING + b"\x00\x01x", "before the handshake"),
        (b"", "within 1.0 s"),
        (GREETING[:30], "within 1.0 s"),
        (GREETING, "within 1.0 s"),
    ],
    ids=range(10),
)
async def test_a_peer_that_is_no_router_is_refused(said: bytes, why: str, tmp_path: Path) -> None:
    with peer(tmp_path / "p", lambda sock: sock.sendall(said)) as address:
        with pytest.raises(HandshakeError, match=why):
            await Client.to(address, limits=HASTY if "within" in why else SMALL)


async def test_byte_by_byte_is_as_good_as_at_once(tmp_path: Path) -> None:
    stream = GREETING + ready(b"ROUTER") + b"\x01\x02hi" + frame(0, 300) + bytes(300)

    def play(sock: socket.socket) -> None:
        for byte in stream:
            sock.sendall(bytes((byte,)))

    with peer(tmp_path / "p", play) as address:
        client = await Client.to(address)
        assert await client.get() == [b"hi", bytes(300)]
        client.connection.close()


FLOODED = """
import asyncio
from kernel_agent.session.zmtp import Limits, connect
async def main():
    before = peak()
    lost = asyncio.get_running_loop().create_future()
    limits = Limits(frame_bytes=16 << 20, message_bytes=32 << 20)
    await connect(sys.argv[1], "DEALER", on_message=lambda frames: None, on_lost=lost.set_result, limits=limits)
    error = await lost
    print(json.dumps({"error": str(error), "grown": peak() - before}))
asyncio.run(main())
"""


@pytest.mark.parametrize("size", [15 << 20, 1 << 20, 100_000])
def test_an_endless_message_is_held_up_to_its_limit(size: int, tmp_path: Path) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(GREETING + ready(b"ROUTER"))
        while True:
            sock.sendall(frame(1, size) + bytes(size))

    with peer(tmp_path / "p", play) as address:
        seen = host(FLOODED, address)
    assert "of a message" in seen["error"]
    assert seen["grown"] < 32 + 4


async def test_who_does_not_read_gets_no_pongs_and_costs_no_memory(tmp_path: Path) -> None:
    stop = threading.Event()

    def play(sock: socket.socket) -> None:
        sock.sendall(GREETING + ready(b"ROUTER"))
        while not stop.wait(0.02):  # so few that all of them together are no flood where we stood still
            sock.sendall(command(b"PING", b"\0\0" + b"c" * 16) * 2)

    with peer(tmp_path / "p", play) as address:
        client = await Client.to(address)
        transport = client.connection._transport
        assert transport is not None
        await asyncio.sleep(1.5)
        client.connection.send([bytes(8 << 20)])  # it is not read: what the kernel does not take waits here
        await asyncio.sleep(0.3)
        assert client.connection.error is None
        assert transport.get_write_buffer_size() < 2 << 20
        stop.set()
        client.connection.close()


def test_every_thread_has_its_own_loop_and_memory(tmp_path: Path, context: Any) -> None:
    router = context.socket(zmq.ROUTER)
    router.bind(f"ipc://{tmp_path}/r")
    stop = threading.Event()

    def echo() -> None:
        while not stop.is_set():
            if router.poll(50):
                router.send_multipart(router.recv_multipart())

    async def talk(seed: int) -> int:
        client = await Client.to(f"ipc://{tmp_path}/r")
        for number in range(100):
            message = [bytes([seed]) * (number * 977), str(number).encode()]
            client.connection.send(message)
            assert [bytes(part) for part in await client.get()] == message
        client.connection.close()
        return seed

    echoing = threading.Thread(target=echo)
    echoing.start()
    done: list[int] = []
    threads = [threading.Thread(target=lambda seed=seed: done.append(asyncio.run(talk(seed)))) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    stop.set()
    echoing.join()
    assert sorted(done) == list(range(6))
