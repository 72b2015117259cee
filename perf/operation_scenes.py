"""Pictures for `python -m perf.operations`: a page, a photograph with a sign, a chart, and a plain one. Seeded."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = [
    "river",
    "stone",
    "lamp",
    "ninety",
    "carbon",
    "velvet",
    "orbit",
    "maple",
    "signal",
    "harbor",
    "quiet",
    "seven",
    "basket",
    "window",
    "yellow",
    "copper",
]


def page(seed: int) -> Image.Image:
    """Lines of dark grey words on light grey paper, ragged, with a heading and a stamp."""
    r = random.Random(seed)
    image = Image.new("RGB", (r.randint(560, 760), r.randint(420, 600)), (232, 230, 224))
    draw = ImageDraw.Draw(image)
    draw.text((40, 24), " ".join(r.sample(WORDS, 3)).upper(), font=ImageFont.load_default(30), fill=(60, 40, 40))
    for y in range(80, image.height - 50, 26):
        words = " ".join(r.choices(WORDS, k=r.randint(3, 9)))
        draw.text((40, y), words, font=ImageFont.load_default(17), fill=(58, 58, 66))
    draw.ellipse((image.width - 130, 30, image.width - 60, 90), outline=(190, 60, 60), width=5)
    return image


def photograph(seed: int) -> Image.Image:
    """Coloured waves and blobs with grain, of moderate contrast, and a sign somewhere off the middle."""
    rng, r = np.random.default_rng(seed), random.Random(seed)
    width, height = r.randint(600, 900), r.randint(420, 640)
    y, x = np.mgrid[:height, :width]
    layers = [
        120
        + 45 * np.sin(x / r.uniform(30, 80) + y / r.uniform(40, 120))
        + 25 * np.cos(x / 170 - y / r.uniform(60, 200))
        for _ in range(3)
    ]
    pixels = np.stack(layers, -1) + rng.normal(0, 4, (height, width, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = r.randint(0, width - 60), r.randint(0, height - 60)
        draw.ellipse(
            (left, top, left + r.randint(15, 90), top + r.randint(15, 90)), fill=tuple(r.choices(range(50, 200), k=3))
        )
    left, top = r.randint(30, width // 2), r.randint(30, height // 2)
    draw.rectangle((left, top, left + 190, top + 60), fill=(205, 205, 190))
    draw.text((left + 12, top + 12), " ".join(r.sample(WORDS, 2)), font=ImageFont.load_default(24), fill=(40, 45, 70))
    return image


def chart(seed: int) -> Image.Image:
    """Bars of several colours with labels."""
    r = random.Random(seed)
    image = Image.new("RGB", (r.randint(520, 700), r.randint(400, 520)), (244, 244, 240))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    draw.text((60, 16), " ".join(r.sample(WORDS, 4)), font=ImageFont.load_default(22), fill=(40, 40, 60))
    draw.line((60, 50, 60, image.height - 50, image.width - 30, image.height - 50), fill=(70, 70, 70), width=3)
    for number in range(r.randint(4, 6)):
        left, tall = 85 + 70 * number, r.randint(60, image.height - 150)
        colour = tuple(r.choices(range(40, 210), k=3))
        draw.rectangle((left, image.height - 52 - tall, left + 42, image.height - 52), fill=colour)
        draw.text((left, image.height - 40), r.choice(WORDS), font=font, fill=(50, 50, 50))
        draw.text((left + 4, image.height - 74 - tall), str(tall), font=font, fill=(50, 50, 50))
    return image


def plain(seed: int) -> Image.Image:
    """One colour."""
    return Image.new("RGB", (400, 300), (90 + seed % 100, 120, 140))


SCENES = (page, photograph, chart)
