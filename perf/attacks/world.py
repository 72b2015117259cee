"""What lies outside the sandbox and must not be touched: files, sockets, a process, a key; all throwaway.

Permissions are never the reason why an attack fails: files are readable and writable by everybody, listeners accept anybody,
and the victim runs as the kernel's own user.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Self

import kernel_agent
from kernel_agent.types import Json

ADD_KEY = {"x86_64": 248, "aarch64": 217}
"""Number of the system call, which has no wrapper in the C library."""

NAME = "codevision-canary"
"""Begins the name of every file made here, so that they are found again."""


def new_secret() -> str:
    """A word that is nowhere else."""
    return f"cv-canary-{secrets.token_hex(16)}"


class World:
    """Everything of one host process; gone on exit."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        sweep()
        number = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = Path("/var/tmp") / f"{NAME}-{number}"
        self.folder.mkdir()
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o777)
        self.ssh_key = self.file(self.folder / "home" / ".ssh" / "id_ed25519")
        self.project_env = self.file(self.folder / "project" / ".env")
        os.chdir(self.folder / "project")
        home = Path.home() / f".{NAME}-{number}"
        self.home_file = self.file(home / "canary")
        self.stack.callback(shutil.rmtree, home, ignore_errors=True)
        package = Path(str(kernel_agent.__file__)).parents[1]
        self.package_env: Path | None = None
        if os.access(package, os.W_OK):
            self.package_env = package / f".{NAME}-{number}.env"
            self.package_env.write_text(new_secret())
            self.stack.callback(self.package_env.unlink, missing_ok=True)
        self.pth = Path(sysconfig.get_paths()["purelib"]) / f"{NAME}-{number}.pth"
        self.program = Path("/usr/local/bin") / f"{NAME}-{number}"
        self.stack.callback(self.pth.unlink, missing_ok=True)
        self.stack.callback(self.program.unlink, missing_ok=True)
        self.ears = Ears(self.folder, number)
        self.stack.callback(self.ears.close)
        self.environment_secret = new_secret()  # the host process has it in its environment from the start
        self.environment_secret = os.environ.get("CODEVISION_CANARY_API_KEY", self.environment_secret)
        self.descriptor_secret = new_secret()
        self._leave_descriptors_open()
        self.keyring_secret = f"cv-canary-{hashlib.sha256(NAME.encode()).hexdigest()[:32]}"  # see `_add_key`
        self.has_keyring = self._add_key()
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir("/")
        self.stack.close()

    def file(self, path: Path) -> Path:
        """A file with a secret that anybody may read, write and replace, in a folder of ours."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o777)
        path.write_text(new_secret())
        path.chmod(0o666)
        return path

    def _leave_descriptors_open(self) -> None:
        """As a careless host does: a file, a socket and a memory file that children inherit."""
        path = self.folder / "open"
        path.write_text(self.descriptor_secret)
        held = os.open(path, os.O_RDWR)
        memory = os.memfd_create("canary", 0)
        os.write(memory, self.descriptor_secret.encode())
        for descriptor in (held, memory):
            os.set_inheritable(descriptor, True)
            self.stack.callback(os.close, descriptor)

    def _add_key(self) -> bool:
        """A key in the keyrings of this user and of this session, which children inherit.

        All hosts of the user share the keyrings, and so this key: it says the same whoever wrote it last.
        """
        number = ADD_KEY.get(os.uname().machine)
        if number is None:
            return False
        add, payload = ctypes.CDLL(None).syscall, self.keyring_secret.encode()
        rings = [ctypes.c_long(ring) for ring in (-3, -4)]
        return all(
            add(ctypes.c_long(number), b"user", b"cv-canary", payload, ctypes.c_size_t(len(payload)), ring) > 0
            for ring in rings
        )


def sweep() -> None:
    """Remove what host processes that were killed left behind."""
    package = Path(str(kernel_agent.__file__)).parents[1]
    folders = (Path("/var/tmp"), Path.home(), package, Path(sysconfig.get_paths()["purelib"]), Path("/usr/local/bin"))
    for folder in folders:
        for path in (*folder.glob(f"{NAME}-*"), *folder.glob(f".{NAME}-*")):
            pid = path.name.removeprefix(".").removeprefix(f"{NAME}-").partition("-")[0]
            if Path(f"/proc/{pid}").exists():
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # another user's, or removed by another host
                    path.unlink()


class Ears:
    """Sockets of the host on which nothing may arrive."""

    def __init__(self, folder: Path, number: str) -> None:
        self.open: dict[str, socket.socket] = {}
        unix, stream, datagram = socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
        self.path, self.datagram_path = str(folder / "stream"), str(folder / "datagram")
        self.abstract = f"\0{NAME}-{number}"
        self._listen("tcp", socket.AF_INET, stream, ("127.0.0.1", 0))
        self._listen("udp", socket.AF_INET, datagram, ("127.0.0.1", 0))
        if socket.has_ipv6:
            with contextlib.suppress(OSError):
                self._listen("tcp6", socket.AF_INET6, stream, ("::1", 0))
                self._listen("udp6", socket.AF_INET6, datagram, ("::1", 0))
        self._listen("pathname", unix, stream, self.path)
        self._listen("abstract", unix, stream, self.abstract)
        self._listen("pathname datagram", unix, datagram, self.datagram_path)
        self._listen("abstract datagram", unix, datagram, self.abstract + "-d")
        with contextlib.suppress(OSError):
            self._listen("netlink", socket.AF_NETLINK, datagram, (0, 0), 2)  # NETLINK_USERSOCK
        with contextlib.suppress(OSError):
            self._listen("vsock", socket.AF_VSOCK, stream, (socket.VMADDR_CID_ANY, 0xFFFFFFFF))
        for path in (self.path, self.datagram_path):
            Path(path).chmod(0o777)

    def _listen(self, name: str, family: int, kind: int, address: Any, protocol: int = 0) -> None:
        ear = socket.socket(family, kind, protocol)
        ear.setblocking(False)
        ear.bind(address)
        if kind == socket.SOCK_STREAM:
            ear.listen(8)
        self.open[name] = ear

    def port(self, name: str) -> int:
        """Port of an internet, netlink or vsock listener; 0 where this machine has none."""
        if name not in self.open:
            return 0
        address = self.open[name].getsockname()
        return int(address[0] if name == "netlink" else address[1])

    def heard(self) -> list[str]:
        """Names of the listeners at which something arrived since the last call."""
        arrived = []
        for name, ear in self.open.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    if ear.type == socket.SOCK_STREAM:
                        ear.accept()[0].close()
                    else:
                        ear.recv(4096)
                    if name not in arrived:
                        arrived.append(name)
        return arrived

    def close(self) -> None:
        """Close all."""
        for ear in self.open.values():
            ear.close()


class Victim:
    """A process of the kernel's user outside its sandbox, with a secret in its memory and one behind a descriptor."""

    def __init__(self, uid: int) -> None:
        self.secret, self.behind = new_secret(), new_secret()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("victim.py")), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.secret}\n{self.behind}\n")
        self._process.stdin.flush()
        self.told: dict[str, Json] = json.loads(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def unhurt(self) -> bool:
        """Whether it still answers."""
        if self._process.poll() is not None:
            return False
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("alive?\n")
            self._process.stdin.flush()
            return self._process.stdout.readline() == "yes\n"
        except OSError:
            return False

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
