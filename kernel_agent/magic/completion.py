"""Completion of the magic's line: its options, and the variables that hold pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kernel_agent.magic.variables import is_picture

_LINE = re.compile(r"^%{1,2}codevision(_config)?\s")


def candidates(line: str, token: str, options: Sequence[str], namespace: Mapping[str, Any]) -> list[str] | None:
    """What can stand at the end of `line` in place of `token`; None where the line is not ours."""
    found = _LINE.match(line.lstrip())
    if found is None:
        return None
    if token.startswith("-"):
        return [option for option in options if option.startswith(token)]
    if found[1] or line.count('"') % 2:  # inside the question
        return []
    return sorted(
        name
        for name, value in namespace.items()
        if name.startswith(token) and (name == "_" or not name.startswith("_")) and is_picture(value)
    )


def install(shell: Any, options: Sequence[str]) -> None:
    """Add the matcher to a shell's completer."""
    from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

    @context_matcher(identifier="codevision", priority=200)  # type: ignore[untyped-decorator]
    def codevision_matcher(context: CompletionContext) -> SimpleMatcherResult:
        line = context.line_with_cursor[: context.cursor_position]
        token = re.split(r"[\s]", line)[-1]
        found = candidates(line, token, options, shell.user_ns)
        items = [SimpleCompletion(text, type="option" if text[0] == "-" else "variable") for text in found or ()]
        result: SimpleMatcherResult = {"completions": items, "matched_fragment": token}
        if found and token.startswith("-"):
            result["suppress"] = True
        return result

    remove(shell)
    shell.Completer.custom_matchers.append(codevision_matcher)


def remove(shell: Any) -> None:
    """Take the matcher away again."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") != "codevision"]
