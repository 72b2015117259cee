"""What an audit says: findings, the report they make up, and the exit code.

The rule: 1 where anything fails, else 2 where anything could not be checked, else 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from kernel_agent.audit.verdicts import Comparison, Rerun, Verdict, excerpt
from kernel_agent.types import Json

if TYPE_CHECKING:
    from kernel_agent.audit.seal import Seal


MOST = 1000
"""Findings of one check that are listed."""


class Outcome(StrEnum):
    """Of one check."""

    HOLDS = "holds"
    FAILS = "fails"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that does not hold or could not be checked (what holds is counted only).

    Attributes:
        check: "integrity", "re-execution", ...
        cell: where: "step 3", "input image_0", "run".
        field: of that cell: "stdout", "image_2", "status", ...
        message: what is the matter, for people.
    """

    check: str
    outcome: Outcome
    cell: str
    field: str
    message: str

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "check": self.check,
            "outcome": str(self.outcome),
            "cell": self.cell,
            "field": self.field,
            "message": self.message,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """An audit of one run.

    Attributes:
        name: of the file.
        sha256: of the file; "" for a run in memory.
        run_id: of the run; "" where the file could not be read.
        findings: all that does not hold or could not be checked.
        seal: the seal, where there is one that can be read; `signer_expected` where its signer was compared with a known one.
        model: what the run says of the model asked last, and under `not_told` what nobody could tell of it (see model.py).
        exchanges: what the model was asked and said (see exchanges.py).
        people: who approved, changed or refused code, when; as the run has it.
        recorded: what the run says it was made with: interpreter, platform, isolation.
        rerun: the verdicts of the cells; None where nothing was run again.
        code: whether cells were to be run again at all.
        asked_again: whether a model was asked the recorded requests again.
        audited: when (ISO 8601, UTC), with which version of this package, and under which options (`RerunOptions.told`).
    """

    name: str
    run_id: str
    sha256: str = ""
    findings: tuple[Finding, ...] = ()
    seal: Seal | None = None
    signer_expected: bool = False
    model: Mapping[str, Json] = field(default_factory=dict)
    exchanges: tuple[Mapping[str, Json], ...] = ()
    people: tuple[Mapping[str, Json], ...] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)
    rerun: Rerun | None = None
    code: bool = True
    asked_again: bool = False
    audited: Mapping[str, Json] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 all holds, 1 something fails, 2 something could not be checked."""
        return exit_code(finding.outcome for finding in self.findings)

    @property
    def outcome(self) -> Outcome:
        """Of all together."""
        return (Outcome.HOLDS, Outcome.FAILS, Outcome.UNCHECKED)[self.exit_code]

    @property
    def summary(self) -> str:
        """The outcome in a few words."""
        if self.outcome is Outcome.HOLDS:
            held = "the record holds" if self.seal is None else "seal and record hold"
            return "all holds" if self.code else f"{held}; the code was not run again"
        return "something fails" if self.outcome is Outcome.FAILS else "something could not be checked"

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {
            "name": self.name,
            "run": self.run_id,
            "sha256": self.sha256,
            "outcome": str(self.outcome),
            "exit_code": self.exit_code,
            "code": self.code,
            "asked_again": self.asked_again,
            "audited": dict(self.audited),
            "findings": [finding.as_json() for finding in self.findings],
            "seal": None if self.seal is None else self.seal.as_json(),
            "model": dict(self.model),
            "exchanges": [dict(item) for item in self.exchanges],
            "people": [dict(item) for item in self.people],
            "recorded": dict(self.recorded),
            "rerun": None if self.rerun is None else self.rerun.as_json(),
            "seconds": round(self.seconds, 3),
        }


def few(found: Iterable[Finding]) -> list[Finding]:
    """The first `MOST` findings, and where there are more one that counts the rest and has the worst outcome of them."""
    kept: list[Finding] = []
    left: Counter[Outcome] = Counter()
    for item in found:
        if len(kept) < MOST:
            kept.append(item)
        else:
            left[item.outcome] += 1
    if left:
        worst = Outcome.FAILS if left[Outcome.FAILS] else Outcome.UNCHECKED
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in left.items())
        kept.append(
            Finding(check="all", outcome=worst, cell="run", field="findings", message=f"more than are listed: {told}")
        )
    return kept


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """1 where one fails, else 2 where one is unchecked, else 0."""
    found = set(outcomes)
    return 1 if Outcome.FAILS in found else 2 if Outcome.UNCHECKED in found else 0


def sealed(report: Report) -> str:
    """Who signed what, and what that is worth, in a line."""
    seal = report.seal
    if seal is None and not report.run_id:
        return "No signature was read."
    if seal is None:
        return "Not signed: whoever has had the file may have written it anew."
    told = [f"Signed by {', '.join(seal.signers)}, by their word on {_date(seal.signed)}"] if seal.signers else []
    told += [f"Signed by {item.name} through Sigstore, in the log on {_date(item.time)}" for item in seal.identified]
    line = f"{'; '.join(told) or 'Signed by nobody whose signature holds'}; head {seal.head}."
    if report.signer_expected:
        return line
    return f"{line} Who signed was not compared with whom you know: see --require-signer, --cert-identity."


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")


def of_rerun(rerun: Rerun) -> list[Finding]:
    """The findings of a re-execution: one for each thing that does not hold, one for each cell that cannot be checked."""
    found = [_finding(f"input {item.what}", "pixels", item) for item in rerun.inputs if not item.verdict.holds]
    for cell in rerun.cells:
        where = f"step {cell.step + 1}"
        if cell.verdict is Verdict.NOT_REPLAYABLE:
            fields = ", ".join(item.what for item in cell.comparisons if not item.verdict.holds) or "cell"
            found.append(
                Finding(
                    check="re-execution", outcome=Outcome.UNCHECKED, cell=where, field=fields[:200], message=cell.why
                )
            )
        else:
            found += [_finding(where, item.what, item) for item in cell.comparisons if not item.verdict.holds]
    return found


def _finding(where: str, field: str, item: Comparison) -> Finding:
    message = f"{item.verdict}: {item.how}" if item.how else f"{item.verdict}: {' against '.join(item.texts)}"
    outcome = Outcome.UNCHECKED if item.verdict.holds is None else Outcome.FAILS
    return Finding(check="re-execution", outcome=outcome, cell=where, field=field, message=excerpt(message))
