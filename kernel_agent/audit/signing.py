"""Signing by itself: what a face saves is sealed at the end of each turn, where the user has a key.

Guarantees: nothing here raises or stops a run; what cannot be signed stays unsigned, and why is told. No seal is put on what
somebody else may have written: a run is sealed where it began in this process, or was loaded from a notebook that this very key
had signed and whose seal holds; and only where the notebook is what the run in memory gives. The rest a person signs who has looked
at it (`codevision sign`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_agent.audit.content import SEAL
from kernel_agent.audit.finding import Outcome
from kernel_agent.audit.keys import KEY_VARIABLE, default_key, load_signer
from kernel_agent.audit.seal import check_seal, read_seal, seal_notebook
from kernel_agent.audit.shown import check_shown
from kernel_agent.errors import CodeVisionError, InputError, TrajectoryError
from kernel_agent.trajectory import Trajectory, notebook
from kernel_agent.trajectory.cells import KEY, cells_since
from kernel_agent.trajectory.state import Mark
from kernel_agent.trajectory.trajectory import SEAL_BROKEN
from kernel_agent.types import Json

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

logger = logging.getLogger(__name__)

_PROBLEMS = (CodeVisionError, OSError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a notebook that somebody changed can make of its reading, and a disk of its writing."""


class OwnSigner:
    """Signs a run's notebooks with one key: the `trajectory.Signer` of the faces."""

    def __init__(self, signer: CryptoSigner) -> None:
        self._signer = signer

    def objection(self, run: Trajectory, path: Path, *, loaded: bool) -> tuple[str, bool]:
        """Why a run that goes on in this notebook, or was `loaded` from it, is not to be signed by itself, or "".

        And whether that is because a seal does not hold. What was loaded is vouched for only by a signature of this very key.
        """
        try:
            parsed = notebook.parse(path.read_bytes(), path.name)
            ours = parsed["metadata"][KEY]
            parent = run.header.get("branch_of")
            known = (run.run_id, parent.get("run") if isinstance(parent, dict) else None)
            if ours.get("run") not in known and not loaded:
                return "", False  # another run, which is about to be replaced
        except _PROBLEMS as error:
            return (f"what it was loaded from cannot be read any more: {error}"[:300] if loaded else ""), False
        if SEAL in ours:
            if broken := _broken(parsed):
                return broken, True
            if loaded and self._signer.public_key.keyid not in read_seal(ours[SEAL]).signers:
                return "it was loaded from a notebook that this key did not sign", False
            return "", False
        if any(event.kind == SEAL_BROKEN for event in run.events):
            return "its seal did not hold once", False
        return ("it was loaded from a notebook that is not signed" if loaded else ""), False

    def sign(self, run: Trajectory, path: Path) -> str:
        """Seal the notebook that was written of a run; why it was not, or ""."""
        try:
            data = path.read_bytes()
            parsed = notebook.parse(data, path.name)
            if problem := _changed(run, parsed, data, path.name):
                return problem
            seal_notebook(parsed, data, path, self._signer)
        except _PROBLEMS as error:
            return str(error) or type(error).__name__
        return ""


def replaced(path: Path) -> str:
    """Why signing this notebook replaces its seal, and adds nothing to it; "" where it has none, or a whole one."""
    try:
        parsed = notebook.parse(path.read_bytes(), path.name)
        return _broken(parsed, (Outcome.FAILS,)) if SEAL in parsed["metadata"][KEY] else ""
    except (OSError, TrajectoryError):  # who signs it says so
        return ""


def _broken(parsed: Json, counts: Collection[Outcome] = tuple(Outcome)) -> str:
    """What in a notebook is not as its seal has it; "" where all of it is."""
    try:
        first = next((finding for finding in check_seal(parsed)[1] if finding.outcome in counts), None)
    except _PROBLEMS as error:
        return f"its seal cannot be read: {error}"[:300]
    return f"its seal did not hold before: {first.cell}, {first.field}" if first else ""


def _changed(run: Trajectory, parsed: Json, data: bytes, name: str) -> str:
    """What in a notebook is not as the run in memory gives it; "" where all of it is."""
    state = run._state
    if data == notebook.document(notebook.pack(cells_since(state, Mark())), notebook.tail(state)):
        return ""  # to the byte; else an editor had a hand in it, or an earlier version
    if Trajectory(notebook.read(parsed, name)) != run:
        return "its record is not the run's any more: somebody changed it"
    found = check_shown(parsed, run, max_pixels=int(run.header.get("max_pixels", 100_000_000)))
    failing = next((finding for finding in found if finding.outcome is Outcome.FAILS), None)
    return f"{failing.cell}, {failing.field}: {failing.message}" if failing else ""


def own_signer(wanted: bool | None = None) -> OwnSigner | None:
    """Who signs what this user saves. None: whoever has a key signs, and one that cannot be used is logged; False: nobody.

    Raises InputError where one is wanted (True) and there is no key that can be used.
    """
    if wanted is False:
        return None
    try:
        return OwnSigner(load_signer(default_key()))
    except InputError as error:
        if wanted:
            raise
        if KEY_VARIABLE in os.environ or not isinstance(error.__cause__, FileNotFoundError):
            logger.warning("nothing is signed: %s", error)
        return None
