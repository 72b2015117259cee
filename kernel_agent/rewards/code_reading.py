"""Operations as the released code reads them out of a call's code and description (digest section 6.4), its faults included.

Only the reference set asks this. Behaviour for behaviour, checked against the released detector without its language model:
`Image.Transpose.X`, `cv2.flip`, `np.fliplr` and boxes made of `image.size` are missed; `np.rot90(a, 2)` is a rotation by 90
degrees; an enhancement by 1.02 counts; words like "crop" in the description count; a name holds what the lines before gave it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

_Value: TypeAlias = "float | list[float] | None"
_RIGHT_ANGLES = (90, 180, 270)
_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_COORDINATE = r"\s*([-+]?[\d.]+)\s*"
_LITERAL_BOX = re.compile(r"\.crop\(\(" + ",".join([_COORDINATE] * 4) + r"\)\)")
_SAID_BOXES = tuple(
    re.compile(opened + ",".join([r"\s*(-?[\d.]+)\s*"] * 4) + closed)
    for opened, closed in ((r"\[", r"\]"), (r"\(", r"\)"))
)
_ROTATE = re.compile(r"\.rotate\(\s*([^,\)]+)\s*(?:,\s*[^)]*)?\)")
_ROT90 = re.compile(r"np\.rot90\(\s*[^,\s)]+\s*(?:,\s*k\s*=\s*([-+]?\d+))?")
_ENHANCE = re.compile(
    r"ImageEnhance\.(Brightness|Contrast|Sharpness|Color)\s*\(\s*[^)]+\s*\)\s*\.enhance\(\s*([^\)]+?)\s*\)"
)
_FILTER = re.compile(r"ImageFilter\.([A-Za-z_]+)")
_SCALE = re.compile(r"cv2\.convertScaleAbs\(\s*[^\)]*\)")
_FILTERS = {
    "BLUR": "blur",
    "BOXBLUR": "blur",
    "GAUSSIANBLUR": "gaussian_blur",
    "MEDIANFILTER": "median_blur",
    "SHARPEN": "sharpen",
    "UNSHARPMASK": "sharpen",
    "SMOOTH": "smooth",
    "SMOOTH_MORE": "smooth",
    "DETAIL": "detail",
    "FIND_EDGES": "edge_detect",
}


def _call(name: str) -> str:
    return re.escape(name) + r"\(\s*[^\)]*\)"


_TURNS = (
    *((rf"transpose\(\s*Image\.ROTATE_{angle}\s*\)", f"rotate_{angle}") for angle in _RIGHT_ANGLES),
    *(
        (rf"cv2\.rotate\(\s*[^,)]*\s*,\s*cv2\.ROTATE_{how}\s*\)", name)
        for how, name in (("90_CLOCKWISE", "rotate_270"), ("180", "rotate_180"), ("90_COUNTERCLOCKWISE", "rotate_90"))
    ),
    (r"ImageOps\.mirror|transpose\(\s*Image\.FLIP_LEFT_RIGHT\s*\)", "flip_horizontal"),
    (r"ImageOps\.flip|transpose\(\s*Image\.FLIP_TOP_BOTTOM\s*\)", "flip_vertical"),
)
_OTHERS = (
    (r"\.convert\(\s*['\"]L['\"]\s*\)", "grayscale"),
    (r"cv2\.cvtColor\(\s*[^,]+,\s*cv2\.COLOR_(?:BGR|RGB)2GRAY\s*\)", "grayscale"),
    (r"\.resize\(\s*\(\s*[^\)]+\)\s*\)", "resize"),
    (r"ImageOps\.fit\(\s*[^,]+,\s*\(\s*[^\)]+\)\s*\)", "resize"),
    *((_call(f"ImageOps.{name}"), name) for name in ("autocontrast", "equalize", "invert", "solarize", "posterize")),
    (_call("cv2.GaussianBlur"), "gaussian_blur"),
    (r"cv2\.(?:blur|boxFilter)\(\s*[^\)]*\)", "blur"),
    (_call("cv2.medianBlur"), "median_blur"),
    *((_call(f"cv2.{name}"), "edge_detect") for name in ("Canny", "Sobel", "Laplacian")),
    *((_call(f"cv2.{name}"), name) for name in ("erode", "dilate")),
    (_call("cv2.equalizeHist"), "equalize"),
)


def read_call(code: str, description: str) -> tuple[list[str], list[list[float]]]:
    """(names of operations, crop boxes) of one call."""
    boxes = _boxes(code)
    used = [*_turns(code), *_effects(code), *(["crop"] if boxes else []), *_said(description)]
    return list(dict.fromkeys(used)), boxes or _said_box(description)


def _turns(code: str) -> list[str]:
    used = []
    for match in _ROTATE.finditer(code):
        angle = _alone(match[1].strip())
        if angle is not None:
            used += [f"rotate_{near}" for near in _RIGHT_ANGLES if abs((angle % 360 - near + 180) % 360 - 180) <= 5]
    for match in _ROT90.finditer(code):
        quarter = int(match[1] or 1) % 4
        used += [f"rotate_{90 * quarter}"] if quarter else []
    return used + [name for pattern, name in _TURNS if re.search(pattern, code)]


def _effects(code: str) -> list[str]:
    used = []
    for match in _ENHANCE.finditer(code):
        used.append(_graded(match[1].lower(), _alone(match[2].strip()), 0.95, 1.05))
    for match in _FILTER.finditer(code):
        name = match[1].upper()
        if name in _FILTERS or name.startswith("EDGE_ENHANCE"):
            used.append(_FILTERS.get(name, "edge_enhance"))
    used += [name for pattern, name in _OTHERS if re.search(pattern, code)]
    for match in _SCALE.finditer(code):
        for argument, kind, low, high in (("alpha", "contrast", 0.95, 1.05), ("beta", "brightness", -0.5, 0.5)):
            if given := re.search(rf"{argument}\s*=\s*{_NUMBER}", match[0]):
                used.append(_graded(kind, float(given[1]), low, high))
    return used


def _graded(kind: str, value: float | None, low: float, high: float) -> str:
    if value is None or low <= value <= high:
        return kind
    return f"{kind}_up" if value > high else f"{kind}_down"


def _said(description: str) -> list[str]:
    said = description.lower()
    used = []
    if "horizontal" in said and ("flip" in said or "mirror" in said):
        used.append("flip_horizontal")
    if "vertical" in said and "flip" in said:
        used.append("flip_vertical")
    return [*used, "crop"] if "crop" in said else used


def _said_box(description: str) -> list[list[float]]:
    for pattern in _SAID_BOXES:
        match = pattern.search(description)
        box = _floats(match.groups()) if match else None
        if box is not None:
            return [box]
    return []


def _floats(texts: Sequence[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _boxes(code: str) -> list[list[float]]:
    found = [*_parsed_boxes(code), *filter(None, (_floats(match.groups()) for match in _LITERAL_BOX.finditer(code)))]
    unique = dict.fromkeys(tuple(round(side, 6) for side in box) for box in found)
    return [list(box) for box in unique]


def _parsed_boxes(code: str) -> list[list[float]]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "crop"
        and node.args
    ]
    boxes = []
    for call in sorted(calls, key=_place):
        box = _value(call.args[0], _names_before(tree, call.lineno))
        if isinstance(box, list) and len(box) == 4:
            boxes.append(box)
    return boxes


def _place(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _names_before(tree: ast.Module, line: int) -> dict[str, _Value]:
    """What assignments on the lines above gave, in order of lines, wherever they stand; a value that is not seen leaves the old one."""
    names: dict[str, _Value] = {}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    for node in sorted(nodes, key=_place):
        if node.lineno >= line:
            break
        if isinstance(node, ast.Assign):
            value = _value(node.value, names)
            for target in node.targets if value is not None else ():
                _assign(target, value, names)
        elif isinstance(node.target, ast.Name) and node.value is not None:
            right = _value(node.value, names)
            new = right if isinstance(node, ast.AnnAssign) else _arithmetic(node.op, names.get(node.target.id), right)
            if new is not None:
                names[node.target.id] = new
    return names


def _assign(target: ast.expr, value: _Value, names: dict[str, _Value]) -> None:
    if isinstance(target, ast.Name):
        names[target.id] = value
    elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, list):
        inner = [one.id for one in target.elts if isinstance(one, ast.Name)]
        if len(inner) == len(value):
            names.update(zip(inner, value, strict=True))


def _alone(text: str) -> float | None:
    """The value of an expression of numbers alone."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if any(isinstance(node, ast.Name | ast.Call | ast.Tuple | ast.List) for node in ast.walk(tree)):
        return None
    value = _value(tree.body, {})
    return value if isinstance(value, float) else None


