from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hostile import GRIP, OFFENCES
from hosts import host
from PIL import Image

from kernel_agent import KernelOptions, Session, Status
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import KernelError
from kernel_agent.session.channel import KernelChannel
from kernel_agent.session.dialogue import ChannelLimits, KernelDied
from kernel_agent.session.messages import Message
from kernel_agent.types import CellResult, StreamOutput, TextOutput

pytestmark = pytest.mark.kernels


@asynccontextmanager
async def started(**limits: Any) -> AsyncIterator[KernelChannel]:
    channel = KernelChannel(KernelOptions(isolation="none", fork=False), limits=ChannelLimits(**limits))
    await channel.start()
    try:
        yield channel
    finally:
        await channel.stop()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def gone(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def written(messages: list[Message]) -> str:
    return "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")


def text(cell: CellResult) -> str:
    return "".join(output.text for output in cell.outputs if isinstance(output, (StreamOutput, TextOutput)))


SLEEPING = "import time; print('asleep', flush=True); time.sleep(1e6)"


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Killed where the test fails: its context would wait for it for ever."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


# ---------------------------------------------------------------------- the channel


async def test_buffers_go_both_ways() -> None:
    async with started() as channel:
        sent = [os.urandom(3), b"", bytearray(os.urandom(3_000_000))]
        got: list[Message] = []
        code = (
            "k = get_ipython().kernel; p = k.get_parent('shell')\n"
            "k.session.send(k.iopub_socket, 'display_data', {'data': {}, 'metadata': {}}, parent=p,"
            " buffers=[bytes(b)[::-1] for b in p['buffers']])"
        )
        reply = await channel.execute(code, got.append, buffers=sent)
        assert reply["content"]["status"] == "ok", reply
        (display,) = [message for message in got if message["msg_type"] == "display_data"]
        assert [bytes(part) for part in display["buffers"]] == [bytes(part)[::-1] for part in sent]


async def test_pid_descriptors_and_words_are_those_of_the_kernel() -> None:
    gc.collect()  # what others left must not go meanwhile
    before = descriptors()
    async with started() as channel:
        got: list[Message] = []
        await channel.execute("import os; os.write(2, b'last words\\n'); print(os.getpid())", got.append)
        assert written(got) == f"{channel.pid}\n"
        assert descriptors() - before <= 6
        await until(lambda: "last words" in channel.last_words)
    await until(lambda: descriptors() <= before)


@pytest.mark.parametrize("code", ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "import os; os._exit(0)"])
async def test_an_end_ends_every_wait(code: str) -> None:
    async with started() as channel:
        got: list[Message] = []
        with pytest.raises(KernelDied, match="process ended"):
            async with asyncio.timeout(60):
                await channel.execute(
                    f"import sys; print('heard', flush=True); import time; time.sleep(1); {code}", got.append
                )
        assert written(got) == "heard\n"
        assert not channel.alive
        with pytest.raises(KernelDied, match="process ended"):
            await channel.execute("1", got.append)


async def test_control_is_answered_while_a_cell_runs() -> None:
    async with started() as channel:
        got: list[Message] = []
        running = asyncio.create_task(channel.execute(SLEEPING, got.append))
        await until(lambda: "asleep" in written(got))
        reply = await channel.control("kernel_info_request", {})
        assert reply["content"]["status"] == "ok"
        assert not running.done()
        await channel.interrupt()
        assert (await running)["content"]["status"] == "error"


async def test_a_client_that_sleeps_loses_nothing() -> None:
    async with started() as channel:
        got: list[Message] = []
        running = asyncio.create_task(channel.execute("for n in range(20_000): print(n, flush=True)", got.append))
        await asyncio.sleep(0.1)
        time.sleep(10)  # noqa: ASYNC251 (the whole event loop is asleep)
        await running
        assert written(got) == "".join(f"{n}\n" for n in range(20_000))


