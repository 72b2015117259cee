"""What code in a cell can do to the sockets of its own kernel: `GRIP` first, then one of these."""

GRIP = """
import json, os, socket, threading, time
from ipykernel.kernelapp import IPKernelApp
_app, _kernel = IPKernelApp.instance(), get_ipython().kernel
_session, _me = _kernel.session, _kernel.get_parent("shell")

_ours = {}
for _name in os.listdir("/proc/self/fd"):  # every connected socket of our own, to write to past libzmq
    try:
        _copy = os.dup(int(_name))
    except OSError:
        continue
    try:
        _sock = socket.socket(fileno=_copy)
    except OSError:
        os.close(_copy)
        continue
    if _sock.family == socket.AF_UNIX and not _sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        _ours.setdefault(_sock.getsockname(), []).append(_sock)
_sent = threading.Event()
_kernel.iopub_thread.schedule(_sent.set)
_sent.wait()
time.sleep(0.2)  # libzmq has said what it had to say

def _put(port, data):
    for sock in _ours[f"{_app.ip}-{port}"]:
        sock.setblocking(True)
        sock.sendall(data)

def _frames(parts):
    last = len(parts) - 1
    return b"".join(bytes([2 + (n < last)]) + len(part).to_bytes(8, "big") + part for n, part in enumerate(parts))

def _signed(header, parent, metadata, content, topic=(b"t",)):
    parts = [header, parent, metadata, content]
    return [*topic, b"<IDS|MSG>", _session.sign(parts), *parts]

def _dump(value):
    return json.dumps(value, default=str).encode()

def _message(kind, content, parent=None, topic=(b"t",)):
    header = dict(msg_id=os.urandom(8).hex(), msg_type=kind, session="s", username="u", version="5.3")
    parent = _me["header"] if parent is None else parent
    return _signed(_dump(header), _dump(parent), b"{}", content if isinstance(content, bytes) else _dump(content), topic)

def _say(parts):
    _put(_app.iopub_port, _frames(parts))

def _answer(content, parent=None):
    _put(_app.shell_port, _frames(_message("execute_reply", content, parent, ())))
"""

OFFENCES = {
    "bad HMAC": ("_say([b't', b'<IDS|MSG>', b'0' * 64, b'{}', b'{}', b'{}', b'{}'])", "signature"),
    "no message": ("_say([b'hello'])", "no Jupyter message"),
    "no message on shell": ("_put(_app.shell_port, _frames([b'hello']))", "no Jupyter message"),
    "stream of wrong type": ("_say(_message('stream', {'name': 5, 'text': 'x'}))", "name is int"),
    "text of wrong type": ("_say(_message('stream', {'name': 'stdout', 'text': ['x']}))", "text is list"),
    "data of wrong type": ("_say(_message('display_data', {'data': [], 'metadata': {}}))", "data is list"),
    "traceback of wrong type": (
        "_say(_message('error', {'ename': 'E', 'evalue': '', 'traceback': [1]}))",
        "traceback is not a list of str",
    ),
    "content of wrong type": ("_say(_message('stream', b'[]'))", "content is list"),
    "header of wrong type": (
        "_say(_signed(_dump({'msg_id': 5, 'msg_type': 'stream'}), b'{}', b'{}', b'{}'))",
        "msg_id is int",
    ),
    "no header": ("_say(_signed(b'{}', b'{}', b'{}', b'{}'))", "without msg_id"),
    "reply of wrong type": ("_answer({'status': None})", "status is NoneType"),
    "count of wrong type": ("_answer({'status': 'ok', 'execution_count': 'many'})", "execution_count is str"),
    "no JSON": ("_say(_message('stream', b'{' ))", "content is not JSON"),
    "lone surrogate": (
        r"""_say(_message('stream', b'{"name": "stdout", "text": "\\ud800"}'))""",
        "content is not JSON",
    ),
    "lone surrogate as bytes": (
        r"""_say(_message('stream', b'{"name": "stdout", "text": "\xed\xa0\x80"}'))""",
        "content is not JSON",
    ),
    "deep JSON": ("_say(_message('stream', b'{\"a\":' + b'[' * 100_000))", "content is not JSON"),
    "wide JSON": ("_say(_message('stream', b'{\"a\":[' + b'[],' * 2_000_000 + b'0]}'))", "values in content"),
    "large header": (
        "_say(_signed(_dump({'msg_id': 'x' * 10**6, 'msg_type': 'y'}), b'{}', b'{}', b'{}'))",
        "bytes of header",
    ),
    "giant frame": (
        "_put(_app.iopub_port, b'\\x02' + (1 << 40).to_bytes(8, 'big') + bytes(1 << 20))",
        "bytes of a frame",
    ),
    "giant frame on shell": ("_put(_app.shell_port, b'\\x02' + (1 << 40).to_bytes(8, 'big'))", "bytes of a frame"),
    "600 MB display": (
        "_say(_message('display_data', {'data': {'text/plain': 'x' * (100 << 20)}, 'metadata': {}}))",
        "bytes of content",
    ),
    "endless multipart": (
        "while True: _put(_app.iopub_port, b'\\x03' + (100 << 20).to_bytes(8, 'big') + bytes(100 << 20))",
        "bytes of a message",
    ),
    "endless empty frames": ("while True: _put(_app.iopub_port, b'\\x01\\x00' * 10_000)", "frames of a message"),
    "garbage": ("_put(_app.iopub_port, os.urandom(100_000).replace(b'\\0', b'\\xff'))", ""),
    "endless small messages": (
        "_many = _frames(_message('clear_output', {})) * 1000\nwhile True: _put(_app.iopub_port, _many)",
        "messages since",
    ),
}
"""What it is: (the code, what the host has to say of it)."""
