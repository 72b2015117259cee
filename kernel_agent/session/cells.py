"""From the model's code to the notebook cell that runs: a binding line before it, the result shown after it.

What is added is part of the cell as saved, so that the notebook shows the same pictures when it is run again.
"""

from __future__ import annotations

import ast
import re

_FENCE = re.compile(r"\A\s*```(?:python|py)?[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
_ASSIGNED = re.compile(r"^(result|output)[ \t]*=(?!=)", re.MULTILINE)
_RESULTS = ("result", "output")


def cell_source(code: str, image_index: int | None = None) -> str:
    """The cell for `code`; with `image_index` the chosen image is bound to `image`, `img` and `draw` as the paper's tool does.

    A variable `result` (or `output`) assigned at top level and not shown by the code itself becomes the last expression.
    A Markdown fence around the whole code is taken off.
    """
    code = code.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent, stored or compiled
    fenced = _FENCE.match(code)
    code = (fenced[1] if fenced else code).strip("\n").rstrip()
    shown = _result_to_show(code)
    lines = [code] if shown is None else [code, shown]
    if image_index is not None:
        lines.insert(0, f"image = img = images[{image_index}].copy(); draw = ImageDraw.Draw(image)")
    return "\n".join(lines)


def _result_to_show(code: str) -> str | None:
    """Name of the result variable to append, or None where there is none or the code shows it."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        names = _ASSIGNED.findall(code)  # a magic or a shell line: IPython will read it
        return names[-1] if names and not code.endswith(names[-1]) else None
    assigned = {
        node.id
        for statement in tree.body
        for node in _top_level(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    name = next((name for name in _RESULTS if name in assigned), None)
    if name is None or not tree.body:
        return None
    last = tree.body[-1]
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Name) and last.value.id == name:
        return None
    return None if any(_shows(node, name) for node in ast.walk(tree)) else name


def _top_level(statement: ast.stmt) -> list[ast.AST]:
    """All nodes of a statement but those inside functions, classes and lambdas."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return []
    found: list[ast.AST] = []
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        found.append(node)
        inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        stack += [child for child in ast.iter_child_nodes(node) if not isinstance(child, inner)]
    return found


def _shows(node: ast.AST, name: str) -> bool:
    """Whether a call is `display(name)` or `name.show()`."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr == "show":
        return isinstance(function.value, ast.Name) and function.value.id == name
    if isinstance(function, ast.Name) and function.id == "display":
        return any(isinstance(argument, ast.Name) and argument.id == name for argument in node.args)
    return False
