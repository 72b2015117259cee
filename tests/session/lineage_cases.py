"""Ground truth for lineage: white discs are planted in the input one at a time; where the output changes is where they went."""

import functools
import random
import sys
import types

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from kernel_agent.session import lineage

WIDTH, HEIGHT = 240, 180
DISCS = [(80, 60), (150, 66), (90, 118)]
"""Centres, not on a line, so that they settle an affine; every snippet below keeps the region around them in its result."""


@functools.lru_cache(maxsize=8)
def texture(seed):
    """Dark pixels with structure at every scale, different everywhere."""
    rng = np.random.default_rng(seed)
    values = np.zeros((HEIGHT, WIDTH, 3))
    for cells, weight in ((4, 30), (12, 25), (40, 20)):
        grid = rng.random((cells, cells, 3))
        x, y = np.linspace(0, cells - 1.001, WIDTH), np.linspace(0, cells - 1.001, HEIGHT)[:, None]
        i, j = x.astype(int), y.astype(int)
        u, v = (x - i)[..., None], (y - j)[..., None]
        above = grid[j, i] * (1 - u) + grid[j, i + 1] * u
        values += weight * (above * (1 - v) + (grid[j + 1, i] * (1 - u) + grid[j + 1, i + 1] * u) * v)
    values += rng.integers(0, 8, values.shape)
    values[100:104, 112:116], values[100:104, 106:110] = 255, 0  # so that a disc changes no extreme
    return values.clip(0, 255).astype(np.uint8)


def scene(seed=5, disc=None):
    """A picture of this texture; with a white disc where asked for."""
    values = texture(seed).copy()
    if disc is not None:
        x, y = disc
        values[np.hypot(*np.meshgrid(np.arange(WIDTH) + 0.5 - x, np.arange(HEIGHT) + 0.5 - y)) <= 7] = 255
    return Image.frombytes("RGB", (WIDTH, HEIGHT), values.tobytes())


def run(code, *inputs):
    """Run a snippet as a notebook cell (in `__main__`) and return (result, origin of result)."""
    import cv2

    main = types.ModuleType("__main__")
    names = {f"image_{index}": image for index, image in enumerate(inputs)}
    vars(main).update(
        {"np": np, "cv2": cv2, "Image": Image, "ImageOps": ImageOps, "ImageFilter": ImageFilter, "ImageEnhance": ImageEnhance},
        ImageDraw=ImageDraw, ImageChops=ImageChops, images=list(inputs), **names,
    )  # fmt: skip
    before = sys.modules["__main__"]
    sys.modules["__main__"] = main
    try:
        for index, image in enumerate(inputs):
            lineage.register(image, index)
        exec(compile(code, "<cell>", "exec"), vars(main))
        result = vars(main)["result"]
        return result, lineage.origin(result)
    finally:
        sys.modules["__main__"] = before


def planted(code, seed):
    """Pairs (centre in the input, centre in the output) of the discs, found by what they change."""
    pairs = []
    plain = np.asarray(run(code, scene(seed))[0]).astype(float)
    for centre in DISCS:
        change = np.abs(np.asarray(run(code, scene(seed, centre))[0]).astype(float) - plain)
        change = change.sum(axis=2) if change.ndim == 3 else change
        rows, columns = np.nonzero(change > change.max() * 0.5)
        if len(rows):
            pairs.append((centre, (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)))
    return pairs


def errors(affine, pairs):
    """Distances in input pixels between where the discs were and where the affine says they came from."""
    a, b, c, d, e, f = affine
    return [float(np.hypot(a * x + b * y + c - u, d * x + e * y + f - v)) for (u, v), (x, y) in pairs]


