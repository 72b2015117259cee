"""The typefaces that generated documents are set in: a training set and a held-out set, both from the package index.

The sets are written out, file by file, so that a seed means the same picture on every machine: fonts that happen to be
installed elsewhere are never used. Families of the two sets are disjoint (`fonts.HELD_OUT_FAMILIES` are the held-out ones).
What is not covered: scripts other than Latin; the held-out set has no monospaced family, its sans serifs stand in.
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kernel_agent.tasks.fonts import NoFontsError


class Role(StrEnum):
    """What a typeface is good for."""

    SANS = "sans"
    SERIF = "serif"
    MONO = "mono"
    DISPLAY = "display"  # signs, headings


class Split(StrEnum):
    """Training data and data to test on: they share no typeface, and no seed draws the same picture for both."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class Typeface:
    """One family in two weights."""

    name: str
    role: Role
    regular: Path
    bold: Path


_MATPLOTLIB = "matplotlib"
_FILES: dict[Split, tuple[tuple[str, Role, str, str, str], ...]] = {
    Split.TRAIN: (
        ("dejavusans", Role.SANS, _MATPLOTLIB, "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
        ("lato", Role.SANS, "font_lato", "Lato-Regular.ttf", "Lato-Bold.ttf"),
        ("roboto", Role.SANS, "font_roboto", "Roboto-Regular.ttf", "Roboto-Bold.ttf"),
        ("dejavuserif", Role.SERIF, _MATPLOTLIB, "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
        ("stixgeneral", Role.SERIF, _MATPLOTLIB, "STIXGeneral.ttf", "STIXGeneralBol.ttf"),
        ("dejavusansmono", Role.MONO, _MATPLOTLIB, "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
        ("latoblack", Role.DISPLAY, "font_lato", "Lato-Bold.ttf", "Lato-Black.ttf"),
        ("robotoblack", Role.DISPLAY, "font_roboto", "Roboto-Bold.ttf", "Roboto-Black.ttf"),
    ),
    Split.TEST: (
        ("sourcesanspro", Role.SANS, "font_source_sans_pro", "SourceSansPro-Regular.ttf", "SourceSansPro-Bold.ttf"),
        ("hankengrotesk", Role.SANS, "font_hanken_grotesk", "HankenGrotesk-Regular.otf", "HankenGrotesk-Bold.otf"),
        ("manrope", Role.SANS, "font_manrope", "Manrope-Regular.ttf", "Manrope-Bold.ttf"),
        ("redhatdisplay", Role.SANS, "font_rhd", "RedHatDisplay-Regular.ttf", "RedHatDisplay-Bold.ttf"),
        (
            "sourceserifpro",
            Role.SERIF,
            "font_source_serif_pro",
            "SourceSerifPro-Regular.ttf",
            "SourceSerifPro-Bold.ttf",
        ),
        ("caladea", Role.SERIF, "font_caladea", "Caladea-Regular.ttf", "Caladea-Bold.ttf"),
        ("fjallaone", Role.DISPLAY, "font_fjallaone", "FjallaOne-Regular.ttf", "FjallaOne-Regular.ttf"),
        ("fredokaone", Role.DISPLAY, "font_fredoka_one", "FredokaOne-Regular.ttf", "FredokaOne-Regular.ttf"),
    ),
}


@lru_cache(maxsize=2)
def typefaces(split: Split) -> tuple[Typeface, ...]:
    """All typefaces of a set, in a fixed order. Raises NoFontsError where one is not installed."""
    site = Path(sysconfig.get_paths()["purelib"])
    spec = find_spec(_MATPLOTLIB)
    drawn = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" if spec and spec.origin else site
    found = []
    for name, role, package, regular, bold in _FILES[split]:
        folder = drawn if package == _MATPLOTLIB else site / package / "files"
        for file in (folder / regular, folder / bold):
            if not file.is_file():
                raise NoFontsError(
                    f"{file} is missing: run `pip install 'kernel-agent[data]'` ({sys.executable}). Generated tasks need "
                    "every typeface of their set, so that a seed means the same pictures everywhere."
                )
        found.append(Typeface(name=name, role=role, regular=folder / regular, bold=folder / bold))
    return tuple(found)


def pick(rng: np.random.Generator, faces: tuple[Typeface, ...], *roles: Role) -> Typeface:
    """One of those with one of `roles`, uniform; a sans serif where there is none."""
    fitting = [face for face in faces if face.role in roles] or [face for face in faces if face.role is Role.SANS]
    return fitting[int(rng.integers(len(fitting)))]
