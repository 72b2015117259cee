"""Token ids as they are recorded: those of a prompt as a hash and their number, those of a completion in full."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TypeGuard

from kernel_agent.models.text import mend
from kernel_agent.types import Json, RenderedPrompt


def rendered_prompt(ids: Sequence[int], text: str | None) -> RenderedPrompt:
    """The record of a prompt (see `RenderedPrompt`). Equal ids have equal hashes, wherever the model runs."""
    return RenderedPrompt(
        tokens=len(ids),
        tokens_sha256=hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest(),
        text_sha256="" if text is None else hashlib.sha256(mend(text)[0].encode()).hexdigest(),
    )


def joined(ids: Sequence[int]) -> str:
    """Ids as `Completion.token_ids` has them: one text, so that a seal has one digest for them."""
    return " ".join(map(str, ids))


def are_ids(value: Json) -> TypeGuard[list[int]]:
    """Whether what a server sent is a list of token ids."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**32 for item in value)
