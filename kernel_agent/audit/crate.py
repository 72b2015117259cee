"""A run as a Process Run Crate: the RO-Crate metadata that makes a bundle readable to research archives.

Guarantees: follows from the run alone, the same every time. RO-Crate 1.1 with Process Run Crate 0.5
(https://w3id.org/ro/wfrun/process/0.5): one action for the run, one for each cell that ran, with inputs, results, times, how it ended,
the software and its versions, the model, the isolation, and who approved or changed code. Not guaranteed: what a run does not know (a
licence, an author, a publisher, who asked). `bundle.LAYOUT` has to be raised where this module writes something else for the same run.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson

from kernel_agent.audit.model import words
from kernel_agent.trajectory import Trajectory
from kernel_agent.trajectory.codec import encode, text
from kernel_agent.types import ErrorOutput, Json, KernelImage, Status, Step

NAME = "ro-crate-metadata.json"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"},
]
_AGENT, _KERNEL = "https://pypi.org/project/kernel-agent/", "https://www.python.org/"
_STATUS = {True: "http://schema.org/CompletedActionStatus", False: "http://schema.org/FailedActionStatus"}
_DECIDED = {"approved", "code_edited", "refused"}


def crate(run: Trajectory, files: Mapping[str, bytes], images: Mapping[int, str]) -> bytes:
    """The metadata file of a bundle with these files; `images` names the file of each image by index."""
    steps = [step for step in run.steps if step.cell is not None]
    graph: list[dict[str, Json]] = [
        {
            "@id": NAME,
            "@type": "CreativeWork",
            "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            "about": {"@id": "./"},
        },
        _root(run, [*files, "run.ipynb"], steps),
        {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        *_software(run),
        _whole(run, images),
        *(_cell(step, run, images) for step in steps),
        *_people(run),
        {"@id": "run.ipynb", "@type": "File", "name": "The run", "encodingFormat": "application/x-ipynb+json"},
        *(_file(name, data) for name, data in files.items()),
    ]
    whole = {"@context": _CONTEXT, "@graph": _written(graph)}
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def _written(value: Json) -> Json:
    """The same with text that UTF-8 can hold: code may have printed half of a character."""
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_written(item) for item in value]
    return text(value) if isinstance(value, str) else value


def _root(run: Trajectory, names: list[str], steps: list[Step]) -> dict[str, Json]:
    question = run.turns[0].question if run.turns else "(not asked yet)"
    actions = ["#run", *(f"#step-{step.index + 1}" for step in steps)]
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"A CodeVision run: {question[:200]}",
        "description": "A vision-language model answered a question about images by writing Python, which ran in a Jupyter kernel.",
        "datePublished": _time(_ended(run)),
        "license": "Not stated by the run",
        "conformsTo": {"@id": _PROFILE},
        "hasPart": [{"@id": name} for name in sorted(names)],
        "mentions": [{"@id": name} for name in actions],
    }


def _software(run: Trajectory) -> list[dict[str, Json]]:
    """The package, the kernel with all its versions, the model."""
    environment = run.header.get("environment")
    known: Mapping[str, Any] = environment if isinstance(environment, Mapping) else {}
    packages = known.get("packages")
    versions: Mapping[str, Any] = packages if isinstance(packages, Mapping) else {}
    listed = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    model = {key: value for key, value in run.model.items() if value is not None}
    home = _AGENT if _is_embedded(run) else model.get("base_url")
    return [
        {
            "@id": _AGENT,
            "@type": "SoftwareApplication",
            "name": "kernel-agent",
            "url": "https://pypi.org/project/kernel-agent/",
            "softwareVersion": str(versions.get("kernel-agent", "unknown")),
            "softwareRequirements": [{"@id": _KERNEL}, {"@id": _model(run)}],
        },
        {
            "@id": _KERNEL,
            "@type": "SoftwareApplication",
            "name": "Python in a Jupyter kernel",
            "url": "https://www.python.org/",
            "softwareVersion": str(known.get("python", "unknown")),
            "operatingSystem": str(known.get("platform", "unknown")),
            "description": f"Isolation: {run.isolation}. {listed}",
        },
        {
            "@id": _model(run),
            "@type": "SoftwareApplication",
            "name": str(model.get("model", "unknown")),
            "softwareVersion": str(model.get("revision") or model.get("weights_sha256") or "unknown"),
            "description": ", ".join(f"{key} {words(value)}" for key, value in sorted(model.items())),
            **({"url": str(home)} if home else {}),
        },
    ]


def _model(run: Trajectory) -> str:
    """The model as an absolute URI: its address on a server, else a UUID of all that is known of it (RFC 9562, version 5)."""
    if _is_embedded(run):
        return f"{_AGENT}#model"
    if server := run.model.get("base_url"):
        return f"{server}/models/{quote(text(str(run.model.get('model'))), safe='')}"
    known = orjson.dumps(encode(run.model), option=orjson.OPT_SORT_KEYS)
    return uuid.uuid5(uuid.NAMESPACE_URL, known.decode()).urn


def _is_embedded(run: Trajectory) -> bool:
    return (run.model.get("kind"), run.model.get("model")) == ("transformers", "embedded")


def _whole(run: Trajectory, images: Mapping[int, str]) -> dict[str, Json]:
    inputs = [image for image in run.images if image.origin == "input"]
    began = run.turns[0].started if run.turns else _ended(run)
    answer = "no answer" if run.answer is None else run.answer
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": "The run",
        "description": f"{len(run.steps)} steps, ended by {run.stop_reason}: {answer[:500]}",
        "instrument": {"@id": _AGENT},
        "object": _ids(inputs, images),
        "result": {"@id": "run.ipynb"},
        "startTime": _time(began),
        "endTime": _time(_ended(run)),
        "actionStatus": _STATUS[run.answer is not None],
        **({} if run.answer is not None else {"error": f"no answer: {run.stop_reason}"}),
        **_by(run, None),
    }


def _cell(step: Step, run: Trajectory, images: Mapping[int, str]) -> dict[str, Json]:
    assert step.cell is not None
    known = {image.index: image for image in run.images}
    parents = [known[image.parent] for image in step.images if image.parent in known]
    used = list(dict.fromkeys(parent.index for parent in parents)) or [
        image.index for image in run.images if image.origin == "input"
    ]
    ended = [f"{out.ename}: {out.evalue}"[:500] for out in step.cell.outputs if isinstance(out, ErrorOutput)]
    failed = {} if step.cell.status is Status.OK else {"error": ended[-1] if ended else str(step.cell.status)}
    return {
        "@id": f"#step-{step.index + 1}",
        "@type": "CreateAction",
        "name": f"Step {step.index + 1}",
        "description": step.cell.source[:2000],
        "instrument": {"@id": _KERNEL},
        "object": _ids([known[index] for index in used], images),
        "result": _ids(step.images, images) or {"@id": "run.ipynb"},
        "startTime": _time(step.started),
        "endTime": _time(step.started + step.seconds),
        "actionStatus": _STATUS[step.cell.status is Status.OK],
        **failed,
        **_by(run, step.index),
    }


def _by(run: Trajectory, step: int | None) -> dict[str, Json]:
    """Who approved or changed something, of a step or of all."""
    found = {
        str(event.data.get("by") or "somebody")
        for event in run.events
        if event.kind in _DECIDED and step in (None, event.data.get("step"))
    }
    people = [{"@id": _person(name)} for name in sorted(found)]
    return {"agent": people[0] if len(people) == 1 else people} if people else {}


def _people(run: Trajectory) -> list[dict[str, Json]]:
    found = {str(event.data.get("by") or "somebody") for event in run.events if event.kind in _DECIDED}
    return [{"@id": _person(name), "@type": "Person", "name": name} for name in sorted(found)]


def _person(name: str) -> str:
    return f"#person-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:12]}"


def _ids(shown: Sequence[KernelImage], images: Mapping[int, str]) -> Json:
    """References to their files; one stands alone."""
    found = [{"@id": images[image.index]} for image in shown]
    return found[0] if len(found) == 1 else found


def _file(name: str, data: bytes) -> dict[str, Json]:
    kinds = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "gif": "image/gif", "bmp": "image/bmp"}
    return {
        "@id": name,
        "@type": "File",
        "name": name.rpartition("/")[2],
        "encodingFormat": kinds.get(name.rpartition(".")[2], "text/plain"),
        "contentSize": str(len(data)),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _ended(run: Trajectory) -> float:
    turn = run.turns[-1] if run.turns else None
    return 0.0 if turn is None else turn.started + turn.seconds


def _time(seconds: float) -> str:
    held = min(max(seconds, 0.0), 4e9) if math.isfinite(seconds) else 0.0
    return datetime.fromtimestamp(held, UTC).isoformat(timespec="milliseconds")
