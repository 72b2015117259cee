"""What a run says of the model that was asked, and what it says that nobody told.

Guarantees: pure; of each fact either the value or why there is none. A record of before these facts were kept says "not recorded".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kernel_agent.types import Completion, Json, Step

if TYPE_CHECKING:
    from kernel_agent.trajectory import Trajectory

_TITLES = {
    "server_version": "Server's version",
    "revision": "Revision",
    "weights_sha256": "Weights, SHA-256",
    "files_sha256": "Configuration, tokenizer and template, SHA-256",
    "flags": "Server's flags",
}
_LONGEST = 1000
_OF_SERVERS = ("server_version", "flags")


def model_of(trajectory: Trajectory, step: Step) -> Mapping[str, Json]:
    """The description of the model that a step asked: the last one that was noted before the step ended."""
    ended = step.started + step.seconds
    noted = [event for event in trajectory.events if event.kind == "model_described" and event.time <= ended]
    described: Mapping[str, Json] = noted[-1].data if noted else trajectory.header.get("model", {})
    return described


def attributes(model: Mapping[str, Json], said: Completion) -> dict[str, Json]:
    """Of one request: server and model, and the prompt as the model got it; `codevision.not_told` are those without a value."""
    url = model.get("base_url")
    parts = urlsplit(url if isinstance(url, str) else "")
    prompt = said.prompt
    facts: dict[str, Json] = {
        "codevision.prompt.sha256": prompt and prompt.text_sha256,
        "codevision.prompt.tokens.sha256": prompt and prompt.tokens_sha256,
        "codevision.prompt.tokens": prompt and prompt.tokens,
        "codevision.model.revision": model.get("revision"),
        "codevision.model.weights.sha256": model.get("weights_sha256"),
        "codevision.model.files.sha256": model.get("files_sha256"),
    }
    if parts.hostname is not None:
        facts["codevision.server.version"] = model.get("server_version")
    return {
        "server.address": parts.hostname,
        "server.port": parts.port or {"https": 443, "http": 80}.get(parts.scheme),
        "openai.response.system_fingerprint": said.system_fingerprint,
        **facts,
        "codevision.not_told": sorted(name for name, value in facts.items() if value in (None, "")),
    }


def lines(model: Mapping[str, Json]) -> list[tuple[str, str]]:
    """The same for people: title and text; `not told` with the reason where there is no value."""
    served = "base_url" in model
    kind = model.get("server")
    server = {"vllm": "vLLM", "None": "a server that was not asked"}.get(str(kind), "an OpenAI-compatible server")
    where = f" behind {server} at {model['base_url']}" if served else ""
    told = [("Model", f"{model.get('model') or 'not named'} ({model.get('kind') or 'unknown'}){where}")]
    reasons = model.get("not_told")
    for name, title in _TITLES.items():
        value = model.get(name)
        if name in _OF_SERVERS and not served:
            continue
        if value is None:
            why = reasons.get(name) if isinstance(reasons, Mapping) else None
            told.append((title, "not recorded" if name not in model and why is None else _not_told(why)))
        else:
            told.append((title, words(value)))
    if model.get("config"):
        told.append(("Server's configuration", words(model["config"])))
    return [(title, text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …") for title, text in told]


def _not_told(why: Json) -> str:
    return "not told" if why is None else str(why) if str(why).startswith("not ") else f"not told: {why}"


def words(value: Json) -> str:
    """A value of a description as text: flags as they are typed."""
    if not isinstance(value, Mapping):
        return str(value)
    return " ".join(name if inner is True else f"{name} {inner}" for name, inner in value.items())
