"""The crates in bundles under rocrate-validator, in its own environment (make test-crate): what is missing there fails."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forging import record
from PIL import Image

from kernel_agent import Agent, Budget, Task
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.models import OpenAIModel, ScriptedModel
from kernel_agent.steering import Decision
from kernel_agent.types import RunCode, Status
from tests.model_server import call

pytestmark = pytest.mark.crate
PYTHON = Path(os.environ.get("CODEVISION_CRATE_PYTHON") or Path(__file__).parents[2] / ".venv-crate/bin/python")

AGENT = {"The Action SHOULD have an agent that is a Person or Organization"}
NOT_KNOWN = AGENT | {
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the schema_org:license type",
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the `author` of the RO-Crate",
    "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`",
}
"""What no run knows: who asked (unless a person decided about its code), who may use it, who made and published the bundle."""
SCRIPTED = {"The Application SHOULD have a url", "The SoftwareApplication id SHOULD be an absolute URI"}
"""The scripted model is nowhere to be had; its name, a URN, is absolute, but no address of the web."""


def _found(level: str, *crates: Path) -> list[list[dict[str, str]]]:
    """What the validator finds in each crate."""
    assert PYTHON.exists(), f"{PYTHON} is missing: make test-crate makes its environment"
    command = [PYTHON, Path(__file__).with_name("validate_crates.py"), crates[0].parent, level, *crates]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [found[str(crate)] for crate in crates]


def _bundled(path: Path) -> Path:
    write_bundle(path, path.with_suffix(".zip"))
    return path.with_suffix(".zip")


class _Person:
    """Changes the first code, and lets the second run."""

    async def before_model(self, step: int) -> None:
        """Nothing."""

    async def before_code(self, step: int, action: RunCode) -> Decision | None:
        return Decision(code=("image_0.size", action.code)[step], by="ann")


async def _steered(picture: Image.Image, path: Path) -> None:
    replies = [f"```python\n{code}\n```" for code in ("1", "image_0.rotate(90)")]
    conversation = Agent(ScriptedModel([*replies, "<answer>7</answer>"]), protocol="fenced").converse(
        (picture,), save_to=path
    )
    await conversation.ask("How many?", steering=_Person())
    await conversation.aclose()


async def test_crates_of_all_kinds_of_runs_are_accepted(
    picture: Image.Image, serve: Callable[..., str], tmp_path: Path
) -> None:
    """Each has what is required, and of what is recommended all that a run can know."""
    stopped, lossy, person, served, on = (
        tmp_path / f"{n}.ipynb" for n in ("stopped", "lossy", "person", "served", "on")
    )
    codes = [
        "image_0.rotate(90, expand=True)",
        "1 / 0",
        "while True: pass",
        "import os\nos._exit(1)",
        "print('\\ud800')",
    ]
    run = await record(codes, picture, path=stopped, cell_seconds=5.0)
    assert [step.cell.status for step in run.steps if step.cell] == [
        Status.OK, Status.ERROR, Status.TIMEOUT, Status.KILLED, Status.OK
    ]  # fmt: skip
    await record(["image_0.rotate(10)"], picture, path=lossy, jpeg=True)
    await _steered(picture, person)
    run = await record(["image_0.rotate(180)"], picture, path=on)
    more = ScriptedModel(["I look.\n```python\nimage_1.rotate(90)\n```"])
    await asyncio.to_thread(run.ask, "and now?", model=more, budget=Budget(steps=1))  # no answer
    run.close()
    assert (run.answer, len(run.turns)) == (None, 2)
    model = OpenAIModel("qwen 3/vl", base_url=serve(call("result = image.rotate(90)"), "<answer>7</answer>"))
    await Agent(model).arun(Task(question="How many?", images=(picture,)), save_to=served)
    crates = [_bundled(path) for path in (stopped, lossy, person, on, served)]
    assert _found("REQUIRED", *crates) == [[]] * len(crates)
    wished = _found("RECOMMENDED", *crates)
    told = [{item["what"] for item in found} for found in wished]
    assert told == [
        NOT_KNOWN | SCRIPTED,
        NOT_KNOWN | SCRIPTED,
        (NOT_KNOWN - AGENT) | SCRIPTED,
        NOT_KNOWN | SCRIPTED,
        NOT_KNOWN,
    ]


def _without(graph: list[dict[str, Any]], name: str, key: str) -> None:
    del next(item for item in graph if item["@id"] == name)[key]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda graph: _without(graph, "./", "datePublished"), "datePublished"),
        (lambda graph: _without(graph, "./", "license"), "license"),
        (lambda graph: _without(graph, "#step-1", "instrument"), "The Action MUST have an instrument"),
        (lambda graph: _without(graph, "ro-crate-metadata.json", "conformsTo"), "conformsTo"),
    ],
)
async def test_a_crate_that_lacks_what_is_required_is_refused(
    harm: Callable[[Any], Any], told: str, picture: Image.Image, tmp_path: Path
) -> None:
    await record(["image_0.rotate(90, expand=True)"], picture, path=tmp_path / "run.ipynb")
    path = _bundled(tmp_path / "run.ipynb")
    with zipfile.ZipFile(path) as bundle:
        held = {name: bundle.read(name) for name in bundle.namelist()}
    crate = json.loads(held["ro-crate-metadata.json"])
    harm(crate["@graph"])
    held["ro-crate-metadata.json"] = json.dumps(crate).encode()
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in held.items():
            bundle.writestr(name, data)
    [found] = _found("REQUIRED", path)
    assert any(told in f"{item['what']} {item['where']}" for item in found), found
