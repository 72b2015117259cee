"""What can be told of the vLLM server's manager without vLLM: flags, remedies, and that a guarded process ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import build_tiny

from kernel_agent.errors import InputError, ModelFailed
from kernel_agent.models import VLLMServer, vllm_flags
from kernel_agent.models.vllm_server import _GUARD


def test_flags_for_a_cpu_and_a_gpu(tmp_path: Path) -> None:
    path = str(build_tiny(tmp_path))
    options = {"served_name": "x", "host": "h", "port": 1, "images": 4, "max_model_len": None, "dtype": None}
    cpu = vllm_flags.arguments(path, gpu=False, extra=(), **options)  # type: ignore[arg-type]
    assert "--enforce-eager" in cpu
    assert cpu[cpu.index("--dtype") + 1] == "float32"
    assert cpu[cpu.index("--tool-call-parser") + 1] == "hermes"
    assert cpu[cpu.index("--chat-template-content-format") + 1] == "openai"
    gpu = vllm_flags.arguments(path, gpu=True, extra=("--dtype=half", "--no-enable-prefix-caching"), **options)  # type: ignore[arg-type]
    assert "--enforce-eager" not in gpu
    assert "--dtype" not in gpu
    assert "--enable-prefix-caching" not in gpu
    assert vllm_flags.environment(path, gpu=False)["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ("ModuleNotFoundError: No module named 'vllm'", "--python"),
        ("OSError: [Errno 98] Address already in use", "--port"),
        ("torch.OutOfMemoryError: CUDA out of memory", "memory"),
        ("Model architectures ['X'] are not supported for now", "architecture"),
        ("ValueError: Head size 8 is not supported", "head size"),
        ("api_server.py: error: unrecognized arguments: --x", "flag"),
        ("exit code 137", "memory"),
    ],
)
def test_a_failure_names_its_remedy(log: str, word: str) -> None:
    assert word in vllm_flags.remedy(log)


def test_a_taken_port_and_an_interpreter_without_vllm(tmp_path: Path) -> None:
    path = build_tiny(tmp_path / "tiny")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be used"):
            VLLMServer(path, port=taken.getsockname()[1]).__enter__()
    with pytest.raises(ModelFailed, match=r"(?s)no vLLM.*its end:.*vllm"):
        VLLMServer(path, python=sys.executable, log=tmp_path / "log").__enter__()


def test_a_guarded_process_ends_with_its_owner(tmp_path: Path) -> None:
    """The owner is killed; the command, and a child that left its process group, are gone soon after."""
    note = tmp_path / "pids"
    child = f"import os, time; open({str(note)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    command = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); {child}"
    )
    owner_code = (
        "import os, subprocess, sys, time\n"
        "r, w = os.pipe()\n"
        f"subprocess.Popen([sys.executable, {str(_GUARD)!r}, str(r), sys.executable, '-c', {command!r}], pass_fds=(r,), start_new_session=True)\n"
        "os.close(r); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", owner_code])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not note.exists() or len(note.read_text().splitlines()) < 2):
        time.sleep(0.05)
    pids = [int(line) for line in note.read_text().splitlines()]
    assert len(pids) == 2
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
