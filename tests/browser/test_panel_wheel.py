"""The built wheel in clean environments: what a user gets from `pip install`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.labs import running
from tests.browser.panel import Panel
from tests.browser.stories import sample
from tests.browser.wheel import check

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def wheel(request: pytest.FixtureRequest) -> Path:
    """What `make wheel` has built."""
    found = sorted((Path(request.config.rootpath) / "dist").glob("*.whl"))
    assert found, "there is no wheel: make wheel"
    return found[-1]


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, its [lab] extra and Notebook; Node is not on its path."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    pip(folder / "bin", "install", f"{wheel}[lab]", "notebook>=7.4")
    return folder / "bin"


def pip(where: Path, *arguments: str) -> None:
    done = subprocess.run(
        [where / "python", "-m", "pip", "-q", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def jupyter(where: Path, *arguments: str) -> str:
    """What a command prints, without colours."""
    environment = {**os.environ, "PATH": f"{where}:/usr/bin:/bin"}
    done = subprocess.run([where / "jupyter", *arguments], env=environment, capture_output=True, text=True, check=False)
    return re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)


def test_the_wheel_is_lean_and_whole(wheel: Path) -> None:
    print("\n" + check(wheel))


@pytest.mark.parametrize("where", ["labextension", "server extension"])
def test_jupyter_lists_the_extension_as_ok(clean: Path, where: str) -> None:
    listed = jupyter(clean, *where.split(), "list")
    line = next(line for line in listed.splitlines() if re.search("kernel.agent", line) and "OK" in line)
    print(f"\n{line.strip()}")


@pytest.mark.parametrize(("app", "path"), [("jupyterlab", "lab"), ("notebook", "tree")])
def test_the_panel_comes_up_from_the_wheel(
    clean: Path, tmp_path: Path, visit: Callable[..., Page], app: str, path: str
) -> None:
    with running(tmp_path, app=app, python=str(clean / "python")) as lab:
        sample(lab.root / "parcel.png")
        page = visit(at=lab, app=path)
        if app == "jupyterlab":
            Panel(page=page, lab=lab).choose()
        else:
            page.locator(".jp-DirListing-item", has_text="parcel.png").click(button="right")
            expect(page.locator(".lm-Menu-item", has_text="Ask CodeVision")).to_be_visible()
        assert lab.api("status")["isolation"].keys() == {"level", "why"}


def test_a_server_goes_on_where_the_extension_cannot_be_imported(wheel: Path, tmp_path: Path) -> None:
    """An environment with a Jupyter server, and ours without what it needs: a warning, and a server."""
    venv.create(tmp_path / "bare", with_pip=True)
    pip(tmp_path / "bare/bin", "install", "jupyter_server")
    pip(tmp_path / "bare/bin", "install", "--no-deps", str(wheel))
    with running(tmp_path / "run", app="jupyter_server", python=str(tmp_path / "bare/bin/python")) as lab:
        assert httpx.get(f"{lab.url}/api").status_code == 200
        assert "kernel_agent" in lab.log.read_text()


def test_a_clone_is_installed_without_node(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """As pip builds it, from a copy that has no built panel, with a path on which there is no Node."""
    root = Path(request.config.rootpath)
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, files.stdout.split("\0")):
        if name.startswith(("kernel_agent/", "extensions/")) or "/" not in name:
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "clone" / name).write_bytes((root / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "-w", tmp_path / "dist", tmp_path / "clone"]
    done = subprocess.run(command, env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The JupyterLab panel is not built" in done.stdout + done.stderr
    assert "make panel" in done.stdout + done.stderr
    (built,) = (tmp_path / "dist").glob("*.whl")
    with pytest.raises(KeyError):
        check(built)