def _value(node: ast.expr, names: Mapping[str, _Value]) -> _Value:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return names.get(name)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=inner):
            value = _value(inner, names)
            return None if not isinstance(value, float) else value if isinstance(sign, ast.UAdd) else -value
        case ast.BinOp(left=left, op=kind, right=right):
            return _arithmetic(kind, _value(left, names), _value(right, names))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return _all_floats([_value(element, names) for element in elements])
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _called(name, arguments, [_value(argument, names) for argument in arguments])
    return None


def _arithmetic(kind: ast.operator, left: Any, right: Any) -> float | None:
    compute = _ARITHMETIC.get(type(kind))
    if compute is None or not isinstance(left, float) or not isinstance(right, float):
        return None
    try:
        return float(compute(left, right))
    except (ZeroDivisionError, OverflowError):
        return None


def _all_floats(values: Sequence[_Value]) -> list[float] | None:
    floats = [value for value in values if isinstance(value, float)]
    return floats if len(floats) == len(values) else None


def _called(name: str, nodes: Sequence[ast.expr], values: list[_Value]) -> _Value:
    if name in ("tuple", "list"):
        if len(nodes) == 1 and isinstance(nodes[0], ast.Tuple | ast.List) and isinstance(values[0], list):
            return values[0]
        return _all_floats(values) if values else None
    floats = _all_floats(values)
    if name in ("min", "max"):
        return (min if name == "min" else max)(floats) if floats else None
    first = values[0] if values else None
    if not isinstance(first, float):
        return None
    try:
        if name == "round":
            digits = values[1] if len(values) > 1 else None
            return float(round(first, int(digits))) if isinstance(digits, float) else float(round(first))
        return {"int": lambda: float(int(first)), "float": lambda: first, "abs": lambda: abs(first)}[name]()
    except (KeyError, OverflowError, ValueError):
        return None
