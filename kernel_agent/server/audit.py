"""Audits of the server's runs, for the panel: what holds, cell by cell."""

from __future__ import annotations

import asyncio

from kernel_agent.audit.finding import Report, sealed
from kernel_agent.errors import LiveError
from kernel_agent.live import RunState
from kernel_agent.server.base import Handler, guarded
from kernel_agent.types import Json


class AuditHandler(Handler):
    """Checks a run as `codevision audit` does, with a kernel as isolated as the server's others."""

    @guarded
    async def post(self, run_id: str) -> None:
        """Audit it; the answer comes when every cell has been run again."""
        run = await self.run_of(run_id)
        if run.state not in (RunState.IDLE, RunState.CLOSED):
            raise LiveError(f"the run is {run.state}: audit it when its turn is over, or stop it")
        report = await asyncio.to_thread(run.trajectory.audit, kernel=self.runs.kernel, pictures=False)
        self.give(told(report))


def told(report: Report) -> Json:
    """outcome (holds, fails, unchecked), signed (a line on the signature), cells {step, verdict, why}, findings."""
    cells = report.rerun.cells if report.rerun is not None else ()
    return {
        "outcome": str(report.outcome),
        "signed": sealed(report),
        "cells": [{"step": cell.step, "verdict": str(cell.verdict), "why": cell.why} for cell in cells],
        "findings": [finding.as_json() for finding in report.findings],
    }
