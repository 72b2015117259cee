"""A real JupyterLab or Notebook server with everything of its own (folders, settings, port, token), and a real Chromium."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import nbformat
from playwright.sync_api import Browser, Page, expect, sync_playwright

SECONDS = 60
"""How long a page may take over anything, where a test says nothing else."""

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"]


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A server that is up."""

    url: str
    token: str
    root: Path
    settings: Path
    log: Path

    def api(self, path: str) -> Any:
        """An answer of the extension's interface."""
        with self.client() as client:
            return client.get(f"/codevision/api/{path}").raise_for_status().json()

    def client(self) -> httpx.Client:
        """A client that may do what the page may."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"token {self.token}"}, timeout=SECONDS)

    def set(self, plugin: str, **values: Any) -> None:
        """Write a user's settings of a plugin, as `@scope/package:name`."""
        package, name = plugin.split(":")
        file = self.settings / package / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))

    def notebook(self, name: str, *cells: Any) -> str:
        """Write a notebook for the ordinary Python kernel; its name."""
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": kernel})
        nbformat.write(notebook, self.root / name)
        return name

    def events(self, run: str, until: str = "answer") -> list[dict[str, Any]]:
        """The events of a run, up to the last one there is after the first of type `until`."""
        found: list[dict[str, Any]] = []
        with self.client() as client, client.stream("GET", f"/codevision/api/runs/{run}/events?after=-1") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                    if found[-1]["type"] == until:
                        return found
        return found


@contextmanager
def running(
    folder: Path, *, app: str = "jupyterlab", env: Mapping[str, str] = {}, python: str | None = None
) -> Iterator[Lab]:
    """`app` is the module to start: jupyterlab or notebook; `python` that of the environment, CODEVISION_LAB_PYTHON or this one."""
    with TemporaryDirectory(prefix="lab", ignore_cleanup_errors=True) as short:
        with _running(
            folder, short, app, env, python or os.environ.get("CODEVISION_LAB_PYTHON", sys.executable)
        ) as lab:
            yield lab


@contextmanager
def _running(folder: Path, short: str, app: str, env: Mapping[str, str], python: str) -> Iterator[Lab]:
    """Its kernels listen on sockets in the folder `short`: a TCP port might be another's before the kernel has taken it."""
    port = free_port()
    root, settings, log = folder / "root", folder / "settings", folder / "server.log"
    root.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(16)
    lab = Lab(url=f"http://127.0.0.1:{port}", token=token, root=root, settings=settings, log=log)
    lab.set("@jupyterlab/apputils-extension:notification", fetchNews="false", checkForUpdates=False)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "CODEVISION"))},
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": short,
        "IPYTHONDIR": str(folder / "ipython"),
        "XDG_CONFIG_HOME": str(folder / "xdg"),  # whoever runs this may have a key
        "PYTHONUNBUFFERED": "1",
        **env,
    }
    command = [
        python, "-m", app, "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0",
        "--KernelManager.transport=ipc", f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True",
        f"--LabApp.user_settings_dir={settings}", f"--LabApp.workspaces_dir={folder / 'workspaces'}",
        f"--JupyterNotebookApp.user_settings_dir={settings}", f"--JupyterNotebookApp.workspaces_dir={folder / 'workspaces'}",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(lab, process)
        yield lab
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that is free, below those that the system gives to whoever asks for any: nobody has it before the server."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _wait(lab: Lab, process: subprocess.Popen[bytes], seconds: float = 2 * SECONDS) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{lab.url}/api", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the server is not up after {seconds} s; its log:\n{lab.log.read_text()}")


def ready(page: Page, app: str = "lab") -> None:
    """Wait until a page of JupyterLab or Notebook has come up: what it opens by itself (which takes the focus and closes
    menus) is there, and so are the items of its menus and the keys, which it loads after its parts."""
    page.wait_for_function("window.jupyterapp")
    page.evaluate("() => window.jupyterapp.restored.then(() => null)")
    page.wait_for_function(
        "() => window.jupyterapp.contextMenu._items.some(item => item.command === 'codevision:ask-file')"
        " && window.jupyterapp.commands.keyBindings.length > 20"
    )
    if app == "lab":
        page.wait_for_function("() => window.jupyterapp.shell.currentWidget !== null")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or another that CHROMIUM names; a missing one is an error, with the remedy."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise RuntimeError("there is no Chromium: apt install chromium, or set CHROMIUM to its path")
    expect.set_options(timeout=1000 * SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, headless=True, timeout=2000 * SECONDS)
        try:
            yield browser
        finally:
            browser.close()
