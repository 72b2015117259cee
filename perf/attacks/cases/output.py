"""What the host reads: floods, malformed messages, and words that the code puts into its kernel's mouth."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from kernel_agent import Status
from kernel_agent.types import TextOutput
from perf.attacks.case import EVERYWHERE, NOWHERE, Result, case
from perf.attacks.host import status_line
from perf.attacks.scene import LATE_SECONDS, MIB, Scene, recovers, said

HOST_MB = 600
"""How much the host process may grow while it reads; measured as the rise of its peak."""
KEPT_CHARS = 1_000_000
"""How much text of a cell may be kept, in all its outputs."""
BELT_BYTES = 4 << 30
"""Address space that the host process may gain during a flood: what is not contained ends it, not the machine."""

IN_KERNEL = """
kernel = get_ipython().kernel
session, iopub = kernel.session, kernel.iopub_socket
parent = kernel.get_parent()
"""

RAW = """
import os, select, socket, struct, time
from ipykernel.kernelapp import IPKernelApp
app = IPKernelApp.instance()
path = f"{app.ip}-{app.iopub_port}"
links = []
for name in os.listdir("/proc/self/fd"):
    try:
        link = socket.socket(fileno=os.dup(int(name)))
        if link.family == socket.AF_UNIX and link.getsockname() == path:
            link.getpeername(); links.append(link)
    except OSError: pass
sent, end = 0, time.time() + 8
def push(data):
    global sent
    for link in links:
        view = memoryview(data)
        while view and time.time() < end:
            select.select([], [link], [], 1)
            try: count = link.send(view, socket.MSG_DONTWAIT)
            except BlockingIOError: continue
            view, sent = view[count:], sent + count