@pytest.mark.parametrize(
    ("code", "limits", "what"),
    [
        ("for n in range(500): print(n, flush=True)", {"messages": 100}, "messages since the last request"),
        ("print('x' * 3_000_000)", {"bytes": 1_000_000}, "bytes since the last request"),
    ],
)
async def test_a_cell_has_only_so_much_to_say(code: str, limits: dict[str, int], what: str) -> None:
    async with started(**limits) as channel:
        with pytest.raises(KernelDied, match=what) as raised:
            await channel.execute(code, lambda message: None)
        assert raised.value.value is not None
        assert raised.value.limit == next(iter(limits.values()))
        pid = channel.pid
        assert pid is not None
        await until(lambda: gone(pid))


async def test_a_kernel_of_somebody_else() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cv-"))  # short enough for a socket
    info = {
        **{f"{name}_port": port for port, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)},
        "ip": str(folder / "k"),
        "transport": "ipc",
        "key": "secret",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "",
    }
    (folder / "kernel.json").write_bytes(orjson.dumps(info))
    command = [sys.executable, "-m", "kernel_agent.session.kernel_app", "-f", str(folder / "kernel.json")]
    with subprocess.Popen(command, start_new_session=True) as process, ending(process):  # noqa: ASYNC220
        channel = await KernelChannel.attach(info, isolation="theirs")
        assert (channel.pid, channel.isolation, channel.alive) == (process.pid, "theirs", True)
        got: list[Message] = []
        await channel.execute("print('hello')", got.append)
        assert written(got) == "hello\n"
        running = asyncio.create_task(channel.execute(SLEEPING, got.append))
        await until(lambda: "asleep" in written(got))
        await channel.interrupt()
        assert (await running)["content"]["ename"] == "KeyboardInterrupt"
        await channel.stop()
        assert process.wait(60) == -signal.SIGKILL


async def test_a_kernel_that_never_listens_is_a_clear_error() -> None:
    info = {"ip": "/nowhere/k", "transport": "ipc", "key": b"k", "shell_port": 1, "iopub_port": 2, "control_port": 3}
    with pytest.raises(KernelError, match=r"no answer in 0\.3 s"):
        await KernelChannel.attach(info, seconds=0.3)
    with pytest.raises(KernelError, match="without a key"):
        await KernelChannel.attach({**info, "key": b""})


# ---------------------------------------------------------------------- hostile cells

ATTACKED = """
from PIL import Image
from kernel_agent import Session
with Session([Image.new("RGB", (60, 40), "red")]) as one, Session() as two:
    one.run("x = 7\\nimage_0.rotate(90, expand=True)"); two.run("y = 8")
    one_pid, two_pid = one._channel.pid, two._channel.pid
    before = peak()
    cell = one.run(sys.argv[1], seconds=400)
    grown = peak() - before
    after = one.run("print(x, [image.size for image in images])")
    other = two.run("print(y)")
    print(json.dumps({
        "status": cell.status, "events": [[event.kind, dict(event.data)] for event in cell.events], "grown": grown,
        "state": [output.text for output in after.outputs], "other": [output.text for output in other.outputs],
        "new": one._channel.pid != one_pid, "same": two._channel.pid == two_pid,
    }))
"""


@pytest.mark.parametrize("name", OFFENCES)
def test_an_offence_costs_its_own_kernel_only(name: str) -> None:
    code, said = OFFENCES[name]
    seen = host(ATTACKED, f"{GRIP}\n{code}\ntime.sleep(1e6)")
    events = dict(seen["events"])
    assert seen["status"] == Status.KILLED, seen
    assert "rule of the wire" in events["kernel_died"]["reason"]
    assert said in events["kernel_died"]["reason"]
    if "over the limit" in events["kernel_died"]["reason"]:
        assert events["kernel_died"]["value"] > events["kernel_died"]["limit"]
    assert list(events)[-2:] == ["kernel_restarted", "cells_replayed"]
    assert (seen["state"], seen["new"]) == (["7 [(60, 40), (40, 60)]\n"], True)
    assert (seen["other"], seen["same"]) == (["8\n"], True)
    assert seen["grown"] < (256 + 16 if name == "endless multipart" else 220 if "MB" in name else 48), seen


