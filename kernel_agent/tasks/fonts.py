"""Fonts for drawn text: where they are found, which can be used, and which are never trained on.

A font is usable when it has all of A-Z and 0-9, draws each of them with ink, and draws no two of them
alike (a font whose zero is its letter O would make the answer a matter of luck). The split into
training and held-out fonts is by family and written out below, so it does not depend on what happens
to be installed. What is not covered: symbol or blackletter fonts that pass these checks; callers who
scan large collections should look at what they got.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageFont

from kernel_agent.errors import CodeVisionError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""The 36 characters that drawn strings are made of."""

HELD_OUT_FAMILIES = (
    "caladea",
    "fjallaone",
    "fredokaone",
    "hankengrotesk",
    "manrope",
    "redhatdisplay",
    "sourcesanspro",
    "sourceserifpro",
)
"""Families for evaluation only. All come from PyPI (`pip install kernel-agent[data]`); see HELD_OUT_PACKAGES."""

HELD_OUT_PACKAGES = (
    "font-caladea",
    "font-fjallaone",
    "font-fredoka-one",
    "font-hanken-grotesk",
    "font-manrope",
    "font-rhd",
    "font-source-sans-pro",
    "font-source-serif-pro",
)

_ALIASES = {"source serif": "sourceserifpro", "source sans": "sourcesanspro", "redhat": "redhatdisplay"}
_TRAINING_LOOKALIKES = (
    "sourcesans",
    "sourceserif",
    "caladea",
    "cambo",
    "fredoka",
    "manrope",
    "hanken",
    "redhat",
    "fjalla",
)
"""Cuts of held-out designs under other names: kept out of training as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """One font file. `cap_ratio` is the height of its H per pixel of font size."""

    path: Path
    family: str
    style: str
    cap_ratio: float


class NoFontsError(CodeVisionError, RuntimeError):
    """No usable font was found where the caller said to look."""


def normalise_family(name: str) -> str:
    """Lower-case letters and digits only, so that `Source Sans Pro` and `SourceSansPro` agree."""
    for alias, family in _ALIASES.items():
        if name.lower().startswith(alias):
            return family
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_held_out(family: str) -> bool:
    """Whether fonts of this (normalised) family are for evaluation only."""
    return any(family.startswith(name) for name in HELD_OUT_FAMILIES)


def is_for_training(family: str) -> bool:
    """Whether fonts of this (normalised) family may be trained on."""
    return not is_held_out(family) and not family.startswith(_TRAINING_LOOKALIKES)


@lru_cache(maxsize=4096)
def load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """The face at `size` pixels per em (basic layout: no ligatures, no shaping)."""
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def open_face(path: Path) -> Face | None:
    """Reads one file; None when it is no font or cannot draw the whole alphabet distinctly."""
    try:
        font = ImageFont.truetype(str(path), 40, layout_engine=ImageFont.Layout.BASIC)
        missing = _bitmap(font, "\uffff")
        seen: list[np.ndarray] = []
        for character in ALPHABET:
            bitmap = _bitmap(font, character)
            if bitmap.size == 0 or int(bitmap.max()) < 128:
                return None
            if np.array_equal(bitmap, missing) or any(np.array_equal(bitmap, other) for other in seen):
                return None
            seen.append(bitmap)
        name, style = font.getname()
        height = font.getbbox("H")[3] - font.getbbox("H")[1]
    except (OSError, ValueError):
        return None
    if not name or not 10 <= height <= 60:
        return None
    return Face(path=path, family=normalise_family(name), style=style or "Regular", cap_ratio=height / 40)


def discover(roots: Iterable[Path]) -> list[Face]:
    """All usable faces under `roots`, in the order of their paths (so that a seed means the same fonts)."""
    paths = sorted({p for root in roots for p in root.rglob("*") if p.suffix.lower() in {".ttf", ".otf"}})
    faces = [face for path in paths if (face := open_face(path)) is not None]
    return faces


def held_out_faces(roots: Iterable[Path] | None = None) -> list[Face]:
    """The evaluation fonts, from the installed PyPI packages unless `roots` says otherwise.

    Raises NoFontsError when not one of them is installed.
    """
    places = list(roots) if roots is not None else installed_font_roots()
    faces = [face for face in discover(places) if is_held_out(face.family)]
    if not faces:
        wanted = " ".join(HELD_OUT_PACKAGES)
        raise NoFontsError(
            f"no held-out font under {[str(p) for p in places]}; run `pip install {wanted}` ({sys.executable})"
        )
    return faces


def installed_font_roots() -> list[Path]:
    """Folders of this Python environment into which the font packages of PyPI install."""
    base = Path(sysconfig.get_paths()["purelib"])
    names = [package.replace("-", "_") for package in HELD_OUT_PACKAGES]
    roots = [base / name for name in names] + [base / "font" / name.removeprefix("font_") for name in names]
    return [root for root in roots if root.is_dir()]


def _bitmap(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    mask = font.getmask(character, mode="L")
    return np.asarray(mask, dtype=np.uint8).reshape(mask.size[1], mask.size[0])