"""


def flood(scene: Scene, code: str, seconds: float = 12.0, **values: Any) -> str:
    with scene.fresh() as session:
        used = int(status_line("self", "VmSize").split()[0]) * 1024
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (min(before[1], used + BELT_BYTES), before[1]))
        try:
            with scene.watching() as peaks:
                cell = scene.run(code, session=session, seconds=seconds, **values)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        if cell.seconds > seconds + LATE_SECONDS:
            return f"the cell took {cell.seconds:.0f} s"
        if peaks.own_mb > HOST_MB:
            return f"the host process grew by {peaks.own_mb:.0f} MiB"
        if len(said(cell)) > KEPT_CHARS:
            return f"{len(said(cell))} characters were kept"
        return recovers(session)


@case("1 GB print", Result.CONTAINED, EVERYWHERE)
def printing(scene: Scene) -> str:
    """Costs the host under 600 MiB; head and tail are kept, the rest is counted, the session goes on."""
    return flood(scene, "for _ in range(1000): print('x' * 1_000_000)")


@case("1 GB print past the kernel's cap", Result.CONTAINED, EVERYWHERE)
def uncapped(scene: Scene) -> str:
    """The same where the code sends the messages itself, past the cap in the kernel."""
    code = IN_KERNEL + (
        "for _ in range(1000):\n"
        "    session.send(iopub, 'stream', {'name': 'stdout', 'text': 'x' * 1_000_000}, parent=parent, ident=b'stream')"
    )
    return flood(scene, code)


@case("1 GB on fd 1", Result.CONTAINED, EVERYWHERE)
def descriptor(scene: Scene) -> str:
    """Costs the host under 600 MiB of memory and under 100 MiB of disk."""
    code = "import os\nfor _ in range(1000):\n    try: os.write(1, b'x' * 1_000_000)\n    except OSError: break"
    with scene.fresh() as session:
        behind = Path(f"/proc/{scene.inner_pid(session)}/fd/1")
        log = behind.resolve()
        with scene.watching() as peaks:
            scene.run(code, session=session, seconds=6)
        stored = log.stat().st_size / MIB if log.is_file() else 0
        if stored > 100:
            return f"{stored:.0f} MiB were written to {log.name}"
        return f"the host process grew by {peaks.own_mb:.0f} MiB" if peaks.own_mb > HOST_MB else recovers(session)


@case("600 MB display", Result.CONTAINED, EVERYWHERE)
def display(scene: Scene) -> str:
    """One message of 600 MB costs the host under 600 MiB, and the kernel at most."""
    return flood(scene, "display({'text/plain': 'x' * 600_000_000}, raw=True)")


@case("long lines", Result.CONTAINED, EVERYWHERE)
def long_lines(scene: Scene) -> str:
    """4 MB without a line break, in an error, a display and a print, with and without carriage returns, cost no time."""
    for text in ("'x' * 4_000_000", "'x\\r' * 2_000_000", "'\\x1b]' * 1_000_000"):
        code = IN_KERNEL + (
            f"text = {text}\nprint(text); display({{'text/plain': text}}, raw=True)\n"
            "error = {'ename': text, 'evalue': text, 'traceback': [text]}\n"
            "session.send(iopub, 'error', error, parent=parent, ident=b'error')"
        )
        if problem := flood(scene, code, 8):
            return f"{text}: {problem}"
    return ""


@case("many displays", Result.CONTAINED, EVERYWHERE)
def displays(scene: Scene) -> str:
    """200,000 small displays, each within any limit, do not add up."""
    return flood(scene, "for n in range(200_000): display({'text/plain': 'y' * 2000}, raw=True)", 6)


@case("endless multipart", Result.CONTAINED, EVERYWHERE)
def multipart(scene: Scene) -> str:
    """A message of endlessly many frames, each within any limit, costs the host under 600 MiB."""
    code = RAW + "frame = b'\\x03' + struct.pack('>Q', 65536) + bytes(65536)\n"
    return flood(scene, code + "while sent < 3 << 30 and time.time() < end: push(frame * 16)")


@case("many tiny frames", Result.CONTAINED, EVERYWHERE)
def tiny_frames(scene: Scene) -> str:
    """The same with frames of one byte, whose keeping costs many times their size."""
    code = RAW + "frame = b'\\x01\\x01x'\n"
    return flood(scene, code + "while sent < 200 << 20 and time.time() < end: push(frame * 400_000)")


@case("giant frame", Result.CONTAINED, EVERYWHERE)
def giant(scene: Scene) -> str:
    """A frame of 3 GiB, and then one that claims 4 EiB, costs the host under 600 MiB."""
    code = RAW + (
        "push(b'\\x02' + struct.pack('>Q', 3 << 30))\nwhile sent < 3 << 30 and time.time() < end: push(bytes(1 << 20))\n"
        "push(b'\\x02' + struct.pack('>Q', 1 << 62) + bytes(1 << 20))"
    )
    return flood(scene, code)


@case("no protocol at all", Result.CONTAINED, EVERYWHERE)
def noise(scene: Scene) -> str:
    """Noise on the host's connection costs the kernel at most."""
    return flood(scene, RAW + "push(os.urandom(1 << 20))", seconds=4)


def quiet(scene: Scene, code: str, *forbidden: str) -> str:
    """Run it on a session of its own: nothing forbidden is taken, and the session goes on."""
    with scene.fresh() as session:
        cell = scene.run(code, session=session)
        text = said(cell)
        if any(word in text for word in forbidden):
            return "it was taken"
        text.encode()  # raises where it cannot be saved
        return recovers(session)


@case("bad HMAC", Result.CONTAINED, EVERYWHERE)
def bad_signature(scene: Scene) -> str:
    """A message with a wrong signature is not taken; it costs the kernel at most."""
    code = IN_KERNEL + (
        "from jupyter_client.session import Session\nwrong = Session(key=b'wrong')\n"
        "wrong.send(iopub, 'stream', {'name': 'stdout', 'text': 'planted'}, parent=parent, ident=b'stream')"
    )
    return quiet(scene, code, "planted")


@case("replayed message", Result.CONTAINED, EVERYWHERE, control=False)
def replayed(scene: Scene) -> str:
    """A message that is sent again, signature and all, does not stop the session."""
    code = IN_KERNEL + (
        "frames = session.serialize(session.msg('stream', {'name': 'stdout', 'text': 'twice'}, parent=parent), ident=b'stream')\n"
        "for _ in range(3): iopub.send_multipart(frames)"
    )
    return quiet(scene, code)


