"""What this machine knows of a vLLM server that runs on it: command line, variables, and the files that it serves.

A server does not tell its flags, nor what its weights are; the machine it runs on does. Guarantees: only what the process that listens
on the port says of itself counts (Linux, same user or root, same containers), and only where it serves what the server says that it
serves; each thing that cannot be told is None, and `not_told` says why; no key, token or password is in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel_agent.models.checkpoint import snapshot
from kernel_agent.models.hashes import identity
from kernel_agent.redact import REDACTED, redact
from kernel_agent.types import Json

FACTS = ("flags", "variables", "revision", "weights_sha256", "files_sha256")
ELSEWHERE = "not told by the server"

_PROC = Path("/proc")
_LISTEN = "0A"
_PATIENCE = 5.0
_GRAIN = 1.0
"""Seconds by which the time of a process's start may be wrong."""
_VARIABLES = re.compile(
    r"VLLM_|CUDA_VISIBLE_DEVICES|TORCH|PYTORCH_|NCCL_|OMP_|MKL_|PYTHONHASHSEED|(HF_HUB|TRANSFORMERS)_OFFLINE"
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|AUTH|CREDENTIAL")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORD = re.compile(
    r"\w*(key|secret|token|password|passwd)|(\w*api|access)?keys|secrets|passwords|pass|pwd|passphrase|auth|authorization|jwt|headers?"
    r"|credentials?|bearer|cookies?"
)
_GLUED = re.compile(r"(-[A-Za-z]+)(\{.*)", re.DOTALL)
"""A short flag with JSON right after it."""
_SECRETS = ("--api-key", "--hf-token", "--ssl-keyfile-password")
"""Flags whose values are secret, also where they are cut short (argparse takes any beginning that is unique)."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process as /proc has it; `started` in seconds since the epoch."""

    pid: int
    command: tuple[str, ...]
    variables: Mapping[str, str]
    folder: str
    started: float


class Nearby:
    """The facts about one server, found out once, in a thread, while the first completion is on its way."""

    def __init__(self) -> None:
        self._facts: dict[str, Json] = {}
        self._thread: threading.Thread | None = None

    def look(self, port: int | None, root: str | None, roots: Collection[str]) -> None:
        """Begin. `port`: of this machine, None where the server is not on it (or is no vLLM). Asking again does nothing."""
        if self._facts:
            return
        if port is None:
            self._facts = unknown(ELSEWHERE)
            return

        def work() -> None:
            self._facts = server_at(port, root, roots)

        self._facts = unknown("not found out yet: the files are still being read")
        self._thread = threading.Thread(target=work, name=f"server-{port}", daemon=True)
        self._thread.start()

    async def settle(self) -> None:
        """Wait for it, once and not for long: large files may take until a later completion."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            await asyncio.to_thread(thread.join, _PATIENCE)

    def facts(self) -> dict[str, Json]:
        """What is known by now; nothing before `look`."""
        return dict(self._facts)


def unknown(why: str) -> dict[str, Json]:
    """The facts where nothing is known."""
    return {**dict.fromkeys(FACTS), "not_told": dict.fromkeys(FACTS, why)}


def server_at(port: int, root: str | None, roots: Collection[str]) -> dict[str, Json]:
    """`FACTS` and `not_told` of the server on this machine's `port`, which says that it serves `roots`, and `root` for the model."""
    found = [(process, read) for process in listening(port) if (read := flags(process.command)).get("--model") in roots]
    if not found or root is None:
        return unknown(
            f"{ELSEWHERE}, and no vLLM process that this user may read listens on port {port} and names it in its command line"
        )
    process, read = found[0]
    shown = {name: value for name, value in process.variables.items() if _VARIABLES.match(name)}
    variables = {n: REDACTED if _SECRET_NAME.search(n) or _secret(n) else _readable(v) for n, v in shown.items()}
    about = {"flags": read, "variables": variables}
    folder = _checkpoint(root, read, process)
    if folder is None:
        files = unknown(f"{ELSEWHERE}, and {root} is not in the hub cache that it uses")
    else:
        try:
            files = identity(folder, since=process.started + _GRAIN)
        except OSError as error:
            files = unknown(f"{folder} cannot be read: {error.strerror}")
    files["not_told"] = {name: why for name, why in files["not_told"].items() if name not in about}
    told: dict[str, Json] = redact({**files, **about})
    return told


