"""The installed kernelspec, as any Jupyter front end runs it: default transport, connection file of the runtime folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupyter_kernel_test
import pytest
from ipykernel.iostream import IOPubThread
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_kernel_test.msgspec_v5 import validate_message

from kernel_agent.provisioners.zygote import close_parents, parents, report
from kernel_agent.session.channel import _Specs

MODES: dict[str, dict[str, Any]] = {
    "plain": {"isolation": "none", "fork": False},
    "forked": {"isolation": "none", "fork": True},
    "strong": {"isolation": "strong", "fork": False},
    "strong-forked": {"isolation": "strong", "fork": True},
}
NAME = "codevision"


@pytest.fixture(scope="module", autouse=True)
def specs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`codevision-MODE`: the installed spec with other settings of its provisioner."""
    close_parents()  # those of tests before, which may have failed to be warm
    folder = tmp_path_factory.mktemp("jupyter")
    installed = Path(KernelSpecManager().get_kernel_spec(NAME).resource_dir)
    for mode, config in MODES.items():
        spec = json.loads((installed / "kernel.json").read_text())
        spec["metadata"]["kernel_provisioner"]["config"] = config
        target = folder / "kernels" / f"{NAME}-{mode}"
        target.mkdir(parents=True)
        (target / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield
    close_parents()


class Ours:
    """What the kernel does. It keeps no history, so those requests find nothing."""

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oh', file=sys.stderr)"
    completion_samples = (
        {"text": "zi", "matches": ["zip"]},
        {"text": "import kernel_agent.sess", "matches": ["kernel_agent.session"]},
    )
    complete_code_samples = ("1", "print('hello')", "def f(x):\n    return x\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):", "for x in range(3):\n    x")
    invalid_code_samples = ("import = 7q", "1 2")
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('no')"
    code_execute_result = (
        {"code": "1 + 2", "result": "3"},
        {"code": "[n * n for n in range(3)]", "result": "[0, 1, 4]"},
        {"code": "from PIL import Image; Image.new('RGB', (3, 2))", "mime": "image/png"},
    )
    code_display_data = (
        {"code": "from PIL import Image; display(Image.new('RGB', (3, 2)))", "mime": "image/png"},
        {"code": "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()", "mime": "image/png"},
        {"code": "display({'application/x-own+json': 1}, raw=True)", "mime": "application/x-own+json"},
    )
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    support_iopub_welcome = hasattr(IOPubThread, "_handle_subscription")  # from ipykernel 7.2 on

    def execute_helper(self: Any, code: str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Upstream's, which gives each message 0.1 s and takes one that is late for the next test's."""
        sent = self.kc.execute(code=code, **options)
        reply = self.get_non_kernel_info_reply(timeout=60)
        validate_message(reply, "execute_reply", sent)
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["content"].get("execution_state") != "idle":
            message = self.kc.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == sent:
                validate_message(message, message["msg_type"], sent)
                heard.append(message)
        assert heard[0]["content"]["execution_state"] == "busy"
        assert [one["content"]["code"] for one in heard if one["msg_type"] == "execute_input"] == [code]
        return reply, [one for one in heard if one["msg_type"] not in ("status", "execute_input")]


class TestPlain(Ours, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "codevision-plain"

    def test_it_is_of_its_mode(self) -> None:
        assert self.km.provisioner.why_not_forked == "forking is switched off"


class TestPlainWelcome(Ours, jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    kernel_name = "codevision-plain"


def until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < 60
        time.sleep(0.02)


def warm_up() -> None:
    """The first kernel of a process is an ordinary one: have it behind us."""
    with Running("forked"):
        until(lambda: " warm" in report().detail)


needs_fork = pytest.mark.skipif(bool(parents.unsupported()), reason="no fork server on this system")


@needs_fork
class TestForked(Ours, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "codevision-forked"

    @classmethod
    def setUpClass(cls) -> None:
        warm_up()
        super().setUpClass()

    def test_it_is_of_its_mode(self) -> None:
        assert self.km.provisioner.why_not_forked == ""


class TestStrong(Ours, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "codevision-strong"

    def test_it_is_of_its_mode(self) -> None:
        provisioner = self.km.provisioner
        assert (provisioner.level, provisioner.why_not_forked) == ("strong", "forking is switched off")


class TestStrongForked(Ours, jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "codevision-strong-forked"

    @classmethod
    def setUpClass(cls) -> None:
        warm_up()
        super().setUpClass()

    def test_it_is_of_its_mode(self) -> None:
        assert (self.km.provisioner.level, self.km.provisioner.why_not_forked) == ("strong", "")


@needs_fork
class TestForkedWelcome(Ours, jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    kernel_name = "codevision-forked"


class Running:
    """A kernel of a mode and a client of it, as a front end has them."""

    def __init__(self, mode: str, **launch: Any) -> None:
        self.manager: Any = KernelManager(kernel_name=f"{NAME}-{mode}")
        self.launch = launch

    def __enter__(self) -> Running:
        self.manager.start_kernel(**self.launch)
        self.client: Any = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        return self

    def __exit__(self, *failure: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def said(self, code: str) -> str:
        """What a cell prints."""
        out: list[str] = []
        self.client.execute_interactive(code, timeout=60, output_hook=lambda message: out.append(_text(message)))
        return "".join(out)


def _text(message: Any) -> str:
    content = message["content"]
    return str(content.get("text", content.get("ename", "")))


@pytest.fixture(params=[pytest.param("plain"), pytest.param("forked", marks=needs_fork)])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    if request.param == "forked":
        warm_up()
    with Running(request.param) as kernel:
        assert (kernel.manager.provisioner.why_not_forked == "") == (request.param == "forked")
        yield kernel


def test_jupyter_lists_it() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"], check=True, capture_output=True, text=True
    )
    spec = json.loads(said.stdout)["kernelspecs"][NAME]["spec"]
    assert "CodeVision" in spec["display_name"]
    assert "sandbox" in spec["display_name"]
    assert spec["argv"][1:] == _Specs().get_kernel_spec(NAME).argv[1:]


def test_it_meets_its_host_in_a_folder_of_its_own(running: Running) -> None:
    file = Path(running.manager.connection_file)
    info = json.loads(file.read_text())
    whole = running.manager.provisioner.run_folder.path
    folder = running.manager.provisioner.run_folder.meeting
    assert file.parent != folder  # it stays where front ends look
    assert info["transport"] == "ipc"
    assert Path(info["ip"]).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert json.loads((folder / "kernel.json").read_text()) == info
    assert (folder / "kernel.json").stat().st_mode & 0o777 == 0o600
    assert running.said("import sys; print(sys.argv[-1])").strip() == str(folder / "kernel.json")
    running.manager.shutdown_kernel()
    assert not whole.exists()
    assert not file.exists()


def test_a_restart_keeps_the_addresses_and_nothing_else(running: Running) -> None:
    folder = running.manager.provisioner.run_folder.meeting
    kept = Path(__file__).read_bytes()
    victim = folder.parent.with_name(f"{folder.parent.name}-victim")
    victim.write_bytes(kept)
    try:
        for now in (True, False):
            running.said(f"x = 1; import os; os.remove({str(folder / 'kernel.json')!r})")
            running.said(f"os.symlink({str(victim)!r}, {str(folder / 'kernel.json')!r})")
            before = running.manager.get_connection_info()
            running.manager.restart_kernel(now=now)
            assert running.manager.get_connection_info() == before
            running.client.wait_for_ready(timeout=120)
            assert "NameError" in running.said("x")
            assert running.said("print(2)") == "2\n"
        assert victim.read_bytes() == kept  # the kernel's link was not written through
    finally:
        victim.unlink()


def test_a_kernel_that_died_is_restarted_at_the_same_addresses(running: Running) -> None:
    running.client.execute("import os; os._exit(1)")
    until(lambda: not running.manager.is_alive())
    running.manager.restart_kernel(now=True)
    running.client.wait_for_ready(timeout=120)
    assert running.said("print(3)") == "3\n"


def test_interrupt(running: Running) -> None:
    sent = running.client.execute("print('in', flush=True); import time; time.sleep(1e6)", stop_on_error=False)
    while running.client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    running.manager.interrupt_kernel()
    reply = running.client.get_shell_msg(timeout=60)
    while reply["parent_header"]["msg_id"] != sent:
        reply = running.client.get_shell_msg(timeout=60)
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert running.said("print(4)") == "4\n"


def test_no_secret_of_the_front_end_gets_in(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_API_KEY", "sk-secret")
    running.manager.restart_kernel(env=dict(os.environ))
    running.client.wait_for_ready(timeout=120)
    assert running.said("import os; print([*os.environ])").count("PATH")
    assert running.said("import os; print('OWN_API_KEY' in os.environ)") == "False\n"
    assert running.said("print(os.environ['IPYTHONDIR'])").startswith(str(running.manager.provisioner.run_folder.path))


@pytest.mark.skipif(not shutil.which("setsid"), reason="no setsid")
def test_a_kernel_behind_a_launcher_that_stays_is_the_one_interrupted() -> None:
    """As behind a sandbox's launcher, which dies of the signal, and its kernel with it."""
    kernel = Running("plain")
    spec = kernel.manager.kernel_spec
    spec.argv[:] = ["/bin/sh", "-c", 'setsid --wait "$@"; exit $?', "sh", *spec.argv]
    spec.argv[spec.argv.index("python")] = sys.executable
    with kernel:
        launched = kernel.manager.provisioner.pid
        own = int(kernel.said("import os; print(os.getpid())"))
        assert own != launched
        test_interrupt(kernel)
        assert kernel.manager.is_alive()
        # a link to another's socket: not believed
        info = kernel.manager.get_connection_info()
        shell = Path(f"{info['ip']}-{info['shell_port']}")
        with Running("plain") as other:
            theirs = other.manager.get_connection_info()
            shell.unlink()
            shell.symlink_to(f"{theirs['ip']}-{theirs['shell_port']}")
            kernel.manager.shutdown_kernel(now=True)
            assert other.said("print(5)") == "5\n"
    until(lambda: not Path(f"/proc/{own}").exists())  # it saw its launcher go
