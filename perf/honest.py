"""Honest runs of varied code, made with the scripted model and real kernels: for `perf.audit` and `perf.tamper`."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kernel_agent import Agent, Budget, KernelOptions, KernelPool, Task
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.types import ImageEncoding

CELLS = (
    "image_0.rotate({n}, expand=True)",
    "image_0.crop(({n}, 3, {n} + 60, 50))",
    "image_0.crop(({n}, 3, {n} + 60, 50)).resize((240, 188))",
    "ImageOps.autocontrast(image_0)",
    "ImageEnhance.Contrast(image_0).enhance(1.{n})",
    "small = image_0.resize((64, 48))\nsmall.transpose(Image.Transpose.ROTATE_90)",
    "draw = ImageDraw.Draw(image_0)\ndraw.rectangle((5, 5, {n} + 20, 40), outline='red')\nimage_0",
    "import cv2\ngrey = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2GRAY)\ncv2.Canny(grey, {n}, 200)",
    "import cv2\ncv2.GaussianBlur(np.array(image_0), (5, 5), 1.5)",
    "import cv2\nM = cv2.getRotationMatrix2D((60, 45), {n}, 1.2)\nImage.fromarray(cv2.warpAffine(np.array(image_0), M, (120, 90)))",
    "import cv2\ngrey = cv2.cvtColor(np.array(image_0), cv2.COLOR_RGB2GRAY)\n_, mask = cv2.threshold(grey, {n} + 60, 255, cv2.THRESH_OTSU)\ncounts = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]\nlen(counts)",
    "a = np.asarray(image_0).astype(float)\nprint(a.mean(), a.std(axis=(0, 1)))\nprint(np.linalg.svd(a[:, :, 0])[1][:5])",
    "np.fft.fft2(np.asarray(image_0)[:, :, 1])[:2, :2]",
    "plt.figure(figsize=(3, 2))\nplt.hist(np.asarray(image_0).ravel(), bins=20)\nplt.title('t{n}')\nplt.show()",
    "fig, axes = plt.subplots(1, 2, figsize=(4, 2))\naxes[0].imshow(image_0)\naxes[1].plot([1, {n}, 4])\nplt.show()",
    "plt.plot(np.random.rand({n}))\nplt.show()",
    "import random\nrandom.shuffle(items := list(range({n})))\nprint(items, random.random(), np.random.normal(size=3))",
    "rng = np.random.default_rng({n})\nImage.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))",
    "print({{'b{n}', 'a', 'c', 'd', 'e'}}, hash('x{n}'))",
    "import time\nstart = time.time()\ntotal = sum(i * i for i in range(20000))\nprint(total)\nprint(f'took {{time.time() - start:.4f}} s at', time.strftime('%Y-%m-%d %H:%M:%S'))",
    "print(object(), lambda: 1)\nclass Thing: pass\nThing()",
    "1 / ({n} - {n})",
    "def outer(x):\n    return inner(x)\ndef inner(x):\n    return [1, 2][x]\nouter({n})",
    "image_0.crop((0, 0, 5, 5)).resize((0, {n}))",
    "Image.open('missing{n}.png')",
    "np.zeros((3, 4)) @ np.zeros((5, {n}))",
    "import warnings\nwarnings.warn('careful {n}')\nprint('done')",
    "import sys\nprint('out {n}')\nprint('err', file=sys.stderr)\ndisplay(image_0.resize((20, 20)))\nprint('after')",
    "for i in range({n}):\n    print(i, 'x' * i)",
    "print('y' * 30000)",
    "display(image_0, image_0.convert('L'))\n{n}",
    "[image_0.crop((0, 0, 30, 30)), image_0.crop((30, 0, 60, 30))]",
    "memory = globals().get('memory', 0) + {n}\nmemory",
    "import tempfile, os\npath = tempfile.mkdtemp()\nprint(os.path.basename(path)[:3], path)",
    "open('note.txt', 'a').write('line {n}\\n')\nprint(open('note.txt').read())",
    "import os\nos.system('echo child {n}')\nprint(os.getcwd())",
    "syntax error {n}",
    "result = image_0.convert('L').point(lambda v: 255 if v > {n} else 0)",
    "{{'mean': np.float32({n}) / 3, 'list': [0.1 + 0.2] * 3}}",
    "%timeit -n 10 -r 2 sum(range(100))",
    "import uuid\nlen(str(uuid.uuid4()))",
    "images[-1].size, len(images)",
)
SLOW = "x = np.random.default_rng({n}).random((700, 700))\nfor _ in range(60):\n    x = x @ x\n    x /= x.max()\nprint(x.sum())"
STOPPED = ("while True:\n    pass", "import os\nos._exit(3)", "import time\ntime.sleep(60)")


def picture(number: int) -> Image.Image:
    """120x90: shapes of chance, some noise."""
    rng = random.Random(number)
    image = Image.new("RGB", (120, 90), (rng.randrange(256), rng.randrange(256), 90))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.randrange(90), rng.randrange(60)
        draw.ellipse((x, y, x + 30, y + 25), fill=(rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    noise = np.random.default_rng(number).integers(0, 8, (90, 120, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(image) // 2 + noise)


def codes(number: int, *, stops: bool = True) -> list[str]:
    """The cells of run `number`: three to seven; one run in ten has a cell that is stopped or ends its kernel."""
    rng = random.Random(1000 + number)
    found = [rng.choice(CELLS).format(n=rng.randrange(2, 40)) for _ in range(rng.randrange(3, 8))]
    if stops and number % 10 == 9:
        found.insert(rng.randrange(len(found) + 1), STOPPED[number // 10 % len(STOPPED)])
    return found


async def make(folder: Path, count: int, *, kernel: KernelOptions = KernelOptions(), jobs: int = 2) -> list[Path]:
    """`count` saved runs; every seventh has lossy images."""
    paths = [folder / f"run-{number:04}.ipynb" for number in range(count)]
    waiting = iter(enumerate(paths))
    async with KernelPool(jobs, kernel=kernel) as pool:

        async def work() -> None:
            for number, path in waiting:
                await make_one(path, codes(number), number, pool=pool, jpeg=number % 7 == 6)

        await asyncio.gather(*(work() for _ in range(jobs)))
    return paths


async def make_one(
    path: Path, cells: list[str], number: int = 0, *, pool: KernelPool | None = None, jpeg: bool = False
) -> None:
    """One saved run of these cells."""
    replies = [f"I look.\n```python\n{code}\n```" for code in cells]
    agent = Agent(
        ScriptedModel([*replies, "<answer>7</answer>"]),
        protocol="fenced",
        budget=Budget(steps=len(cells) + 1, cell_seconds=3.0 if number % 10 == 9 else 60.0),
        encoding=ImageEncoding(notebook="jpeg", view="jpeg") if jpeg else ImageEncoding(),
        pool=pool,
    )
    await agent.arun(Task(question="How many?", images=(picture(number),)), save_to=path, force=True)
