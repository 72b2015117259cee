"""What a cell that displays a picture costs: `python -m perf.display --json OUT`.

The cell is `display(photo)` of a 1024x768 RGB photo; CPU is that of the kernel's process (all threads) and of this one.
Stock is ipykernel with jupyter_client over TCP: it sends PNG and JPEG as base64, and its client here only reads the messages.
Ours is a `Session` (hooks, lineage, pixels hashed, file encoded: all of what `KernelImage` holds). A `KernelImage` makes its
file when it is first asked for; only `display_client_ratio_held` does not ask.

| figure | what it is | goal |
|---|---|---|
| display_cpu_ratio_lossless | stock / ours, kernel + client, CPU | 2.5 |
| display_cpu_ratio_lossy | the same, JPEG in notebook and view | 5 |
| display_client_ratio_lossless, _lossy | ours / stock, client alone | 0.7 |
| display_client_ratio_held | the same, the file not asked for (a replay, an original shown scaled down): hash only | 0.7 |
| display_client_decoded_ratio_lossless, _lossy | the same where stock's client also turns base64 into the PNG's bytes | |
| png_ratio_photo, png_ratio_text | Pillow's level 1 / `write_png`, CPU | |
| png_size_photo, png_size_text | `write_png` / Pillow's level 1, bytes | 1.15 |

Ratios are medians over cells run in turn; milliseconds and `load` are of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kernel_agent import Budget, Session
from kernel_agent.session.png import write_png
from kernel_agent.types import ImageEncoding
from perf.stock import manager, run

SIZE = (1024, 768)


def photo(size: tuple[int, int] = SIZE) -> Image.Image:
    """Shapes of all scales with the noise of a sensor; as a PNG it takes about two thirds of its pixels' bytes."""
    rng = np.random.default_rng(0)
    total = np.zeros((size[1], size[0], 3), np.float32)
    for cells, strength in ((4, 60), (16, 30), (64, 12)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells * 3 // 4, cells, 3), np.uint8))
        total += (np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32) - 128) * (strength / 128)
    noisy = 128 + total + rng.normal(0, 4, total.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def page(size: tuple[int, int] = SIZE) -> Image.Image:
    """A page full of small text."""
    rng = np.random.default_rng(1)
    image = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for top in range(0, size[1], 18):
        line = "".join(map(chr, rng.integers(97, 123, size[0] // 7)))
        draw.text((4, top), line, fill=(20, 20, 60), font=font)
    return image


def kernel_cpu(pid: int) -> float:
    """Seconds that the threads of a process have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


async def cost(pid: int, cell: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """CPU seconds of the kernel and of this process for one cell."""
    kernel, client = kernel_cpu(pid), time.process_time()
    await cell()
    client = time.process_time() - client
    return kernel_cpu(pid) - kernel, client


async def display(rounds: int) -> dict[str, float]:
    """The display_* figures."""
    picture = photo()
    enough = Budget(images=rounds + 10)
    lossy_files = ImageEncoding(notebook="jpeg", view="jpeg")
    costs: dict[str, list[tuple[float, float]]] = {"stock": [], "decoded": [], "lossless": [], "lossy": [], "held": []}
    with tempfile.TemporaryDirectory(prefix="cv-") as folder:
        path = Path(folder) / "photo.png"
        picture.save(path)
        async with (
            manager() as (held, client),
            Session([picture], budget=enough) as exact,
            Session([picture], budget=enough, encoding=lossy_files) as lossy,
            Session([picture], budget=enough) as keeper,
        ):
            await run(client, f"from PIL import Image\nphoto = Image.open({str(path)!r})\nphoto.load()")

            async def stock() -> None:
                found = await run(client, "display(photo)")
                assert any("image/png" in message["content"].get("data", {}) for message in found)

            async def decoded() -> None:
                for message in await run(client, "display(photo)"):
                    if file := message["content"].get("data", {}).get("image/png"):
                        assert base64.b64decode(file)[:4] == b"\x89PNG"

            def ours(session: Session, *, files: bool = True) -> Callable[[], Awaitable[None]]:
                async def cell() -> None:
                    (image,) = (await session.arun("display(image_0)")).images
                    assert not files or (image.data and image.view)

                return cell

            cells = {
                "stock": stock,
                "decoded": decoded,
                "lossless": ours(exact),
                "lossy": ours(lossy),
                "held": ours(keeper, files=False),
            }
            pids = {"stock": held.provisioner.pid, "decoded": held.provisioner.pid}
            for name, session in (("lossless", exact), ("lossy", lossy), ("held", keeper)):
                assert session._channel is not None
                assert session._channel.pid is not None
                pids[name] = session._channel.pid
            for number in range(rounds + 3):
                for name, cell in cells.items():
                    spent = await cost(pids[name], cell)
                    if number >= 3:
                        costs[name].append(spent)
    figures: dict[str, float] = {}
    for name in ("lossless", "lossy"):
        pairs = list(zip(costs["stock"], costs["decoded"], costs[name], strict=True))
        figures[f"display_cpu_ratio_{name}"] = statistics.median(sum(a) / sum(c) for a, _, c in pairs)
        figures[f"display_client_ratio_{name}"] = statistics.median(c[1] / a[1] for a, _, c in pairs)
        figures[f"display_client_decoded_ratio_{name}"] = statistics.median(c[1] / b[1] for _, b, c in pairs)
    figures["display_client_ratio_held"] = statistics.median(
        ours[1] / stock[1] for stock, ours in zip(costs["stock"], costs["held"], strict=True)
    )
    for name, found in costs.items():
        for which, values in zip(("kernel", "client"), zip(*found, strict=True), strict=True):
            figures[f"display_{name}_{which}_ms"] = statistics.median(values) * 1e3
    return figures


def png(rounds: int) -> dict[str, float]:
    """The png_* figures."""
    figures: dict[str, float] = {}
    for name, picture in (("photo", photo()), ("text", page())):
        pixels = picture.tobytes()
        ratios, sizes = [], (1, 1)
        for _ in range(rounds):
            began = time.process_time()
            file = io.BytesIO()
            picture.save(file, "PNG", compress_level=1)
            between = time.process_time()
            written = write_png(picture.mode, picture.size, pixels)
            ratios.append((between - began) / (time.process_time() - between))
            sizes = len(written), len(file.getvalue())
        figures[f"png_ratio_{name}"] = statistics.median(ratios)
        figures[f"png_size_{name}"] = sizes[0] / sizes[1]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    figures: dict[str, Any] = {"load": [os.getloadavg()[0]]}
    figures |= png(max(3, options.rounds // 3))
    figures |= asyncio.run(display(options.rounds))
    figures["load"].append(os.getloadavg()[0])
    for name, value in figures.items():
        print(f"{name:38} {value if isinstance(value, list) else format(value, '10.3f')}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
