"""How a model says "run this": one module a family, chosen by name.

| name | the model writes | images are called |
|---|---|---|
| native | `<tool_call>` JSON for `code_image_tool` (CodeVision, Qwen-VL) | `image_0`; the chosen one also `image` |
| openai | OpenAI tool calls | `image_0`; the chosen one also `image` |
| fenced | one Markdown block of Python | `image_0` |
| pyvision | `<code>`, results in `<interpreter>` | `image_clue_0` |
| deepeyes | `<code>`, results in `<interpreter>` (DeepEyesV2) | `image_1`, counted from 1 |
| thyme | `<code>`, results in `<sandbox_output>` | files `image_0.png` |
"""

from __future__ import annotations

from kernel_agent.errors import InputError
from kernel_agent.protocols.base import Parsed, Protocol
from kernel_agent.protocols.code_blocks import CodeTags, Fenced
from kernel_agent.protocols.native import Native
from kernel_agent.protocols.openai_tools import OpenAITools
from kernel_agent.types import Names

__all__ = ["PROTOCOLS", "Parsed", "Protocol", "get_protocol"]

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Native(),
        OpenAITools(),
        Fenced(),
        CodeTags("pyvision", Names(pattern="image_clue_{i}"), "interpreter"),
        CodeTags("deepeyes", Names(first=1), "interpreter"),
        CodeTags("thyme", Names(saved_files=True), "sandbox_output"),
    )
}
"""All protocols by name."""


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; InputError lists the names there are."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise InputError(f"There is no protocol {name!r}. Choose one of: {', '.join(PROTOCOLS)}.") from None