def _checkpoint(root: str, read: Mapping[str, Json], process: Process) -> Path | None:
    """The folder that the server has loaded."""
    folder = Path(process.folder, Path(root).expanduser())
    if folder.is_dir():
        return folder
    revision, cache = read.get("--revision"), read.get("--download-dir")
    return snapshot(
        root,
        revision if isinstance(revision, str) else None,
        process.variables,
        cache if isinstance(cache, str) else None,
    )


def flags(command: Sequence[str]) -> dict[str, Json]:
    """The flags of a vLLM command line by name: a text, a list where there are several words, True where there is none."""
    start = next((n for n, word in enumerate(command) if Path(word).name.startswith("vllm")), len(command))
    found: dict[str, Json] = {}
    name = "--model"  # `vllm serve MODEL`
    for word in command[start + 1 :]:
        if word == "serve" and not found:
            continue
        if re.match(r"--?[A-Za-z]", word):
            glued = _GLUED.fullmatch(word)
            given, equals, value = (glued[1], "=", glued[2]) if glued else word.partition("=")
            name = given.replace("_", "-") if given.startswith("--") else given
            found[name] = value if equals else True
        elif found.get(name, True) is True:
            found[name] = word
        else:
            before = found[name]
            found[name] = [*(before if isinstance(before, list) else [before]), word]
    return {
        name: REDACTED if _cut_short(name) or (_secret(name) and _told(value)) else _readable(value)
        for name, value in found.items()
    }


def _cut_short(name: str) -> bool:
    return any(word.startswith(name) for word in _SECRETS) and name.startswith("--")


def _secret(name: str) -> bool:
    """Whether a name has a word that is a secret's: `hf_token`, `awsSecretKey`; not `max_tokens`, `eos_token_id`, `pass_config`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return any(
        _SECRET_WORD.fullmatch(word) and (word, after) != ("token", "id") and not (word == "pass" and after)
        for word, after in zip(words, [*words[1:], ""], strict=True)
    )


def _readable(value: Json) -> Json:
    """A value without the secrets in it, where it or a text in it is JSON: what has a secret's name, at any depth."""
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, Mapping):
        return {key: REDACTED if _secret(key) and _told(item) else _readable(item) for key, item in value.items()}
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.dumps(_readable(json.loads(value)), ensure_ascii=False)
    except ValueError:
        return value
    except RecursionError:
        return REDACTED


def _told(value: Json) -> bool:
    return value is not None and not isinstance(value, bool) and value != ""


def listening(port: int) -> Iterator[Process]:
    """The vLLM processes that listen on a TCP port here; none where /proc does not tell."""
    sockets = set(_sockets(port))
    here = _namespace("self")
    for folder in _PROC.iterdir() if sockets else ():
        try:
            if not folder.name.isdecimal() or b"vllm" not in (line := (folder / "cmdline").read_bytes()):
                continue
            if not any(os.readlink(held) in sockets for held in (folder / "fd").iterdir()):  # noqa: PTH115
                continue
            if _namespace(folder.name) != here:
                continue
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            yield Process(
                pid=int(folder.name),
                command=tuple(line.decode(errors="replace").rstrip("\0").split("\0")),
                variables={name: value for name, _, value in (item.partition("=") for item in variables) if name},
                folder=os.readlink(folder / "cwd"),  # noqa: PTH115
                started=_started(folder),
            )
        except OSError:
            continue  # it ended, or is another user's


def _sockets(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{words[9]}]"


def _namespace(process: str) -> int:
    """Of its mounts: a container has files of its own under the same names."""
    return (_PROC / process / "ns" / "mnt").stat().st_ino


def _started(folder: Path) -> float:
    ticks = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    boot = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