PIL_EXACT = [
    "{v} = {v}.crop(({v}.width // 10, {v}.height // 12, {v}.width - {v}.width // 9, {v}.height - {v}.height // 8))",
    "w, h = {v}.size\n{v} = {v}.crop((int(w * 0.07), int(h * 0.1), int(w * 0.93), int(h * 0.95)))",
    "{v} = {v}.rotate(90, expand=True)",
    "{v} = {v}.rotate(180)",
    "{v} = {v}.rotate(-90, expand=1)",
    "{v} = {v}.transpose(Image.FLIP_LEFT_RIGHT)",
    "{v} = {v}.transpose(Image.Transpose.FLIP_TOP_BOTTOM)",
    "{v} = {v}.transpose(Image.Transpose.ROTATE_270)",
    "{v} = {v}.transpose(Image.Transpose.TRANSPOSE)",
    "{v} = {v}.transpose(Image.Transpose.TRANSVERSE)",
    "{v} = ImageOps.mirror({v})",
    "{v} = ImageOps.flip({v})",
    "{v} = ImageOps.expand({v}, border=(7, 3, 2, 9), fill=0)",
    "{v} = ImageOps.crop({v}, 5)",
    "{v} = ImageOps.exif_transpose({v})",
    "{v} = {v}.copy()",
    "{v} = {v}.convert('RGBA').convert('RGB')",
    "{v} = ImageEnhance.Contrast({v}).enhance(1.3)",
    "{v} = ImageEnhance.Brightness({v}).enhance(0.9)",
    "{v} = ImageEnhance.Sharpness({v}).enhance(2)",
    "{v} = ImageEnhance.Color({v}).enhance(0.4)",
    "{v} = {v}.filter(ImageFilter.SHARPEN)",
    "{v} = {v}.filter(ImageFilter.GaussianBlur(1))",
    "{v} = {v}.point(lambda value: min(255, value * 1.2))",
    "{v} = ImageOps.autocontrast({v})",
    "{v} = ImageOps.grayscale({v}).convert('RGB')",
    "{v} = ImageOps.invert({v})",
    "draw = ImageDraw.Draw({v} := {v}.copy())\ndraw.rectangle((2, 2, 9, 9), outline='red')",
    "{v} = Image.merge('RGB', {v}.split()[::-1])",
]
PIL_SCALED = [
    "{v} = {v}.resize(({v}.width * 2, {v}.height * 2), Image.LANCZOS)",
    "{v} = {v}.resize((int({v}.width * 0.8), int({v}.height * 0.7)), Image.Resampling.BILINEAR)",
    "{v} = {v}.resize((200, 150), box=(10.5, 8, {v}.width - 12, {v}.height - 9.25))",
    "{v} = {v}.resize(({v}.width * 3, {v}.height * 3), Image.NEAREST)",
    "{v} = {v}.rotate(15, expand=True, resample=Image.BICUBIC)",
    "{v} = {v}.rotate(-8, resample=Image.BILINEAR)",
    "{v} = {v}.rotate(5, center=(90, 80), translate=(4, -3))",
    "{v} = {v}.rotate(4.5, fillcolor=(9, 9, 9), expand=True)",
    "{v} = {v}.copy()\n{v}.thumbnail((170, 170))",
    "{v} = {v}.reduce(2)",
    "{v} = ImageOps.scale({v}, 1.5)",
    "{v} = ImageOps.contain({v}, (190, 190))",
    "{v} = ImageOps.pad({v}, (230, 230), color='black')",
    "{v} = {v}.transform(({v}.width, {v}.height), Image.AFFINE, (1.05, 0.03, -4, 0.02, 0.95, 3), Image.BILINEAR)",
    "{v} = {v}.transform((220, 170), Image.Transform.EXTENT, (5, 6, {v}.width - 7, {v}.height - 8))",
]
ARRAY_EXACT = [
    "{v} = {v}[8:-9, 12:-11]",
    "h, w = {v}.shape[:2]\n{v} = {v}[int(h * 0.06):int(h * 0.94), int(w * 0.1):int(w * 0.92)].copy()",
    "{v} = {v}[:, ::-1]",
    "{v} = {v}[::-1]",
    "{v} = np.rot90({v})",
    "{v} = np.rot90({v}, k=3).copy()",
    "{v} = np.rot90({v}, 2)",
    "{v} = np.fliplr({v})",
    "{v} = np.flipud({v})",
    "{v} = np.flip({v}, axis=1)",
    "{v} = {v}.transpose(1, 0, 2)",
    "{v} = np.swapaxes({v}, 0, 1)",
    "{v} = np.ascontiguousarray({v})",
    "{v} = np.clip({v}.astype(np.float32) * 1.2 + 5, 0, 255).astype(np.uint8)",
    "{v} = (255 - {v})",
    "{v} = np.pad({v}, ((4, 6), (3, 8), (0, 0)), mode='constant')",
    "{v} = np.array({v})",
    "{v} = cv2.flip(np.ascontiguousarray({v}), 1)",
    "{v} = cv2.flip({v}.copy(), 0)",
    "{v} = cv2.flip({v}.copy(), -1)",
    "{v} = cv2.rotate({v}.copy(), cv2.ROTATE_90_CLOCKWISE)",
    "{v} = cv2.rotate({v}.copy(), cv2.ROTATE_180)",
    "{v} = cv2.rotate(src={v}.copy(), rotateCode=cv2.ROTATE_90_COUNTERCLOCKWISE)",
    "{v} = cv2.transpose({v}.copy())",
    "{v} = cv2.copyMakeBorder({v}.copy(), 5, 6, 7, 8, cv2.BORDER_CONSTANT, value=(0, 0, 0))",
    "{v} = cv2.cvtColor({v}.copy(), cv2.COLOR_RGB2BGR)",
    "{v} = cv2.cvtColor(cv2.cvtColor({v}.copy(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)",
    "{v} = cv2.GaussianBlur({v}.copy(), (3, 3), 0)",
    "{v} = cv2.medianBlur({v}.copy(), 3)",
    "{v} = cv2.convertScaleAbs({v}.copy(), alpha=1.3, beta=10)",
    "{v} = cv2.filter2D({v}.copy(), -1, np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]))",
    "lab = cv2.cvtColor({v}.copy(), cv2.COLOR_RGB2LAB)\nl, a, b = cv2.split(lab)\n"
    "l = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(l)\n{v} = cv2.cvtColor(cv2.merge((l, a, b)), cv2.COLOR_LAB2RGB)",
    "{v} = {v}.copy()\ncv2.rectangle({v}, (3, 3), (20, 14), (0, 255, 0), 1)",
    "{v} = cv2.addWeighted({v}.copy(), 1.5, cv2.GaussianBlur({v}.copy(), (0, 0), 2), -0.5, 0)",
]
ARRAY_SCALED = [
    "{v} = cv2.resize({v}.copy(), None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC)",
    "{v} = cv2.resize({v}.copy(), (200, 160))",
    "{v} = cv2.resize({v}.copy(), (0, 0), fx=0.8, fy=0.75, interpolation=cv2.INTER_AREA)",
    "{v} = cv2.resize({v}.copy(), ({v}.shape[1] * 2, {v}.shape[0] * 2), interpolation=cv2.INTER_NEAREST)",
    "h, w = {v}.shape[:2]\nM = cv2.getRotationMatrix2D((w / 2, h / 2), 12, 0.9)\n{v} = cv2.warpAffine({v}.copy(), M, (w, h))",
    "{v} = cv2.warpAffine({v}.copy(), np.float32([[1, 0, 9], [0, 1, 5]]), ({v}.shape[1] + 12, {v}.shape[0] + 12))",
    "h, w = {v}.shape[:2]\nM = np.float32([[1.1, 0.05, -8], [0, 1.05, -4]])\n"
    "{v} = cv2.warpAffine({v}.copy(), M, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)",
    "{v} = {v}[::2, ::2]",
    "{v} = np.repeat(np.repeat({v}, 2, axis=0), 2, axis=1)",
    "{v} = cv2.pyrDown({v}.copy())",
    "{v} = cv2.pyrUp({v}.copy())",
]
TO_ARRAY = ["{v} = np.array({v})", "{v} = np.asarray({v})"]
TO_PIL = ["{v} = Image.fromarray({v})", "{v} = Image.fromarray(np.ascontiguousarray({v}))"]


