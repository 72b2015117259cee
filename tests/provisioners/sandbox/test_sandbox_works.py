"""What must still work in a cage, and how a process there ends."""

from __future__ import annotations

import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")


def test_programs_threads_asyncio_files(cage):
    result = cage.run(
        """
        import asyncio, shutil, subprocess, tempfile, threading
        async def echo():
            process = await asyncio.create_subprocess_exec("/bin/echo", "a", stdout=-1)
            return (await process.communicate())[0].decode()
        heard = []
        thread = threading.Thread(target=heard.append, args=(1,)); thread.start(); thread.join()
        open("a", "w").write("x")
        shutil.copy("a", "b")
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x")
        left, right = __import__("socket").socketpair()
        left.send(b"x")
        print(json.dumps([asyncio.run(echo()), heard, open("b").read(), right.recv(1).decode(),
                          subprocess.run("id -u | cat", shell=True, capture_output=True, text=True).stdout == f"{os.getuid()}\\n",
                          subprocess.run([sys.executable, "-c", "print(3)"], start_new_session=True, stdout=-1).stdout.decode()]))
        """
    )
    assert result.said == ["a\n", [1], "x", "x", True, "3\n"], result.wrong


def test_pools(cage):
    result = cage.run(
        """
        import multiprocessing
        try:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(json.dumps(pool.map(abs, [-1, 2])))
        except PermissionError:
            print(json.dumps("PermissionError"))
        """
    )
    assert result.said == ([1, 2] if cage.strong else "PermissionError"), result.wrong


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("os._exit(3)", {3}),
        ("import ctypes; ctypes.string_at(0)", {-signal.SIGSEGV}),
        ("os.abort()", {-signal.SIGABRT, -signal.SIGSEGV}),
        # process 1 cannot be killed from inside: the filter does it
        ("os.kill(os.getpid(), 9)", {-signal.SIGKILL, -signal.SIGSYS}),
        ("sys.exit(0)", {0}),
    ],
)
def test_it_ends_and_its_status_is_told(cage, code, status):
    result = cage.run(code)
    # bubblewrap tells a signal as 128 and its number
    told = {128 - one if one < 0 and cage.how == "bubblewrap" else one for one in status}
    assert result.status in told, result.wrong
