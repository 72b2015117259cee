"""Snippets as models write them, and what they do by construction: material of `python -m perf.operations`.

Every piece of code takes the picture in `{v}` (a Pillow image) and leaves one there. `orientation` is a function of a small array, so that
any chain of them has a known sum.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernel_agent.operations import ORIENTATIONS, Applied
from kernel_agent.types import Box, Size

Array = np.ndarray[Any, Any]

_TURNS: dict[Applied, Callable[[Array], Array]] = {
    Applied.FLIP_HORIZONTAL: np.fliplr,
    Applied.FLIP_VERTICAL: np.flipud,
    Applied.ROTATE90: lambda a: np.rot90(a),
    Applied.ROTATE180: lambda a: np.rot90(a, 2),
    Applied.ROTATE270: lambda a: np.rot90(a, 3),
    Applied.TRANSPOSE: lambda a: a.T,
    Applied.TRANSVERSE: lambda a: np.rot90(a, 2).T,
}

_PIL, _NP, _CV = "pillow", "numpy", "opencv"
_LOAD, _BACK = "a = np.array({v})\n", "\n{v} = Image.fromarray(np.ascontiguousarray(a))"

ORIENT: dict[Applied, list[tuple[str, str]]] = {
    Applied.ROTATE90: [
        (_PIL, "{v} = {v}.rotate(90, expand=True)"),
        (_PIL, "{v} = {v}.rotate(-270, expand=1)"),
        (_PIL, "{v} = {v}.transpose(Image.ROTATE_90)"),
        (_PIL, "{v} = {v}.transpose(Image.Transpose.ROTATE_90)"),
        (_NP, _LOAD + "a = np.rot90(a)" + _BACK),
        (_NP, _LOAD + "a = a.transpose(1, 0, 2)[::-1]" + _BACK),
        (_CV, _LOAD + "a = cv2.rotate(a, cv2.ROTATE_90_COUNTERCLOCKWISE)" + _BACK),
        (_CV, _LOAD + "a = cv2.flip(cv2.transpose(a), 0)" + _BACK),
        ("helper", "def turn_left(picture):\n    return picture.rotate(90, expand=True)\n{v} = turn_left({v})"),
        ("loop", "for _ in range(5):\n    {v} = {v}.rotate(90, expand=True)"),
    ],
    Applied.ROTATE180: [
        (_PIL, "{v} = {v}.rotate(180)"),
        (_PIL, "{v} = {v}.transpose(Image.Transpose.ROTATE_180)"),
        (_PIL, "{v} = ImageOps.flip(ImageOps.mirror({v}))"),
        (_NP, _LOAD + "a = np.rot90(a, 2)" + _BACK),
        (_NP, _LOAD + "a = a[::-1, ::-1]" + _BACK),
        (_CV, _LOAD + "a = cv2.flip(a, -1)" + _BACK),
        (
            _CV,
            _LOAD
            + "h, w = a.shape[:2]\na = cv2.warpAffine(a, np.float32([[-1, 0, w - 1], [0, -1, h - 1]]), (w, h))"
            + _BACK,
        ),
        ("helper", "fix = {{'upside down': lambda im: im.rotate(180)}}\n{v} = fix['upside down']({v})"),
    ],
    Applied.ROTATE270: [
        (_PIL, "{v} = {v}.rotate(-90, expand=True)"),
        (_PIL, "{v} = {v}.rotate(270, expand=True)"),
        (_PIL, "{v} = {v}.transpose(Image.ROTATE_270)"),
        (_PIL, "angle = 90\n{v} = {v}.rotate(360 - angle, expand=True)"),
        (_NP, _LOAD + "a = np.rot90(a, k=3)" + _BACK),
        (_NP, _LOAD + "a = np.rot90(a, -1)" + _BACK),
        (_CV, _LOAD + "a = cv2.rotate(a, cv2.ROTATE_90_CLOCKWISE)" + _BACK),
        ("loop", "for _ in range(3):\n    {v} = {v}.transpose(Image.Transpose.ROTATE_90)"),
    ],
    Applied.FLIP_HORIZONTAL: [
        (_PIL, "{v} = {v}.transpose(Image.FLIP_LEFT_RIGHT)"),
        (_PIL, "{v} = {v}.transpose(Image.Transpose.FLIP_LEFT_RIGHT)"),
        (_PIL, "{v} = ImageOps.mirror({v})"),
        (_NP, _LOAD + "a = np.fliplr(a)" + _BACK),
        (_NP, _LOAD + "a = a[:, ::-1]" + _BACK),
        (_CV, _LOAD + "a = cv2.flip(a, 1)" + _BACK),
        (
            _CV,
            _LOAD
            + "h, w = a.shape[:2]\na = cv2.warpAffine(a, np.float32([[-1, 0, w - 1], [0, 1, 0]]), (w, h))"
            + _BACK,
        ),
        ("helper", "def unmirror(im):\n    out = im.copy()\n    return ImageOps.mirror(out)\n{v} = unmirror({v})"),
    ],
    Applied.FLIP_VERTICAL: [
        (_PIL, "{v} = {v}.transpose(Image.FLIP_TOP_BOTTOM)"),
        (_PIL, "{v} = ImageOps.flip({v})"),
        (_NP, _LOAD + "a = np.flipud(a)" + _BACK),
        (_NP, _LOAD + "a = a[::-1]" + _BACK),
        (_CV, _LOAD + "a = cv2.flip(a, 0)" + _BACK),
        (_PIL, "{v} = {v}.rotate(180).transpose(Image.FLIP_LEFT_RIGHT)"),
    ],
    Applied.TRANSPOSE: [
        (_PIL, "{v} = {v}.transpose(Image.Transpose.TRANSPOSE)"),
        (_NP, _LOAD + "a = a.swapaxes(0, 1)" + _BACK),
        (_CV, _LOAD + "a = cv2.transpose(a)" + _BACK),
        (
            "channels",
            "r, g, b = [Image.fromarray(np.ascontiguousarray(np.array(c).T)) for c in {v}.split()]\n{v} = Image.merge('RGB', (r, g, b))",
        ),
    ],
    Applied.TRANSVERSE: [(_PIL, "{v} = {v}.transpose(Image.Transpose.TRANSVERSE)")],
}

CROP: list[tuple[str, str]] = [  # x0 y0 x1 y1 in pixels; l t r b as shares
    (_PIL, "{v} = {v}.crop(({x0}, {y0}, {x1}, {y1}))"),
    (
        _PIL,
        "left, upper, right, lower = {x0}, {y0}, {x1}, {y1}\nbox = (left, upper, right, lower)\n{v} = {v}.crop(box)",
    ),
    (
        "relative",
        "w, h = {v}.size\n{v} = {v}.crop((int(w * {l} + .5), int(h * {t} + .5), int(w * {r} + .5), int(h * {b} + .5)))",
    ),
    (
        "relative",
        "w, h = {v}.size\npad = 4\n{v} = {v}.crop((max(0, round(w * {l})), max(0, round(h * {t})), min(w, round(w * {r})), min(h, round(h * {b}))))",
    ),
    ("slices", _LOAD + "a = a[{y0}:{y1}, {x0}:{x1}]" + _BACK),
    ("slices", _LOAD + "a = a[{y0}:{y1}][:, {x0}:{x1}].copy()" + _BACK),
    ("slices", "{v} = Image.fromarray(np.asarray({v})[slice({y0}, {y1}), slice({x0}, {x1})])"),
    (_PIL, "W, H = {v}.size\n{v} = ImageOps.crop({v}, ({x0}, {y0}, W - {x1}, H - {y1}))"),
    (
        "helper",
        "def zoom_in(im, x, y, w, h):\n    return im.crop((x, y, x + w, y + h))\n{v} = zoom_in({v}, {x0}, {y0}, {x1} - {x0}, {y1} - {y0})",
    ),
    (
        _CV,
        _LOAD
        + "roi = cv2.cvtColor(a, cv2.COLOR_RGB2BGR)[{y0}:{y1}, {x0}:{x1}]\na = cv2.cvtColor(roi, cv2.COLOR_BGR2RGB)"
        + _BACK,
    ),
    (_PIL, "{v} = {v}.transform(({x1} - {x0}, {y1} - {y0}), Image.Transform.EXTENT, ({x0}, {y0}, {x1}, {y1}))"),
    (
        "file",
        "import io\nf = io.BytesIO()\n{v}.crop(({x0}, {y0}, {x1}, {y1})).save(f, 'PNG')\n{v} = Image.open(io.BytesIO(f.getvalue()))",
    ),
    (
        "arithmetic",
        _LOAD + "rows = [row[{x0}:{x1}].tolist() for row in a[{y0}:{y1}]]\na = np.array(rows, np.uint8)" + _BACK,
    ),
]

PHOTOMETRIC: list[tuple[str, str]] = [
    (_PIL, "{v} = ImageEnhance.Contrast({v}).enhance(1.8)"),
    (_PIL, "{v} = ImageEnhance.Brightness({v}).enhance(0.6)"),
    (_PIL, "enhancer = ImageEnhance.Brightness({v})\n{v} = enhancer.enhance(1.4)"),
    (_PIL, "{v} = ImageEnhance.Sharpness({v}).enhance(4.0)"),
    (_PIL, "{v} = ImageOps.invert({v})"),
    (_PIL, "{v} = ImageOps.equalize({v})"),
    (_PIL, "{v} = {v}.filter(ImageFilter.GaussianBlur(2))"),
    (_PIL, "{v} = {v}.filter(ImageFilter.UnsharpMask(3, 200, 2))"),
    (_PIL, "{v} = {v}.convert('L').point(lambda p: 255 if p > 140 else 0)"),
    (_PIL, "{v} = {v}.filter(ImageFilter.FIND_EDGES)"),
    (_NP, "a = np.asarray({v}) / 255.0\n{v} = Image.fromarray((a ** 0.5 * 255).astype(np.uint8))"),
    (
        _NP,
        "a = np.asarray({v}).astype(int)\n{v} = Image.fromarray(np.clip((a - 128) * 1.7 + 128, 0, 255).astype(np.uint8))",
    ),
    (
        _CV,
        "g = cv2.cvtColor(np.array({v}), cv2.COLOR_RGB2GRAY)\ng = cv2.adaptiveThreshold(g, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, 15, 4)\n{v} = Image.fromarray(g)",
    ),
    (_CV, "{v} = Image.fromarray(cv2.convertScaleAbs(np.array({v}), alpha=1.3, beta=-60))"),
    (
        _CV,
        "g = cv2.cvtColor(np.array({v}), cv2.COLOR_RGB2GRAY)\n_, g = cv2.threshold(g, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)\n{v} = Image.fromarray(g)",
    ),
    (_CV, "{v} = Image.fromarray(cv2.medianBlur(np.array({v}), 7))"),
    (
        "helper",
        "def clean(im):\n    im = ImageEnhance.Contrast(im).enhance(1.5)\n    return ImageEnhance.Sharpness(im).enhance(2.0)\n{v} = clean({v})",
    ),
]

NOTHING: list[tuple[str, str]] = [
    ("no-op", "{v} = ImageEnhance.Contrast({v}).enhance(1.02)"),
    ("no-op", "{v} = ImageEnhance.Brightness({v}).enhance(1.03)"),
    ("no-op", "{v} = ImageEnhance.Sharpness(ImageEnhance.Contrast({v}).enhance(1.01)).enhance(1.02)"),
    ("no-op", "{v} = {v}.copy().convert('RGB')"),
    ("no-op", "{v} = Image.fromarray(np.array({v}))"),
    ("no-op", "{v} = {v}.crop((0, 0, {v}.width, {v}.height))"),
    ("no-op", "{v} = {v}.rotate(0)"),
    ("no-op", "{v} = {v}.rotate(90, expand=True).rotate(-90, expand=True)"),
    ("no-op", "{v} = ImageOps.mirror(ImageOps.mirror({v}))"),
    ("no-op", "a = np.array({v}); a = a[::-1][::-1]\n{v} = Image.fromarray(a)"),
    ("no-op", "{v} = {v}.resize({v}.size)"),
    ("no-op", "flipped = ImageOps.flip({v})  # tried, not shown\n{v} = {v}.copy()"),
]

RESIZE: list[tuple[str, str]] = [
    (_PIL, "{v} = {v}.resize(({v}.width * 2, {v}.height * 2), Image.LANCZOS)"),
    (_PIL, "{v} = {v}.resize((int({v}.width * 1.5), int({v}.height * 1.5)))"),
    (_PIL, "{v} = {v}.resize(({v}.width // 2, {v}.height // 2), Image.Resampling.BILINEAR)"),
    (_PIL, "{v} = {v}.copy()\n{v}.thumbnail((260, 260))"),
    (_CV, "{v} = Image.fromarray(cv2.resize(np.array({v}), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))"),
    (_CV, "{v} = Image.fromarray(cv2.resize(np.array({v}), (0, 0), fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))"),
    (_NP, "{v} = Image.fromarray(np.array({v}).repeat(2, axis=0).repeat(2, axis=1))"),
]

FREE: list[tuple[str, str]] = [
    (_PIL, "{v} = {v}.rotate({angle}, expand=True, resample=Image.BICUBIC, fillcolor='white')"),
    (_PIL, "{v} = {v}.rotate(-{angle})"),
    (_PIL, "{v} = {v}.rotate({angle}, resample=Image.BILINEAR, expand=True)"),
    (
        _CV,
        "a = np.array({v})\nh, w = a.shape[:2]\nM = cv2.getRotationMatrix2D((w / 2, h / 2), {angle}, 1.0)\n{v} = Image.fromarray(cv2.warpAffine(a, M, (w, h)))",
    ),
    (
        _CV,
        "a = np.array({v})\nh, w = a.shape[:2]\nM = cv2.getRotationMatrix2D((w // 2, h // 2), -{angle}, 1)\n"
        "{v} = Image.fromarray(cv2.warpAffine(a, M, (w, h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))",
    ),
]

DRAWN: list[tuple[str, str]] = [
    (
        "drawing",
        "{v} = {v}.copy()\nImageDraw.Draw({v}).rectangle((40, 40, {v}.width - 60, {v}.height - 50), outline=(255, 0, 0), width=6)",
    ),
    ("drawing", "a = np.array({v})\ncv2.rectangle(a, (50, 60), (250, 220), (0, 255, 0), 5)\n{v} = Image.fromarray(a)"),
    (
        "drawing",
        "{v} = {v}.copy()\nd = ImageDraw.Draw({v})\nfor x in range(0, {v}.width, 50):\n    d.line((x, 0, x, {v}.height), fill=(255, 0, 255), width=2)",
    ),
    ("frame", "{v} = ImageOps.expand({v}, border=30, fill='black')"),
]

HARD: list[tuple[str, str]] = [  # the pixels cannot tell, or may be read as "other"
    ("plot", "fig, ax = plt.subplots(figsize=(7, 5))\nax.imshow({v})\nax.set_title('look')\nplt.show()"),
    ("plot", "plt.figure(figsize=(8, 6))\nplt.imshow({v})\nplt.axis('off')\nplt.show()"),
    (
        "montage",
        "a = np.array({v})\n{v} = Image.fromarray(np.hstack([a[:, a.shape[1] // 2:], a[:, :a.shape[1] // 2]]))",
    ),
    ("montage", "{v} = Image.fromarray(np.vstack([np.array({v})] * 2))"),
    ("invented", "{v} = Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 300, 3), dtype=np.uint8))"),
    (
        "invented",
        "{v} = Image.new('RGB', {v}.size, 'white')\nImageDraw.Draw({v}).text((50, 50), 'the answer is 7', fill='black')",
    ),
]

FLAT: list[tuple[str, str]] = [
    ("flat", "{v} = {v}.rotate(180)"),
    ("flat", "{v} = {v}.crop((20, 30, 220, 180))"),
    ("flat", "{v} = ImageOps.mirror({v})"),
]

TAMPER = "from kernel_agent.session.lineage import marks\nmarks.note_pil({v}, marks.Mark({scene}, {affine}))"


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """`code` shows one picture made of `image_{scene}`, or of the latest with `chained`.

    `applied` are its operations; `box` the crop in the frame of the picture it starts from. `free` allows "unknown" or "other".
    """

    style: str
    scene: int
    code: str
    applied: frozenset[Applied]
    box: Box | None = None
    free: bool = False
    said: str = field(default="")


def sum_of(turned: list[Applied]) -> Applied | None:
    """The one orientation that several after another come to."""
    start = np.arange(6).reshape(2, 3)
    end = start
    for one in turned:
        end = _TURNS[one](end)
    return next((one for one in ORIENTATIONS if np.array_equal(_TURNS[one](start), end)), None)


def draw(r: random.Random, scene: int, size: Size, number: int) -> Snippet:
    """One snippet on a picture of `size`."""
    kind = ("orient", "crop", "photometric", "nothing", "resize", "free", "drawn", "hard", "orient+crop", "crop+photometric",
            "orient+photometric", "crop+resize", "several", "crop+orient", "tampered", "orient+orient")[number % 16]  # fmt: skip
    parts: list[str] = []
    styles: list[str] = []
    turned: list[Applied] = []
    applied: set[Applied] = set()
    box: Box | None = None
    now = size

    def add(pool: list[tuple[str, str]], **values: Any) -> None:
        style, code = r.choice(pool)
        styles.append(style)
        parts.append(code.format(v="im", **values))

    def orient() -> None:
        nonlocal now
        one = r.choice(list(ORIENT))
        add(ORIENT[one])
        turned.append(one)
        if one in (Applied.ROTATE90, Applied.ROTATE270, Applied.TRANSPOSE, Applied.TRANSVERSE):
            now = (now[1], now[0])

    def crop() -> None:
        nonlocal box, now
        width, height = now
        left, top = round(r.uniform(0.02, 0.3), 2), round(r.uniform(0.02, 0.3), 2)
        right, bottom = round(r.uniform(0.6, 0.95), 2), round(r.uniform(0.6, 0.95), 2)
        x0, y0, x1, y1 = (
            int(share * side + 0.5) for share, side in ((left, width), (top, height), (right, width), (bottom, height))
        )
        add(CROP, x0=x0, y0=y0, x1=x1, y1=y1, l=left, t=top, r=right, b=bottom)
        box = back((x0, y0, x1, y1), turned, size)
        applied.add(Applied.CROP)
        now = (x1 - x0, y1 - y0)

    angle = r.choice([4, 7.5, 12, 20, 33])
    for word in kind.split("+"):
        if word == "orient":
            orient()
        elif word == "crop":
            crop()
        elif word == "photometric":
            add(PHOTOMETRIC)
            applied.add(Applied.PHOTOMETRIC)
        elif word == "nothing":
            add(NOTHING)
        elif word == "resize":
            add(RESIZE)
            applied.add(Applied.RESIZE)
        elif word == "free":
            add(FREE, angle=angle)
            applied.add(Applied.FREE_ROTATION)
        elif word == "drawn":
            add(DRAWN)
            applied.add(Applied.OTHER)
        elif word == "several":
            orient()
            add(PHOTOMETRIC)
            applied.add(Applied.PHOTOMETRIC)
            crop()
            add(RESIZE[:2])
            applied.add(Applied.RESIZE)
        elif word == "tampered":
            orient()
            styles[-1] = "tampered"
            claim = r.choice(
                [
                    "(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)",
                    "(1.0, 0.0, 50.0, 0.0, 1.0, 40.0)",
                    "(-1.0, 0.0, 300.0, 0.0, 1.0, 0.0)",
                ]
            )
            parts.append(TAMPER.format(v="im", affine=claim, scene=scene))
        elif word == "hard":
            add(HARD)
    if (net := sum_of(turned)) is not None:
        applied.add(net)
    shows = "" if styles[-1] == "plot" else "\nim"
    code = f"im = image_{scene}\n" + "\n".join(parts) + shows
    said = r.choice(
        [
            "",
            "Crop the text and flip it horizontally.",
            "Rotate by 90 degrees.",
            "Improve contrast.",
            "Mirror vertically: flip.",
        ]
    )
    style = styles[0] if len(styles) == 1 else "several"
    if "tampered" in styles:
        style = "tampered"
    return Snippet(
        style=style, scene=scene, code=code, applied=frozenset(applied), box=box, free=kind == "hard", said=said
    )


def back(box: Box, turned: list[Applied], size: Size) -> Box:
    """A box of a picture that was turned, in the frame before."""
    sizes = [size]
    for one in turned:
        swaps = one in (Applied.ROTATE90, Applied.ROTATE270, Applied.TRANSPOSE, Applied.TRANSVERSE)
        sizes.append(sizes[-1][::-1] if swaps else sizes[-1])
    for one, (width, height) in zip(reversed(turned), reversed(sizes[:-1]), strict=True):
        x0, y0, x1, y1 = box
        box = {
            Applied.FLIP_HORIZONTAL: (width - x1, y0, width - x0, y1),
            Applied.FLIP_VERTICAL: (x0, height - y1, x1, height - y0),
            Applied.ROTATE90: (width - y1, x0, width - y0, x1),
            Applied.ROTATE180: (width - x1, height - y1, width - x0, height - y0),
            Applied.ROTATE270: (y0, height - x1, y1, height - x0),
            Applied.TRANSPOSE: (y0, x0, y1, x1),
            Applied.TRANSVERSE: (width - y1, height - x1, width - y0, height - x0),
        }[one]
    return box
