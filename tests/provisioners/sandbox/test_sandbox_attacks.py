"""What code in a cage must not be able to do, each tried by a real process in a real cage."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
REFUSED = {
    "EPERM",
    "EACCES",
    "ENOENT",
    "EROFS",
    "ESRCH",
    "ENOSYS",
    "EAFNOSUPPORT",
    "EBUSY",
    "ENETUNREACH",
    "EXDEV",
    "EINVAL",
}
NUMBERS = {
    "x86_64": {"ptrace": 101, "keyctl": 250, "readv": 310, "unshare": 272, "io_uring": 425, "memfd": 319, "mount": 165,
               "clone3": 435, "bpf": 321, "perf": 298, "userfault": 323, "shmget": 29, "handle": 304, "setns": 308},
    "aarch64": {"ptrace": 117, "keyctl": 219, "readv": 270, "unshare": 97, "io_uring": 425, "memfd": 279, "mount": 40,
                "clone3": 435, "bpf": 280, "perf": 241, "userfault": 282, "shmget": 194, "handle": 265, "setns": 268},
}  # fmt: skip


def all_refused(tried: dict[str, str]) -> None:
    assert {name: result for name, result in tried.items() if result not in REFUSED} == {}


def test_files(cage):
    tried = cage.tried(
        """
        secret: open(secret).read()
        shadow: open("/etc/shadow").read()
        ssh: os.listdir(os.path.expanduser("~root/.ssh"))
        truncate outside: os.truncate(secret, 0)
        remove outside: os.unlink(secret)
        link outside: os.link(secret, plan.work + "/link")
        write usr: open("/usr/lib/new", "w")
        write packages: open(os.__file__ + ".pth", "w")
        xattr: os.setxattr(secret, "user.x", b"1")
        own xattr: (open("mine", "w"), os.setxattr("mine", "user.x", b"1"))
        device: os.mknod("device", 0o20666, 1 << 8 | 1)
        chown: os.chown(secret, os.getuid(), -1)
        link in output: open((os.symlink(secret, plan.work + "/soft"), plan.work + "/soft")[1]).read()
        """
    )
    all_refused(tried)


def test_nothing_is_written_outside_or_seen_there(cage):
    result = cage.run(
        """
        seen = []
        try:
            open(outside + "/new", "w").write("x")
        except OSError:
            pass
        try:
            seen = os.listdir(outside)
        except OSError:
            pass
        print(json.dumps(seen))
        """
    )
    assert set(result.said) <= {"run", "new"}  # a strong cage has a /tmp of its own, with the way to its run folder
    assert result.host["outside"] == ["run", "scratch", "secret", "socket"]


def test_a_changed_mode_does_not_reach_the_host(cage):
    result = cage.run(
        """
        for change in (lambda: os.chmod(secret, 0o4777), lambda: os.utime(secret, (0, 0)), lambda: os.chmod(outside, 0)):
            try:
                change()
            except OSError:
                pass
        print("{}")
        """
    )
    assert result.status == 0
    assert result.host["mode"] == "0o644"
    assert result.host["secret"] == "of the host"


def test_the_run_folder_takes_sockets_and_nothing_else(cage):
    tried = cage.tried(
        """
        read: open(plan.connection_file).read() == '{"key": "k"}' or 1 / 0
        socket: socket.socket(socket.AF_UNIX).bind(plan.folder + "/good")
        write: open(plan.connection_file, "w")
        append: open(plan.connection_file, "a")
        unlink: os.unlink(plan.connection_file)
        rename over: (open("mine", "w"), os.rename("mine", plan.connection_file))
        rename away: os.rename(plan.connection_file, plan.folder + "/other")
        new file: open(plan.folder + "/new", "w")
        symlink: os.symlink("/etc", plan.folder + "/soft")
        hardlink: os.link(plan.connection_file, plan.folder + "/hard")
        fifo: os.mkfifo(plan.folder + "/fifo")
        folder: os.mkdir(plan.folder + "/folder")
        """
    )
    assert tried.pop("read") == "open"
    assert tried.pop("socket") == "open"
    all_refused(tried)


def test_the_host_finds_its_things_as_they_were(cage):
    result = cage.run(
        """
        import shutil
        for path in (plan.folder, outside, "/usr/local", "/"):
            shutil.rmtree(path, ignore_errors=True)
        print("{}")
        """
    )
    assert result.host["connection"] == '{"key": "k"}'
    assert result.host["run"] == ["kernel.json"]
    assert {"run", "scratch", "secret", "socket"} <= set(result.host["outside"])


def test_network_and_sockets(cage):
    all_refused(
        cage.tried(
            """
            tcp: socket.create_connection(("127.0.0.1", 22))
            listen: socket.socket().bind(("127.0.0.1", 0))
            udp: socket.socket(type=socket.SOCK_DGRAM)
            raw: socket.socket(type=socket.SOCK_RAW)
            tcp6: socket.socket(socket.AF_INET6)
            netlink: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
            vsock: socket.socket(40)
            packet: socket.socket(17, socket.SOCK_RAW)
            datagram: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            datagram pair: socket.socketpair(type=socket.SOCK_DGRAM)
            pathname: socket.socket(socket.AF_UNIX).connect(address)
            """
        )
    )


def test_abstract_sockets_of_the_host(cage, tmp_path):
    name = f"codevision-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        tried = cage.tried(f'abstract: socket.socket(socket.AF_UNIX).connect("\\0{name}")')
    assert tried["abstract"] in {*REFUSED, "ECONNREFUSED"}


def test_processes_and_the_kernel(cage):
    number = NUMBERS[platform.machine()]
    all_refused(
        cage.tried(
            f"""
            signal host: os.kill(host, 0)
            environ: open(f"/proc/{{host}}/environ").read()
            memory: open(f"/proc/{{host}}/mem").read(1)
            descriptors: os.listdir(f"/proc/{{host}}/fd")
            parent: open(f"/proc/{{os.getppid() or host}}/environ").read(1)
            ptrace: call({number["ptrace"]}, 16, host, 0, 0)
            read memory: call({number["readv"]}, host, 0, 0, 0, 0, 0)
            keys: call({number["keyctl"]}, 0, -3, 1)
            namespace: call({number["unshare"]}, 0x10000000)
            join: call({number["setns"]}, 0, 0)
            clone3: call({number["clone3"]}, 0, 0)
            mount: call({number["mount"]}, 0, 0, 0, 0, 0)
            io_uring: call({number["io_uring"]}, 1, 0)
            memfd: call({number["memfd"]}, b"x", 0)
            bpf: call({number["bpf"]}, 0, 0, 0)
            perf: call({number["perf"]}, 0, 0, 0, 0, 0)
            userfault: call({number["userfault"]}, 0)
            shared memory: call({number["shmget"]}, 0, 4096, 0o1600)
            handle: call({number["handle"]}, -100, 0, 0)
            unknown: call(5000)
            root: os.setuid(0)
            """
        )
    )


def test_it_cannot_outlive_its_parent_by_its_own_choice(cage):
    assert cage.tried("cancel: (lambda r: (_ for _ in ()).throw(OSError(1, '')) if r else 0)(libc.prctl(1, 0))") == {
        "cancel": "EPERM"
    }


def test_kill_everything_reaches_nothing_of_the_host(cage):
    result = cage.run(
        """
        import signal, subprocess, time
        child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=-1)
        child.stdout.readline()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if plan.level == "strong":
            try:
                os.kill(-1, signal.SIGTERM)
            except ProcessLookupError:
                pass
        else:
            child.terminate()
        print(child.wait(60))
        """
    )
    assert result.said == -15


def test_nothing_of_the_hosts_environment_or_descriptors_is_left(cage):
    result = cage.run(
        """
        left = [name for name in os.listdir("/proc/self/fd") if int(name) > 2]
        first = open("/proc/self/environ").read()
        print(json.dumps({"key": "hidden" in first or "SERVICE_API_KEY" in os.environ, "left": len(left)}))
        """
    )
    assert result.said == {"key": False, "left": 1}  # the listing's own


def test_no_capability_and_no_old_identity(cage):
    result = cage.run(
        """
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        print(json.dumps({name: status[name] for name in ("CapEff", "CapPrm", "NoNewPrivs", "Seccomp", "Groups", "Uid")}))
        """
    )
    said = result.said
    # to read an interpreter that only root may; Landlock says which files
    allowed = {0, 1 << 2} if cage.level == "medium" and cage.who == "root" else {0}
    assert int(said["CapEff"], 16) in allowed
    assert int(said["CapPrm"], 16) in allowed
    assert (said["NoNewPrivs"], said["Seccomp"], said["Groups"].strip()) == ("1", "2", "")
    assert "0" not in said["Uid"].split()
    if cage.who == "root" and os.geteuid() == 0:
        assert 60578 <= int(said["Uid"].split()[0]) <= 61183