OUTPUT = """
from kernel_agent import Session
with Session() as session:
    session.run("x = 7")
    before = peak()
    cell = session.run(sys.argv[1], seconds=400)
    print(json.dumps({
        "status": cell.status, "events": [[event.kind, dict(event.data)] for event in cell.events],
        "outputs": len(cell.outputs), "characters": sum(len(getattr(output, "text", "")) for output in cell.outputs),
        "after": [output.text for output in session.run("print(x)").outputs], "grown": peak() - before,
    }))
"""


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(5_000): display(n)",
        "import sys\nfor n in range(5000): print(n, flush=True); print(n, file=sys.stderr, flush=True)",
        "for n in range(300): display(type('Wide', (), {'__repr__': lambda self: 'x' * 10**6})())",
        f"{GRIP}\nfor n in range(2000): _say(_message('display_data', {{'data': {{'image/png': 5}}, 'metadata': {{'codevision': {{}}}}}}))",
        f"{GRIP}\nfor n in range(2000): _say(_message('error', {{'ename': 'E' * 10**5, 'evalue': '', 'traceback': ['x' * 10**4]}}))",
        f"{GRIP}\nfor n in range(2000): _say(_message('display_data', {{'data': {{'application/vnd.codevision.note+json': {{'dropped': [], 'refused': 1}}}}, 'metadata': {{}}}}))",
        "import os\nfor n in range(1600): os.write(1, bytes(1 << 16))",
    ],
    ids=["displays", "streams in turn", "wide", "pictures that are none", "errors", "notes", "100 MB on fd 1"],
)
def test_what_a_cell_leaves_is_bounded(code: str) -> None:
    seen = host(OUTPUT, code)
    assert seen["status"] in (Status.OK, Status.ERROR)
    assert seen["outputs"] <= 1100
    assert seen["characters"] <= 33 * 10_000
    assert len(seen["events"]) < 1200
    assert seen["after"] == ["7\n"]
    assert seen["grown"] < 32, seen


def test_an_early_idle_and_a_forged_reply_do_not_shift_results() -> None:
    with Session() as session:
        forged = (
            "_answer({'status': 'ok', 'execution_count': 99})\n"
            "_say(_message('status', {'execution_state': 'idle'}))\ntime.sleep(0.5)\nprint('late')"
        )
        assert session.run(f"{GRIP}\n{forged}").execution_count == 99
        for number in range(5):
            assert text(session.run(f"print({number})")) == f"{number}\n"


def test_a_second_reply_is_dropped() -> None:
    with Session() as session:
        cell = session.run(
            f"{GRIP}\nfor n in (98, 99): _answer({{'status': 'ok', 'execution_count': n}})\nprint('said')"
        )
        assert (cell.execution_count, text(cell)) == (98, "said\n")
        assert text(session.run("1 + 1")) == "2"


def test_nothing_gets_into_a_later_cell() -> None:
    code = (
        "def inject():\n"
        "    while True:\n"
        "        for parent in ({'msg_id': os.urandom(16).hex()}, _me['header'], {}):\n"
        "            _say(_message('stream', {'name': 'stdout', 'text': 'injected'}, parent))\n"
        "            _answer({'status': 'error', 'execution_count': 666}, parent)\n"
        "        time.sleep(0.001)\n"
        "threading.Thread(target=inject, daemon=True).start()"
    )
    with Session() as session:
        session.run(f"{GRIP}\n{code}")
        time.sleep(0.3)
        for number in range(20):
            cell = session.run(f"time.sleep(0.01); print({number})")
            assert (cell.status, text(cell)) == (Status.OK, f"{number}\n")


