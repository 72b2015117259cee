"""Models: whatever turns a `Request` into a `Completion`.

Importing this module loads neither the HTTP client nor torch, transformers or vLLM; each name below does so on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kernel_agent.types import Completion, Json, Request

if TYPE_CHECKING:
    from kernel_agent.models.http import Timeouts
    from kernel_agent.models.local import TransformersModel, embedded
    from kernel_agent.models.openai import OpenAIModel
    from kernel_agent.models.scripted import ScriptedModel
    from kernel_agent.models.vllm_server import VLLMServer, serve

__all__ = [
    "Model",
    "OpenAIModel",
    "ScriptedModel",
    "Timeouts",
    "TransformersModel",
    "VLLMServer",
    "embedded",
    "serve",
]


@runtime_checkable
class Model(Protocol):
    """What the agent needs of a model. Every implementation may be used for many runs at once from one event loop."""

    @property
    def name(self) -> str:
        """As shown to people."""

    async def complete(self, request: Request, *, on_text: Callable[[str], None] | None = None) -> Completion:
        """Answer one request.

        `on_text` is called in the event loop with each piece of text as it is written; a retry that starts the text
        again says so in a piece of its own. It is for display: the text that counts is the completion's. Raises
        `errors.ModelError`. Cancelling the task stops the work (and closes the connection) promptly.
        """

    async def aclose(self) -> None:
        """Release connections or weights. Closing twice is fine."""

    def describe(self) -> Mapping[str, Json]:
        """For the trajectory: `kind`, model id, revision, hashes of weights and files, URL without credentials, what is known of the
        server; `not_told` says of what is None why. It may grow when a completion was made.
        """


_HOME = {
    "OpenAIModel": "openai",
    "Timeouts": "http",
    "ScriptedModel": "scripted",
    "TransformersModel": "local",
    "embedded": "local",
    "VLLMServer": "vllm_server",
    "serve": "vllm_server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kernel_agent.models' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"kernel_agent.models.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
