"""What the tests of Sigstore signatures share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from typer.testing import CliRunner

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Report
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected
from kernel_agent.audit.sigstore_check import Trust
from kernel_agent.audit.sigstore_sign import SigstoreSigner
from kernel_agent.blocking import run_blocking
from kernel_agent.cli import app

ALICE = "alice@example.org"
NO_CODE = RerunOptions(code=False)


def signer_for(instance: Any, email: str = ALICE) -> SigstoreSigner:
    return SigstoreSigner(instance.token(email), Trust(instance=instance.config))


def expecting(instance: Any, *emails: str) -> Expected:
    return Expected(
        identities=tuple((email, instance.issuer) for email in emails), trust=Trust(instance=instance.config)
    )


def audited(data: bytes, path: Path, expected: Expected) -> Report:
    path.write_bytes(data)
    return run_blocking(audit_file(path, NO_CODE, expected=expected))[0]


def places(report: Report) -> set[tuple[str, str, str]]:
    return {(str(item.outcome), item.cell, item.field) for item in report.findings if item.check == "integrity"}


def changed(data: bytes, change: Callable[[Any], Any]) -> bytes:
    notebook = orjson.loads(data)
    change(notebook)
    return orjson.dumps(notebook)


def seal_of(notebook: Any) -> Any:
    return notebook["metadata"]["codevision"]["seal"]


def bundle_of(data: bytes) -> Any:
    return seal_of(orjson.loads(data))["sigstore"][0]


def command_line(*given: str, **options: Any) -> Any:
    return CliRunner().invoke(app, [*given], **options)


def guess(notebook: Any) -> None:
    next(cell for cell in notebook["cells"] if cell["id"] == "step-0-thought")["source"] = ["I guess."]


def entry(notebook: Any) -> Any:
    return seal_of(notebook)["sigstore"][0]["verificationMaterial"]["tlogEntries"][0]
