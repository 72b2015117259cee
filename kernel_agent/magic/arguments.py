"""The options of the magics. They have the names of `RunOptions` and of `codevision ask`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments
from IPython.utils.process import arg_split

from kernel_agent.errors import InputError

Decorator = Callable[[Any], Any]

_RUN: tuple[tuple[str, type, str], ...] = (
    ("model", str, "Model name on the server, a checkpoint folder, or embedded."),
    ("base_url", str, "OpenAI-compatible server; its key comes from CODEVISION_API_KEY."),
    ("protocol", str, "How the model writes code: native, openai, fenced, pyvision, deepeyes, thyme."),
    ("isolation", str, "Least isolation of the agent's kernel: strong, medium, container, auto."),
    ("steps", int, "Most model calls."),
    ("seconds", float, "Most seconds in all."),
    ("cell_seconds", float, "Most seconds a cell."),
    ("tokens", int, "Most completion tokens in all."),
    ("max_tokens", int, "Most tokens a message."),
    ("temperature", float, "0 is greedy."),
    ("seed", int, "Sampling seed."),
)


def _all(*decorators: Decorator) -> Decorator:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_OPTIONS = [
    argument("--" + name.replace("_", "-"), dest=name, type=kind, default=None, help=said) for name, kind, said in _RUN
]

_SIGN = [
    argument("--sign", action="store_const", const=True, help="Sign what is saved; by default where you have a key."),
    argument("--no-sign", dest="sign", action="store_const", const=False, help="Do not."),
]

of_a_run = _all(
    magic_arguments(),
    argument("words", nargs="*", help="The question in quotes, then images; in %%%%codevision images only."),
    argument("--continue", dest="go_on", action="store_true", help="Ask on: same images, history and kernel."),
    argument("--profile", default=None, help="Named options of %%codevision_config."),
    argument("--save", default=None, metavar="FILE", help="Notebook to write the run to, while it goes on."),
    argument("--force", action="store_true", help="Replace an existing notebook."),
    argument("--to", default=None, metavar="VAR", help="Variable for the Trajectory, instead of returning it."),
    argument("--quiet", "-q", action="store_true", help="Show nothing while it runs."),
    argument("--background", action="store_true", help="Return at once; the Trajectory fills as the run goes on."),
    argument("--approve-each", action="store_const", const="on", help="Wait for you before each cell."),
    *_SIGN,
    *_OPTIONS,
)

of_the_defaults = _all(
    magic_arguments(),
    argument("--profile", default=None, help="Set these options under a name, for %%codevision --profile."),
    argument("--reset", action="store_true", help="Forget all defaults and profiles first."),
    argument("--approve-each", choices=("on", "off"), help="Wait for you before each cell."),
    *_SIGN,
    *_OPTIONS,
)


def parsed(magic: Any, line: str) -> Any:
    """The line's arguments; options and words may stand in any order. InputError for quotes that are not closed."""
    try:
        return magic.parser.parse_intermixed_args(arg_split(line))
    except ValueError as error:
        raise InputError(f"{error} in: {line}") from error


def values(given: Any) -> dict[str, Any]:
    """What was given of `RunOptions`."""
    found = {name: value for name, _, _ in _RUN if (value := getattr(given, name)) is not None}
    found |= {} if given.sign is None else {"sign": given.sign}
    return found | ({"approve_each": given.approve_each == "on"} if given.approve_each else {})


def unquoted(word: str) -> str:
    """IPython's splitting of a line leaves the quotes on."""
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'":
        return shlex.split(word)[0] if word[0] == '"' else word[1:-1]
    return word
