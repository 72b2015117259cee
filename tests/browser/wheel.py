"""Is a wheel lean, and does it hold what it must? `python tests/browser/wheel.py dist/*.whl` prints its size, or what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from zipfile import ZipFile

MOST_MIB = 12.0
"""Most of it is the embedded model."""
PANEL_MOST_KIB = 400
DATA = "data/share/jupyter/labextensions/@kernel-agent/jupyterlab"


def check(wheel: Path) -> str:
    """A line on the wheel. AssertionError says what it lacks or has too much of."""
    with ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
        root = next(name.split("/")[0] for name in sizes if ".data/" in name) + "/"
        names = {name.removeprefix(root) for name in sizes}
        package = json.loads(archive.read(f"{root}{DATA}/package.json"))
        load = package["jupyterlab"]["_build"]["load"]
        for needed in (
            f"{DATA}/{load}",
            f"{DATA}/install.json",
            f"{DATA}/schemas/@kernel-agent/jupyterlab/panel.json",
            "data/etc/jupyter/jupyter_server_config.d/kernel_agent.json",
            "data/share/jupyter/kernels/codevision/kernel.json",
        ):
            assert needed in names, f"{wheel.name} has no {needed}"
        for name in names:
            assert not name.startswith(("kernel_agent/labextension", "extensions/", "tests/")), (
                f"{wheel.name} has {name}"
            )
            assert "node_modules" not in name, f"{wheel.name} has {name}"
            assert not name.endswith((".map", ".ts", ".tsx")), f"{wheel.name} has {name}"
        panel = sum(size for name, size in sizes.items() if DATA in name) / 1024
        entries = [name for name in names if "/static/remoteEntry." in name]
        assert len(entries) == 1, f"{wheel.name} holds more than one build of the panel: {entries}"
    mib = wheel.stat().st_size / 2**20
    assert panel < PANEL_MOST_KIB, f"the panel takes {panel:.0f} KiB; at most {PANEL_MOST_KIB} are thought lean"
    assert mib < MOST_MIB, f"{wheel.name} has {mib:.1f} MiB; at most {MOST_MIB} are thought lean"
    return f"{wheel.name}: {mib:.2f} MiB, of these the panel {panel:.0f} KiB unpacked; lean, and nothing is missing"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(check(Path(argument)))
