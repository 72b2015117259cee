"""Text on its way to a model: surrogates joined, lone ones replaced, nothing lost; no text that would count as an image."""

from __future__ import annotations

import json
from collections.abc import Iterable

IMAGE_TOKENS = (
    "<image>", "<|image_pad|>", "<|video_pad|>", "<|image|>", "<|patch|>", "<IMG_CONTEXT>", "<image_soft_token>",
    "<|media_pad|>", "<image_placeholder>", "[IMG]",
)  # fmt: skip
"""What stands for an image in the prompts of the usual model families (LLaVA, Idefics, Qwen, Llama, InternVL, Gemma, Kimi, ...)."""


def break_up(text: str, tokens: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Text in which no literal image token is left, and those that were in it.

    One in a question or in what a cell printed would take an image's place in the prompt.
    """
    found = tuple(token for token in tokens if token in text)
    for token in found:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text, found


def mend(text: str) -> tuple[str, str | None]:
    """Text that UTF-8 can hold, and the original as an ASCII JSON string where anything was replaced.

    Surrogate pairs that arrived in two pieces become the character they mean; each lone surrogate becomes U+FFFD.
    """
    if text.isascii():
        return text, None
    try:
        text.encode()
    except UnicodeEncodeError:
        units = text.encode("utf-16", "surrogatepass")
        lone = any("\ud800" <= char <= "\udfff" for char in units.decode("utf-16", "surrogatepass"))
        return units.decode("utf-16", "replace"), json.dumps(text) if lone else None
    return text, None


class Mender:
    """`mend` for a stream: a high surrogate at the end of a piece waits for the next piece."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """The part of what came so far that can be shown."""
        piece, self._held = self._held + piece, ""
        if piece and "\ud800" <= piece[-1] <= "\udbff":
            piece, self._held = piece[:-1], piece[-1]
        return mend(piece)[0]