@case("wrong types", Result.CONTAINED, EVERYWHERE)
def wrong_types(scene: Scene) -> str:
    """Well signed messages whose fields are of wrong types, missing or absurd cost the kernel at most."""
    code = (
        IN_KERNEL
        + """
import json
def send(header, parent_header, metadata, content):
    parts = [json.dumps(part).encode() for part in (header, parent_header, metadata, content)]
    iopub.send_multipart([b"x", b"<IDS|MSG>", session.sign(parts), *parts])
header = {"msg_id": "1", "session": "s", "username": "u", "date": "2020-01-01T00:00:00Z", "msg_type": "stream", "version": "5.3"}
up = {"msg_id": parent["header"]["msg_id"], "msg_type": "execute_request"}
for kind, content in [
    ("stream", []), ("stream", {"name": [], "text": {}}), ("stream", {"name": "stdout", "text": None}), ("stream", None),
    ("display_data", {"data": []}), ("display_data", {"data": {"image/png": 7}, "metadata": {"codevision": {"index": 0}}}),
    ("display_data", {"data": {"image/png": "!!"}, "metadata": {"codevision": {"index": "0", "parent": [], "affine": {}}}}),
    ("display_data", {"data": {"text/plain": {"deep": [1]}}, "metadata": 3}), ("execute_result", {}), ("execute_result", 5),
    ("error", {"ename": 1, "evalue": [], "traceback": "abc"}), ("error", {"traceback": 5, "ename": "", "evalue": ""}),
    ("status", {"execution_state": {}}), ("status", []), ("update_display_data", {"transient": 1}), ("clear_output", 1),
    ("display_data", {"data": {"application/vnd.codevision.note+json": {"dropped": {"stdout": "NaN"}, "refused": []}}}),
    ("nonsense", {}), ("stream", {"name": "stdout", "text": 10**400}),
]:
    send(dict(header, msg_type=kind), up, {}, content)
for odd in ([], 5, {}, None, {"msg_id": []}, {"msg_type": 3, "msg_id": "1"}):
    send(odd, up, {}, {}); send(dict(header, **(odd if isinstance(odd, dict) else {})), odd, [], {})
send(dict(header, date=5), dict(up, msg_id={}), 1, 1)
deep = b"[" * 100_000 + b"]" * 100_000
parts = [json.dumps(header).encode(), json.dumps(up).encode(), b"{}", deep]
iopub.send_multipart([b"x", b"<IDS|MSG>", session.sign(parts), *parts])
iopub.send_multipart([b"<IDS|MSG>"]); iopub.send_multipart([b"", b""]); iopub.send_multipart([bytes(50)])
"""
    )
    return quiet(scene, code)


@case("wrong reply", Result.CONTAINED, EVERYWHERE)
def wrong_reply(scene: Scene) -> str:
    """A cell's own reply of wrong types costs the kernel at most."""
    for content in ("[]", "{'status': 'ok', 'execution_count': [1]}"):
        code = IN_KERNEL + (
            "send = session.send\n"
            "def lie(stream, kind, content=None, *rest, **named):\n"
            f"    return send(stream, kind, {content} if kind == 'execute_reply' else content, *rest, **named)\n"
            "session.send = lie"
        )
        with scene.fresh() as session:
            scene.run(code, session=session, seconds=2)
            session.cells.clear()
            session.run("get_ipython().kernel.session.__dict__.pop('send', None)", seconds=3)
            if problem := recovers(session):
                return f"after {content}: {problem}"
    return ""


@case("lone surrogates", Result.CONTAINED, EVERYWHERE)
def surrogates(scene: Scene) -> str:
    """Text that no encoder takes arrives as text that can be saved, from print, display, errors and raw messages."""
    code = (
        IN_KERNEL
        + """
import json
print("\\ud800 print")
display({"text/plain": "\\udfff display"}, raw=True)
header = session.msg_header("stream")
parts = [json.dumps(p, default=str).encode() for p in (header, parent["header"], {}, {"name": "stdout", "text": "\\ud83d raw"})]
iopub.send_multipart([b"stream", b"<IDS|MSG>", session.sign(parts), *parts])
raise ValueError("\\udc80 error")
"""
    )
    return quiet(scene, code, "\ud800", "\udfff", "\ud83d", "\udc80")


