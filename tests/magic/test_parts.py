"""Parts of the magics that need no kernel."""

from __future__ import annotations

import pytest

from kernel_agent.magic.completion import candidates
from kernel_agent.magic.view import merged, tokens


@pytest.mark.parametrize("code", ["", "x = 1", "def f():\n\treturn 'é\\n'  # <b>\n\n\n", "a b ( '", "\n\n x"])
def test_tokens_are_the_code(code: str) -> None:
    assert "".join(text for _, text in tokens(code)) == code


def test_tokens_name_what_they_are() -> None:
    assert ["k", "return"] in tokens("return 1")


def test_pieces_of_text_are_joined() -> None:
    def piece(seq: int, text: str, step: int = 0, **more: bool) -> dict[str, object]:
        return {"seq": seq, "type": "writing", "step": step, "text": text, **more}

    action = {"seq": 4, "type": "action", "step": 0}
    entries = [piece(1, "a", whole=True), piece(2, "b"), piece(3, "c"), action, piece(5, "d", 1), piece(6, "e", 2)]
    assert list(merged(entries)) == [piece(3, "abc", whole=True), action, piece(5, "d", 1), piece(6, "e", 2)]


def test_candidates() -> None:
    import numpy as np

    space = {
        "pixels": np.zeros((4, 5)),
        "phrase": "x",
        "_": np.zeros((4, 5, 3)),
        "_p": np.zeros((4, 5)),
        "vector": np.ones(3),
    }
    options = ["--save", "--steps"]
    assert candidates("%codevision --s", "--s", options, space) == options
    assert candidates('%%codevision "q" ', "", options, space) == ["_", "pixels"]
    assert candidates('%codevision "what p', "p", options, space) == []
    assert candidates("%codevisions p", "p", options, space) is None
    assert candidates("print(p", "p", options, space) is None