def chains(count, seed=11):
    """Yield (code, exact): chains of 1 to 4 operations, mixing Pillow and arrays, in four styles of writing."""
    rng = random.Random(seed)
    for number in range(count):
        array = rng.random() < 0.5
        lines, exact, scaled = ([rng.choice(TO_ARRAY)] if array else []), True, 0
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.2:
                lines.append(rng.choice(TO_PIL if array else TO_ARRAY))
                array = not array
            if rng.random() < 0.3 and scaled < 2:
                lines.append(rng.choice(ARRAY_SCALED if array else PIL_SCALED))
                exact, scaled = False, scaled + 1
            else:
                lines.append(rng.choice(ARRAY_EXACT if array else PIL_EXACT))
        yield written(lines, ("same name", "new names", "function", "functions")[number % 4]), exact


def written(lines, style):
    if style == "same name":
        return "\n".join(["v = image_0", *(line.format(v="v") for line in lines), "result = v"])
    if style == "new names":
        code = ["v0 = images[0]"]
        for number, line in enumerate(lines):
            code += [f"v{number + 1} = v{number}", line.format(v=f"v{number + 1}")]
        return "\n".join([*code, f"result = v{len(lines)}"])
    if style == "function":
        body = "\n".join(line.format(v="img") for line in lines)
        return "def process(img):\n    " + body.replace("\n", "\n    ") + "\n    return img\nresult = process(image_0)"
    parts = []
    for number, line in enumerate(lines):
        parts.append(f"def step_{number}(x):\n    " + line.format(v="x").replace("\n", "\n    ") + "\n    return x")
    return "\n".join(
        [
            *parts,
            "result = image_0",
            f"for step in [{', '.join(f'step_{n}' for n in range(len(lines)))}]:",
            "    result = step(result)",
        ]
    )
