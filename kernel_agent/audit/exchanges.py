"""What the model was asked and what it said, request by request, under the names of OpenTelemetry's `gen_ai` conventions.

Guarantees: pure; each request is whole again (requests only grow, so it is all new messages up to there) and has one hash over every
text, role and image as sent, and beside it, where the model told, the hash of the prompt that it became (`RenderedPrompt`). `replay` asks
a live model the very same requests with the recorded sampling and tells, step by step, what parts first: prompt, token or text. It is a weaker check than running code again: the same weights on other hardware, another version
or another batch may give other tokens (vLLM needs VLLM_BATCH_INVARIANT=1), so a difference is "unchecked", never "fails".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from kernel_agent.audit.finding import Finding, Outcome, Report
from kernel_agent.audit.model import attributes, model_of
from kernel_agent.audit.verdicts import excerpt
from kernel_agent.errors import ModelError
from kernel_agent.protocols import PROTOCOLS
from kernel_agent.trajectory.codec import encode
from kernel_agent.trajectory.records import sha256
from kernel_agent.types import Completion, ImagePart, Json, KernelImage, Message, Request, Step

if TYPE_CHECKING:
    from kernel_agent.models import Model
    from kernel_agent.trajectory import Trajectory

CHECK = "the model again"
_AROUND = 60


def requests(trajectory: Trajectory) -> Iterator[tuple[Step, Request]]:
    """Each step with the request that led to it."""
    name = trajectory.header.get("protocol")
    protocol = PROTOCOLS.get(name) if isinstance(name, str) else None
    sent: list[Message] = []
    for step in trajectory.steps:
        sent += step.new_messages
        tools = protocol.tools if protocol is not None else ()
        yield step, Request(messages=tuple(sent), tools=tools, sampling=step.sampling)


def exchanges(trajectory: Trajectory) -> list[dict[str, Json]]:
    """One object a request."""
    return [_exchange(trajectory, *item) for item in zip(requests(trajectory), _digests(trajectory), strict=True)]


def _exchange(trajectory: Trajectory, asked: tuple[Step, Request], digest: str) -> dict[str, Json]:
    step, request = asked
    said, sampling, model = step.completion, step.sampling, model_of(trajectory, step)
    shown = [part.image for message in step.new_messages for part in message.content if isinstance(part, ImagePart)]
    events = [event.kind for event in (*said.events, *step.events)]
    told: dict[str, Json] = {
        "step": step.index + 1,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.get("server") or model.get("kind"),
        "gen_ai.request.model": model.get("model"),
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.stop_sequences": list(sampling.stop),
        "gen_ai.request.choice.count": sampling.n if sampling.n != 1 else None,
        "gen_ai.response.model": said.model,
        "gen_ai.response.id": said.response_id,
        "gen_ai.response.finish_reasons": [said.finish_reason],
        "gen_ai.usage.input_tokens": said.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": said.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": said.usage.cached_tokens or None,
        **attributes(model, said),
        "codevision.request.sha256": digest,
        "codevision.request.messages": len(request.messages),
        "codevision.request.new_images": [_image(image) for image in shown],
        "codevision.response.sha256": hashlib.sha256(_said(said).encode("utf-8", "backslashreplace")).hexdigest(),
        "codevision.events": events,
    }
    return {name: value for name, value in told.items() if value not in (None, "", [])}


def _image(image: KernelImage) -> dict[str, Json]:
    """Before and after resizing."""
    return {
        "name": image.name,
        "size": list(image.size),
        "sha256": sha256(image.data),
        "sent_size": list(image.view_size),
        "sent_sha256": sha256(image.view),
    }


def people(trajectory: Trajectory) -> list[dict[str, Json]]:
    """Who approved, changed or refused the code of a step, and when."""
    return [
        {
            "step": step + 1 if isinstance(step := event.data.get("step"), int) else None,
            "what": event.kind,
            "by": event.data.get("by", ""),
            "time": event.time,
        }
        for event in trajectory.events
        if event.kind in ("approved", "code_edited", "refused")
    ]


def _digests(trajectory: Trajectory) -> Iterator[str]:
    """SHA-256 of each request: a line of JSON a message, its images by what was sent of them, then tools and sampling."""

    def refer(image: KernelImage) -> Json:
        return {"name": image.name, "sha256": sha256(image.view)}

    messages = hashlib.sha256()
    for step, request in requests(trajectory):
        for message in step.new_messages:
            messages.update(orjson.dumps(encode(message, refer), option=orjson.OPT_SORT_KEYS) + b"\n")
        whole = messages.copy()
        rest = [encode(list(request.tools)), encode(request.sampling)]
        whole.update(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS))
        yield whole.hexdigest()


async def replay(trajectory: Trajectory, model: Model) -> list[Finding]:
    """Ask a live model every request again; a finding for each step that gives something else or could not be asked."""
    found = []
    for step, request in requests(trajectory):
        where = f"step {step.index + 1}"
        try:
            again = await model.complete(request)
        except ModelError as error:
            found.append(_finding(where, "completion", f"the model could not be asked: {error}"))
            break
        prompt, wrote = other_prompt(step.completion, again), divergence(step.completion, again)
        if prompt is not None:
            then = "it writes the same" if wrote is None else f"then {wrote}"
            found.append(_finding(where, "prompt", f"{prompt}; {then}"))
        elif wrote is not None:
            found.append(_finding(where, "completion", wrote))
    return found


def told_again(report: Report) -> str:
    """What came of asking a model again, in a line; "" where none was asked."""
    if not report.asked_again:
        return ""
    found = sum(item.check == CHECK for item in report.findings)
    return f"not all as recorded: findings: {found}" if found else "it writes all as recorded"


def other_prompt(recorded: Completion, again: Completion) -> str | None:
    """How the same request became another prompt: that is not the sampling's doing. None where it did not, or one is not told."""
    old, new = recorded.prompt, again.prompt
    if old is None or new is None or old.tokens_sha256 == new.tokens_sha256:
        return None
    counts = f"{old.tokens} tokens then, {new.tokens} now"
    if not old.text_sha256 or not new.text_sha256:
        return f"the prompt is another one ({counts}): chat template, tokenizer or processor differ"
    if old.text_sha256 == new.text_sha256:
        return f"the chat template gives the same text, but tokenizer or processor give other tokens ({counts})"
    return f"the chat template gives another prompt ({counts})"


