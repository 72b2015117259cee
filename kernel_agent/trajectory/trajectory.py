"""A run as a value: questions, steps, images, events, answers; in memory, and on disk as a notebook where wanted.

The agent fills it. After `record_to` every change is on the disk when the call returns (see store.py); without it nothing is
written until `save`. Secrets in headers, events and image sources are taken out on the way in. Not for two threads.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kernel_agent.errors import InputError, TrajectoryError
from kernel_agent.redact import redact
from kernel_agent.trajectory import geometry
from kernel_agent.trajectory.codec import encode, plain
from kernel_agent.trajectory.records import Turn, clean_event, clean_step
from kernel_agent.trajectory.state import State
from kernel_agent.types import (
    Box,
    Event,
    Json,
    KernelImage,
    Message,
    Step,
    StopReason,
    TextPart,
    Usage,
)

if TYPE_CHECKING:
    from kernel_agent.audit.finding import Report
    from kernel_agent.notices import Watch
    from kernel_agent.trajectory.store import Store


logger = logging.getLogger(__name__)

SEAL_BROKEN = "seal_broken"
"""The kind of event that says that a run went on from a notebook whose seal did not hold."""


class Live(Protocol):
    """What a trajectory goes on in while its kernel lives; who runs it (api.py, live/) sets `Trajectory._live`."""

    def ask(self, trajectory: Trajectory, question: str, *, watch: Watch | None = None) -> Trajectory:
        """A further turn of the trajectory."""

    def fork(self, trajectory: Trajectory, steps: int) -> Trajectory:
        """A branch after its first `steps` steps, live too."""

    def stop(self) -> None:
        """Stop the kernel."""


class Signer(Protocol):
    """Who signs what is saved of a run by itself (audit/signing.py). Neither method raises."""

    def objection(self, run: Trajectory, path: Path, *, loaded: bool) -> tuple[str, bool]:
        """Why a run that goes on in this notebook, or was `loaded` from it, is not to be signed by itself, or "".

        And whether that is because a seal does not hold.
        """

    def sign(self, run: Trajectory, path: Path) -> str:
        """Sign the notebook that was written of a run; why it was not, or ""."""


class Trajectory:
    """One run. Make it with `start`, `load` or `recover`.

    Attributes:
        signer: signs each notebook that is written of this run, at the end of a turn and when it is saved; None: nobody.
        unsigned: why the last one was not signed, where it was to be; it is logged too.
        path: the notebook it is recorded to, was last recorded to, or was loaded from; None if there is none.
        failure: why the last turn failed, where the model or the kernel could not be had; not stored.
    """

    def __init__(self, state: State, path: Path | None = None) -> None:
        self._state = state
        self._store: Store | None = None
        self._began_here = False
        self._recorded = False
        self._clock = 0.0
        self._live: Live | None = None
        self._taken_from: Path | None = None  # until a signer has looked at it
        self._doubt = ""  # why it is not signed by itself any more
        self.signer: Signer | None = None
        self.unsigned = ""
        self.path = path
        self.failure: Exception | None = None

    @classmethod
    def start(cls, *, images: Iterable[KernelImage], header: Mapping[str, Json]) -> Trajectory:
        """A new run over `images`. `header` says what it was made with (protocol, model, environment, budget, ...)."""
        state = State(run_id=uuid.uuid4().hex, header=redact(plain(encode(header))))
        for image in images:
            state.images.add(image)
        return cls(state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trajectory:
        """The run in a notebook. TrajectoryError where it is none, is cut off, or is of another version."""
        from kernel_agent.trajectory import notebook
        from kernel_agent.trajectory.reading import read_file

        source = Path(path)
        try:
            data = read_file(source)
        except OSError as error:
            raise TrajectoryError(f"{source} cannot be read: {error.strerror}: give the path of a saved run") from error
        state = notebook.read(notebook.parse(data, str(source)), str(source))
        run = cls(state, source.resolve())
        run._taken_from = run.path
        return run

    @classmethod
    def recover(cls, path: str | os.PathLike[str], *, keep: bool = False) -> Trajectory:
        """Bring a crashed run back from the journal beside its notebook, and write the notebook anew."""
        from kernel_agent.trajectory import recovery

        state, written = recovery.recover(path, keep=keep)
        run = cls(state, written)
        run._taken_from = written
        return run

    # What it holds

    @property
    def run_id(self) -> str:
        """Names this run, in the notebook too."""
        return self._state.run_id

    @property
    def header(self) -> Mapping[str, Json]:
        """What the run was made with."""
        return self._state.header

    @property
    def images(self) -> tuple[KernelImage, ...]:
        """All images by index, inputs first."""
        return tuple(image for _, image in sorted(self._state.images.items()))

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The questions so far."""
        return tuple(self._state.turns)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all turns."""
        return tuple(self._state.steps)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened beside the steps; each step has its own events besides."""
        return tuple(self._state.events)

    @property
    def answer(self) -> str | None:
        """The answer to the last question."""
        return self._state.turns[-1].answer if self._state.turns else None

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the last turn ended; None while it goes on."""
        return self._state.turns[-1].stop_reason if self._state.turns else None

    @property
    def usage(self) -> Usage:
        """Tokens of all steps."""
        return sum((step.completion.usage for step in self._state.steps), Usage())

    @property
    def model(self) -> Mapping[str, Json]:
        """The model that was asked last: the header's, or the one a later turn was made with."""
        for event in reversed(self._state.events):
            if event.kind == "model_described":
                return event.data
        described: Mapping[str, Json] = self._state.header.get("model", {})
        return described

    @property
    def isolation(self) -> str:
        """Isolation level of the kernel as it was last started."""
        for event in reversed(self._state.events):
            if event.kind == "kernel_started" and "isolation" in event.data:
                return str(event.data["isolation"])
        return str(self._state.header.get("isolation", "not started"))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation: all requests' messages, then the last completion and what came back for it.

        An observation that no request has carried yet is a tool message where the action has a call id, else a user's.
        """
        steps = self._state.steps
        out = [message for step in steps for message in step.new_messages]
        if steps:
            last = steps[-1]
            text = (TextPart(text=last.completion.text),) if last.completion.text else ()
            out.append(Message(role="assistant", content=text, tool_calls=last.completion.tool_calls))
            if last.observation is not None:
                call_id = getattr(last.action, "call_id", None)
                role: Any = "user" if call_id is None else "tool"
                out.append(Message(role=role, content=last.observation.content, tool_call_id=call_id))
        return tuple(out)

    def root(self, image: int | str) -> int:
        """Index of the input that an image (index or name) was made from. LineageError where that is unknown."""
        index = self._state.images.index_of(image)
        return geometry.lineage(self._state.images, index)[-1].index

    def to_input(self, box: Box, *, image: int | str) -> Box:
        """A box of `image` in pixels of the input it was made from: exact; after a free rotation the box around it.

        Not clipped: what lies outside the input (a crop over its edge) stays outside.
        """
        index = self._state.images.index_of(image)
        return geometry.apply(geometry.to_root(self._state.images, index), box)

    # Filling it

    def begin_turn(self, question: str) -> None:
        """A question was asked. A turn left open by a process that went away is closed first."""
        if self._state.open_turn is not None:
            if self._began_here:
                raise RuntimeError("the turn before has not ended: call end_turn first")
            self._close_turn(None, StopReason.CRASHED, self._state.open_turn.seconds)
        self._began_here, self._clock = True, time.monotonic()
        self._state.turns.append(Turn(question=question, first_step=len(self._state.steps), started=time.time()))
        self._sync()

    def branch(self, steps: int, *, in_turn: bool = False) -> Trajectory:
        """A new run that shares this one's first `steps` steps; nothing of this run changes.

        It has an id of its own and `branch_of` in its header. The turn that is cut is over ("interrupted"); with
        `in_turn` the question that step `steps` belonged to is open instead, for `reopen_turn`.
        """
        if not 0 <= steps <= len(self.steps) - in_turn:
            raise ValueError(f"there is no state after {steps} steps: the run has {len(self.steps)}")
        old = self._state
        header = {**old.header, "branch_of": {"run": self.run_id, "steps": steps}}
        state = State(run_id=uuid.uuid4().hex, header=header, steps=old.steps[:steps])
        for image in (*old.inputs, *(image for step in state.steps for image in step.images)):
            state.images.add(image)
        for number, turn in enumerate(old.turns):
            end = old.turns[number + 1].first_step if number + 1 < len(old.turns) else len(old.steps)
            if turn.first_step >= steps + in_turn:
                break
            if end > steps or turn.stop_reason is None:
                seconds = sum(step.seconds for step in old.steps[turn.first_step : steps])
                turn = replace(turn, answer=None, stop_reason=StopReason.INTERRUPTED, seconds=seconds)
            state.turns.append(turn)
        if in_turn:
            state.turns[-1] = replace(state.turns[-1], answer=None, stop_reason=None)
        until = old.steps[steps].started if steps < len(old.steps) else float("inf")
        about = ("kernel_started", "model_described", "approved", "code_edited", "refused", "image_note")
        state.events += [
            event for event in old.events if (event.kind in about and event.time <= until) or event.kind == SEAL_BROKEN
        ]
        branch = Trajectory(state)
        branch.signer, branch._taken_from, branch._doubt = self.signer, self._taken_from, self._doubt
        return branch

    def reopen_turn(self) -> None:
        """Go on with the turn that `branch` left open."""
        if self._state.open_turn is None:
            raise RuntimeError("there is no open turn: call begin_turn instead")
        self._began_here, self._clock = True, time.monotonic() - self._state.turns[-1].seconds

    def add_step(self, step: Step) -> None:
        """A step was made. It stays in memory even if it cannot be written (StorageError)."""
        if self._state.open_turn is None:
            raise RuntimeError("there is no open turn: call begin_turn first")
        if step.index != len(self._state.steps):
            raise ValueError(f"step {step.index} cannot follow {len(self._state.steps)} steps")
        step = clean_step(step)
        for image in step.images:
            self._state.images.add(image)
        self._state.steps.append(step)
        self._sync()

    def add_event(self, event: Event) -> None:
        """Something happened beside the steps."""
        self._state.events.append(clean_event(replace(event, data=plain(encode(event.data)))))
        self._sync()

    def end_turn(self, answer: str | None, stop_reason: StopReason) -> None:
        """The turn is over."""
        if self._state.open_turn is None:
            raise RuntimeError("there is no open turn: call begin_turn first")
        self._close_turn(answer, stop_reason, time.monotonic() - self._clock)
        self._sync()

    def ask(self, question: str, **options: Any) -> Trajectory:
        """A follow-up question: same images, history and kernel (replayed where it is gone). Returns this trajectory.

        Without options the live kernel and the model go on. With options (`model`, `base_url`, `protocol`, `budget`, ...;
        see `kernel_agent.api.continue_trajectory`), or where no kernel lives, a new kernel runs the cells again first.
        """
        if self._live is not None and not options.keys() - {"watch"}:
            return self._live.ask(self, question, watch=options.get("watch"))
        import importlib

        agent = importlib.import_module("kernel_agent.api")
        result: Trajectory = agent.continue_trajectory(self, question, **options)
        return result

    def fork(self, step: int | None = None) -> Trajectory:
        """A run of its own that shares the steps before `steps[step]` (all of them, where None): ask it something else.

        Where this one's kernel lives, the branch gets one with the state of that moment; else its cells are run again when
        it is asked. Nothing of this run changes. It is in memory until `save` or `record_to`.
        """
        steps = len(self.steps) if step is None else step
        if not 0 <= steps <= len(self.steps):
            raise InputError(f"there is no step {steps}: the run has {len(self.steps)}; take 0 to {len(self.steps)}")
        return self.branch(steps) if self._live is None else self._live.fork(self, steps)

    def insert_cells(self, *, turn: int | None = None) -> Path | None:
        """Put the run's steps (of all turns, or one) under the current cell of the JupyterLab notebook this is called in.

        Where there is no JupyterLab with the panel's extension, they are written to a notebook: its path is returned and
        said.
        """
        from kernel_agent.magic.insert import insert_cells

        return insert_cells(self, turn=turn)

    def audit(
        self,
        *,
        signers: Iterable[str] = (),
        identities: Iterable[tuple[str, str]] = (),
        staging: bool = False,
        trust_config: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Report:
        """Check the run and run all cells again in a fresh isolated kernel; `options` are those of `audit.rerun_setup.RerunOptions`.

        A saved run is audited as it is in its file, seal included; one that goes on, or is in memory only, without.
        `signers` are keys that must have signed: 64 hexadecimal digits, or the file of a public key. `identities` must have signed
        through Sigstore: ("alice@example.org", "https://accounts.google.com"); `staging` and `trust_config` name the instance.
        No model is asked and no live kernel is used. `report.exit_code` is 0 where all holds, 1 where something fails, 2
        where something could not be checked. Raises InputError for a kernel without isolation (`unsafe` allows it).
        """
        import importlib

        from kernel_agent.blocking import run_blocking

        names = ("audit", "keys", "rerun_setup", "seal", "sigstore_check")
        auditing, keys, setup, seal, sigstore = (
            importlib.import_module(f"kernel_agent.audit.{name}") for name in names
        )
        trust = sigstore.trust_of(staging=staging, config=Path(trust_config) if trust_config is not None else None)
        chosen = setup.RerunOptions(**options)
        expected = seal.Expected(
            signers=tuple(map(keys.pinned, signers)), identities=tuple(map(tuple, identities)), trust=trust
        )
        saved = self.path is not None and self._store is None and self.path.is_file()
        report: Report
        if saved and self.path is not None and Trajectory.load(self.path) == self:
            report, _ = run_blocking(auditing.audit_file(self.path, chosen, expected=expected))
        elif expected.signed:
            raise TrajectoryError("only a saved run can be signed: save it, sign it, and audit it then")
        else:
            report = run_blocking(auditing.audit(self, chosen))
        return report

    def sign(self, key: str | os.PathLike[str] | None = None) -> str:
        """Seal the saved notebook (see audit/seal.py) with the key in a file, default the user's own; returns the public key.

        InputError where there is no such key, StorageError while the run goes on.
        """
        import importlib

        if self.path is None:
            raise TrajectoryError("the run is not saved: call save first")
        keys, seal = (importlib.import_module(f"kernel_agent.audit.{name}") for name in ("keys", "seal"))
        signer = keys.load_signer(Path(key) if key is not None else keys.default_key())
        seal.sign_file(self.path, signer)
        return str(signer.public_key.keyid)

    def sign_sigstore(
        self,
        token: str | None = None,
        *,
        staging: bool = False,
        trust_config: str | os.PathLike[str] | None = None,
    ) -> str:
        """Sign the saved notebook through Sigstore (kernel-agent[sigstore]); returns the identity that the certificate names.

        `token` is an OIDC token; by default that of the CI job this runs in. The public log of Sigstore (or `staging`, or the
        instance of a ClientTrustConfig file) names that identity for ever. SigningError where there is no token, or no signature.
        """
        import importlib

        if self.path is None:
            raise TrajectoryError("the run is not saved: call save first")
        names = ("seal", "sigstore_check", "sigstore_sign")
        seal, check, sign = (importlib.import_module(f"kernel_agent.audit.{name}") for name in names)
        trust = check.trust_of(staging=staging, config=Path(trust_config) if trust_config is not None else None)
        signer = sign.SigstoreSigner(token or sign.ambient_token(), trust)
        seal.sign_file(self.path, signer)
        return str(signer.made.identity)

    # On disk

    def record_to(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """From now on write every change to `path`. What there is already is written at once.

        With `force` an existing file is overwritten, but one that holds the beginning of this very run is continued: its
        cells stay as they are. StorageError where `path` cannot be written or another process writes to it.
        """
        from kernel_agent.trajectory import files
        from kernel_agent.trajectory.store import Store

        target = files.notebook_path(path)
        if self._store is not None:
            if target == self._store.path:
                return
            self._store.close(self._state, keep=False)
            self._store = None
        self._check_seal(target, target)
        self._store = Store(target, self._state, force=force)
        self.path, self._recorded = self._store.path, True

    def close(self, *, keep: bool = False) -> None:
        """Stop the kernel, where one lives, and `seal` the notebook. A later `ask` starts a new kernel."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        self.seal(keep=keep)

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seal(self, *, keep: bool = False) -> None:
        """Stop recording: the notebook is made durable, the journal beside it removed (unless `keep`).

        Where that fails (StorageError) the journal stays and nothing is held open.
        """
        store, self._store = self._store, None
        if store is not None:
            store.close(self._state, keep=keep)
            self.path = store.path
            self._have_signed(store.path)

    def _check_seal(self, target: Path, *goes_on: Path) -> None:
        """Before `target` is written: a run that comes from what its signer did not sign as it stands is not signed by itself."""
        if self.signer is None:
            return
        taken_from, self._taken_from = self._taken_from, None
        for path in dict.fromkeys((taken_from, *goes_on)):
            if path is not None and not self._doubt:
                self._doubt, broken = self.signer.objection(self, path, loaded=path == taken_from)
                if broken:
                    told = {"notebook": path.name, "why": self._doubt}
                    self.add_event(Event(kind=SEAL_BROKEN, time=time.time(), data=told))
        if self._doubt:
            self.signer, self.unsigned = None, self._doubt
            logger.warning("%s is not signed by itself: %s: look at it, then codevision sign", target.name, self._doubt)

    def _have_signed(self, path: Path) -> None:
        """A notebook of this run has been written."""
        if self.signer is not None:
            self.unsigned = self.signer.sign(self, path)
            if self.unsigned:
                logger.warning("%s is not signed: %s", path.name, self.unsigned)

    def reopen(self) -> None:
        """Record again to where it was recorded before `close`; nothing where it never was."""
        if self._recorded and self._store is None and self.path is not None:
            self.record_to(self.path, force=True)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the whole run to `path` at once, in place of what was there, and return the path.

        Cells added by hand to an earlier save of this run stay. A notebook that is being recorded to is left to its recorder (StorageError; or up to date, where that is us).
        """
        from kernel_agent.trajectory import export, files

        target = files.notebook_path(path)
        if self._store is not None and target == self._store.path:
            self._store.sync(self._state)
            return target
        self._check_seal(target)
        export.write(target, export.whole(self._state, target))
        self.path = self.path or target
        self._have_signed(target)
        return target

    def _close_turn(self, answer: str | None, stop_reason: StopReason, seconds: float) -> None:
        turn = self._state.turns[-1]
        self._state.turns[-1] = replace(turn, answer=answer, stop_reason=stop_reason, seconds=seconds)

    def _sync(self) -> None:
        if self._store is not None:
            self._store.sync(self._state)
            self.path = self._store.path

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trajectory):
            return NotImplemented
        mine, theirs = self._state, other._state
        return (
            (mine.run_id, mine.header, mine.turns, mine.steps, mine.events)
            == (theirs.run_id, theirs.header, theirs.turns, theirs.steps, theirs.events)
        ) and self.images == other.images

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        question = self._state.turns[-1].question if self._state.turns else None
        return (
            f"Trajectory(question={question!r:.60}, answer={self.answer!r:.60}, steps={len(self._state.steps)},"
            f" images={len(self._state.images)}, stop_reason={self.stop_reason and str(self.stop_reason)!r})"
        )

    def _repr_html_(self) -> str:
        from kernel_agent.trajectory.rendering import to_html

        return to_html(self._state)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}
