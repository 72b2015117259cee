from __future__ import annotations

import pytest

from kernel_agent.session.cells import cell_source

BIND = "image = img = images[2].copy(); draw = ImageDraw.Draw(image)\n"


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("x = 1", "x = 1"),
        ("result = image", "result = image\nresult"),
        ("output = image", "output = image\noutput"),
        ("output = 1\nresult = 2", "output = 1\nresult = 2\nresult"),
        ("result = image\nresult", "result = image\nresult"),
        ("result = image\ndisplay(result)", "result = image\ndisplay(result)"),
        ("result = image\nresult.show()", "result = image\nresult.show()"),
        ("result = image\nprint(result.size)", "result = image\nprint(result.size)\nresult"),
        ("if True:\n    result = 1", "if True:\n    result = 1\nresult"),
        ("def f():\n    result = 1", "def f():\n    result = 1"),
        ("f = lambda: (result := 1)", "f = lambda: (result := 1)"),
        ("a, result = 1, 2", "a, result = 1, 2\nresult"),
        ("%matplotlib inline\nresult = 3", "%matplotlib inline\nresult = 3\nresult"),
        ("```python\nresult = 1\n```", "result = 1\nresult"),
        ("result == 1", "result == 1"),
        ("broken (", "broken ("),
    ],
)
def test_what_is_added(code: str, source: str) -> None:
    assert cell_source(code) == source


def test_binding_comes_first() -> None:
    assert cell_source("result = image", 2) == BIND + "result = image\nresult"
