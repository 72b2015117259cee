"""What re-execution found: a verdict for each thing compared, for each cell, for the run. Plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kernel_agent.audit.sources import Source
from kernel_agent.types import Json, Status

EXCERPT = 2000
"""Characters of a text that a report keeps: the rest is in the notebook."""


class Verdict(StrEnum):
    """How what was recorded compares with what the code gives again, best first."""

    IDENTICAL = "identical"
    NORMALISED = "normalised"  # after named sanitisers
    WITHIN_TOLERANCE = "within tolerance"  # of numbers or pixels, as the auditor allowed
    NOT_REPLAYABLE = "not replayable"  # cannot be checked: the reason is told
    MISSING = "missing"  # only one of the two has it
    DIFFERS = "differs"

    @property
    def rank(self) -> int:
        """0 is the best."""
        return list(Verdict).index(self)

    @property
    def holds(self) -> bool | None:
        """True, False, or None where it could not be checked."""
        return None if self is Verdict.NOT_REPLAYABLE else self.rank < Verdict.NOT_REPLAYABLE.rank


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; identical where there are none."""
    return max(verdicts, key=lambda verdict: verdict.rank, default=Verdict.IDENTICAL)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One thing compared.

    Attributes:
        what: "status", "stdout", "stderr", "result", "text", "error", "image_3", "lineage of image_3", ...
        how: the sanitisers that were needed, how far apart the two are, or why they cannot be compared.
        texts: beginnings of both, the recorded one first, for people; of an image its size and hash.
        pictures: PNG files of both images and of their difference (red where they differ), where they were made.
    """

    what: str
    verdict: Verdict
    how: str = ""
    texts: tuple[str, str] = ("", "")
    pictures: tuple[bytes, ...] = field(default=(), repr=False)

    def as_json(self) -> dict[str, Json]:
        """Without the pictures."""
        told: dict[str, Json] = {"what": self.what, "verdict": str(self.verdict)}
        rest = {"how": self.how, "recorded": self.texts[0], "replayed": self.texts[1]}
        return told | {name: value for name, value in rest.items() if value}


@dataclass(frozen=True, kw_only=True)
class CellVerdict:
    """One cell.

    Attributes:
        step: index of its step, counted from 0.
        recorded, replayed: how it ended; `replayed` is None where it was not run.
        why: why it is not replayable; "" otherwise.
        comparisons: those that are not identical first found, in order of the outputs; identical ones are counted only.
        compared: how many things were compared.
        sources: what besides its inputs its code may draw on.
        seconds: (recorded, replayed).
    """

    step: int
    verdict: Verdict
    recorded: Status
    replayed: Status | None
    why: str = ""
    comparisons: tuple[Comparison, ...] = ()
    compared: int = 0
    sources: tuple[Source, ...] = ()
    seconds: tuple[float, float] = (0.0, 0.0)
    source: str = ""

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "step": self.step + 1,
            "verdict": str(self.verdict),
            "recorded": str(self.recorded),
            "replayed": None if self.replayed is None else str(self.replayed),
            "why": self.why,
            "comparisons": [item.as_json() for item in self.comparisons],
            "compared": self.compared,
            "sources": [
                {"name": item.name, "pinned": item.pinned, "words": list(item.words), "how": item.how}
                for item in self.sources
            ],
            "seconds": [round(value, 4) for value in self.seconds],
        }


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """All cells of a run, again.

    Attributes:
        inputs: the input images: whether their files have the recorded pixels.
        isolation: of the kernel the audit ran in; "not started" where there was no code.
        environment: what is not as it was recorded: name -> (recorded, here).
    """

    inputs: tuple[Comparison, ...]
    cells: tuple[CellVerdict, ...]
    isolation: str
    environment: Mapping[str, tuple[str, str]]
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst."""
        return worst([*(item.verdict for item in self.inputs), *(cell.verdict for cell in self.cells)])

    def counts(self) -> dict[str, int]:
        """How many cells have each verdict."""
        return {str(verdict): sum(cell.verdict is verdict for cell in self.cells) for verdict in Verdict}

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "verdict": str(self.verdict),
            "counts": self.counts(),
            "isolation": self.isolation,
            "environment": {name: list(pair) for name, pair in self.environment.items()},
            "inputs": [item.as_json() for item in self.inputs],
            "cells": [cell.as_json() for cell in self.cells],
            "seconds": round(self.seconds, 3),
        }


def excerpt(text: str) -> str:
    """The beginning, fit to be encoded."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}\n[… {len(text) - EXCERPT} more characters]"