@case("forged result", Result.BLOCKED, NOWHERE, control=True)
def forged(scene: Scene) -> str:
    """Code can show what it did not compute: the kernel's word is the code's word. Audits and rewards must run it again."""
    code = IN_KERNEL + (
        "session.send(iopub, 'execute_result', {'data': {'text/plain': 'forged'}, 'metadata': {}, 'execution_count': 1}, "
        "parent=parent, ident=b'execute_result')"
    )
    return quiet(scene, code, "forged")


@case("hidden error", Result.BLOCKED, NOWHERE, control=True)
def hidden(scene: Scene) -> str:
    """Code can hide that it failed."""
    code = IN_KERNEL + (
        "send = session.send\n"
        "def lie(stream, kind, content=None, *rest, **named):\n"
        "    if kind == 'error': return None\n"
        "    if kind == 'execute_reply': content = {'status': 'ok', 'execution_count': 1, 'payload': [], 'user_expressions': {}}\n"
        "    return send(stream, kind, content, *rest, **named)\nsession.send = lie\n1 / 0"
    )
    with scene.fresh() as session:
        return "it ended as ok" if scene.run(code, session=session).status is Status.OK else ""


@case("future-cell injection", Result.BLOCKED, NOWHERE, control=True)
def injection(scene: Scene) -> str:
    """Code of an earlier cell can write into a later one of the same kernel."""
    code = (
        IN_KERNEL
        + """
def before(info):
    session.send(iopub, "stream", {"name": "stdout", "text": "injected"}, parent=kernel.get_parent(), ident=b"stream")
get_ipython().events.register("pre_run_cell", before)
"""
    )
    with scene.fresh() as session:
        scene.run(code, session=session)
        return "it wrote into a later cell" if "injected" in said(session.run("1")) else ""


@case("early idle", Result.CONTAINED, EVERYWHERE)
def early_idle(scene: Scene) -> str:
    """A kernel that says it is done while the cell still runs gets no result of that cell into the next one."""
    code = (
        IN_KERNEL
        + """
import sys, time
session.send(iopub, "status", {"execution_state": "idle"}, parent=parent, ident=b"status")
done = {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}
for stream in (getattr(kernel, "shell_stream", None), getattr(kernel, "shell_socket", None)):
    try: session.send(stream, "execute_reply", done, parent=parent, ident=getattr(kernel, "_parent_ident", {}).get("shell"))
    except Exception: pass
time.sleep(1.5)
print("of the first cell"); sys.stdout.flush()
"""
    )
    with scene.fresh() as session:
        scene.run(code, session=session)
        text = said(session.run("6 * 7"))
        return "" if text == "42" else f"the next cell gave {text[:200]!r}"


@case("late background output", Result.CONTAINED, EVERYWHERE)
def late(scene: Scene) -> str:
    """Threads and children that go on writing after their cell do not take the place of later results."""
    code = """
import threading, time, os, sys
def talk():
    for _ in range(200): print("late", flush=True); sys.stderr.write("late"); os.write(1, b"late"); time.sleep(0.005)
threading.Thread(target=talk).start()
"""
    with scene.fresh() as session:
        scene.run(code, session=session)
        cells = [session.run(f"{n} * 7") for n in range(5)]
        for number, cell in enumerate(cells):
            results = [output.text for output in cell.outputs if isinstance(output, TextOutput) and output.is_result]
            if results != [str(number * 7)]:
                return f"cell {number} gave {results}"
    return ""


@case("set_next_input", Result.BLOCKED, EVERYWHERE)
def next_input(scene: Scene) -> str:
    """A cell that the code proposes is neither run nor recorded."""
    with scene.fresh() as session:
        effect = scene.world.folder / "proposed"
        scene.run(
            f"get_ipython().set_next_input({f'open({str(effect)!r}, chr(119))'!r}, replace=True)", session=session
        )
        session.run("1")
        return "it ran" if effect.exists() or len(session.cells) != 2 else recovers(session)


@case("input()", Result.REFUSED, EVERYWHERE)
def asks(scene: Scene) -> str:
    """Asking for input ends at once in an error that says it is not supported."""
    with scene.fresh() as session:
        cell = scene.run("input('password: ')", session=session)
        if cell.status is not Status.ERROR or "StdinNotImplementedError" not in said(cell):
            return f"it ended as {cell.status}"
        return recovers(session)