def test_an_offence_between_cells_is_told_and_mended(tmp_path: Path) -> None:
    async def alive() -> bool:
        return session._channel is not None and session._channel.alive

    once = f"os.path.exists({str(tmp_path / 'once')!r}) or open({str(tmp_path / 'once')!r}, 'w').close()"
    with Session(kernel=KernelOptions(isolation="none")) as session:  # the file has to stay
        session.run(f"x = 7\n{GRIP}\ndef later():\n    time.sleep(1)\n    _say([b'hello'])\n")
        session.run(f"{once} or threading.Thread(target=later).start()")
        deadline = time.monotonic() + 60
        while run_blocking(alive()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cell = session.run("print(x)")
        assert text(cell) == "7\n"
        kinds = {event.kind: event.data for event in cell.events}
        assert "no Jupyter message" in str(kinds["kernel_died"]["reason"])
        assert "cells_replayed" in kinds


def test_the_next_input_is_not_taken() -> None:
    with Session() as session:
        cell = session.run("get_ipython().set_next_input('evil()'); print('mine')")
        assert (cell.status, text(cell)) == (Status.OK, "mine\n")


async def test_a_flood_starves_nobody_and_its_deadline_fires() -> None:
    flood = f"{GRIP}\n_many = _frames(_message('clear_output', {{}})) * 20\nwhile True:\n    _put(_app.iopub_port, _many); time.sleep(0.002)"
    async with Session() as one, Session() as two:
        flooding = asyncio.create_task(one.arun(flood, seconds=1e6))
        await asyncio.sleep(0.5)
        answers = [text(await two.arun(f"print({number})")) for number in range(20)]
        assert not flooding.done()
        assert answers == [f"{number}\n" for number in range(20)]
        flooding.cancel()
        await asyncio.wait([flooding])
        assert (await one.arun(flood, seconds=1)).status is Status.TIMEOUT


# ---------------------------------------------------------------------- loops and forks


def test_a_session_moves_to_another_event_loop() -> None:
    session = Session([Image.new("RGB", (9, 9))])

    async def run(code: str) -> str:
        return text(await session.arun(code))

    assert asyncio.run(run("x = 7; print(x)")) == "7\n"
    assert asyncio.run(run("print(x, image_0.size)")) == "7 (9, 9)\n"
    assert text(session.run("print(x)")) == "7\n"
    asyncio.run(session.aclose())


FORKED = """
import os
from kernel_agent import Session
with Session() as session:
    session.run("import uuid; x = 7; print(uuid.uuid4().hex)")
    session.run("own = uuid.uuid4().hex; print(own)")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with session:
            os.write(writer, session.run("print(x, own)").outputs[0].text.encode())
        os._exit(0)
    os.close(writer)
    theirs = os.read(reader, 100).decode().split()
    status = os.waitpid(child, 0)[1]
    ours = session.run("print(x, own)").outputs[0].text.split()
    print(json.dumps({"theirs": theirs, "ours": ours, "first": session.cells[1].outputs[0].text.strip(), "status": status}))
"""


def test_a_fork_of_the_host_has_kernels_of_its_own() -> None:
    seen = host(FORKED)
    assert seen["status"] == 0
    assert seen["ours"] == ["7", seen["first"]]
    assert seen["theirs"][0] == "7"
    assert seen["theirs"][1] != seen["first"]


def test_no_file_of_a_kernel_is_touched(tmp_path: Path) -> None:
    """A kernel that puts links where its folder's files are and were gets the host to write nowhere."""
    target = tmp_path / "precious"
    target.write_text("as it was")
    plant = (
        "import os, glob, time\n"
        f"target, root = {str(target)!r}, os.path.dirname(os.path.dirname(os.getcwd())) + '/run'\n"
        "for name in [*glob.glob(root + '/kernel*.json'), *(f'{root}/{n}' for n in ('kernel.json', 'kernel.log', 'input-0.raw'))]:\n"
        "    if os.path.lexists(name): os.unlink(name)\n"
        "    os.symlink(target, name)\n"
        "os._exit(1)"
    )
    with Session([Image.new("RGB", (9, 9))], kernel=KernelOptions(isolation="none")) as session:
        session.run("x = 7")
        assert session.run(plant).status is Status.KILLED
        assert re.match("7", text(session.run("print(x, image_0.size)")))
    assert target.read_text() == "as it was"