def divergence(recorded: Completion, again: Completion) -> str | None:
    """Where two completions part: by token where both tell theirs, and by character. None where they are the same."""
    old, new = _said(recorded), _said(again)
    were, are = (completion.token_ids.split() for completion in (recorded, again))
    if not were or not are:
        were, are = ([item.token for item in completion.logprobs] for completion in (recorded, again))
    both = bool(were and are)
    if old == new:
        if both and were != are:
            return f"it writes the same text in other tokens, from token {_first(were, are) + 1} of {len(were)} on"
        return None
    at = _first(old, new)
    tokens = f"token {_first(were, are) + 1} of {len(were)}, " if both and were != are else ""
    though = ", though its tokens are the recorded ones" if both and were == are else ""
    start = max(0, at - _AROUND)
    return (
        f"it writes something else from {tokens}character {at + 1} on{though}:"
        f" {excerpt(old[start : at + _AROUND])!r} then, {excerpt(new[start : at + _AROUND])!r} now"
    )


def _first(one: Sequence[str], other: Sequence[str]) -> int:
    """Index of the first place where they are not the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _said(completion: Completion) -> str:
    calls = [f"{call.name}({call.arguments})" for call in completion.tool_calls]
    return "\n".join([completion.text, *calls])


def _finding(cell: str, field: str, message: str) -> Finding:
    return Finding(check=CHECK, outcome=Outcome.UNCHECKED, cell=cell, field=field, message=message)
