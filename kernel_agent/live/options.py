"""What a face may choose of a run, checked; and the agent that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from kernel_agent.errors import InputError
from kernel_agent.types import Budget, Isolation, KernelOptions, Sampling

if TYPE_CHECKING:
    from kernel_agent.agent import Agent
    from kernel_agent.models import Model
    from kernel_agent.types import Json


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run; None means the default of whoever made the `Runs`.

    Attributes:
        model, base_url: see `api.choose_model`. The key of a server never comes from a face.
        protocol: a name of `kernel_agent.protocols`.
        steps, seconds, cell_seconds, tokens, images: see `types.Budget`.
        max_tokens, temperature, seed: see `types.Sampling`.
        isolation: least level of isolation; it raises what the `Runs` were made with, and never lowers it.
        approve_each: wait for a person before each cell.
        sign: sign what is saved with the user's key: None where there is one, True or no run, False not.
    """

    model: str | None = None
    base_url: str | None = None
    protocol: str | None = None
    steps: int | None = None
    seconds: float | None = None
    cell_seconds: float | None = None
    tokens: int | None = None
    images: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    isolation: str | None = None
    approve_each: bool = False
    sign: bool | None = None
    by: str = field(default="user", repr=False)

    @classmethod
    def from_json(cls, data: Json) -> RunOptions:
        """InputError for an unknown name or a value of another type or range."""
        if not isinstance(data, dict):
            raise InputError(f"options are an object of names and values, not {type(data).__name__}")
        known = {item.name for item in fields(cls)} - {"by"}
        if unknown := sorted(data.keys() - known):
            raise InputError(f"there is no option {unknown[0]!r}: take one of {', '.join(sorted(known))}")
        given = {name: value for name, value in data.items() if value not in (None, "")}
        for name, value in given.items():
            if name in ("model", "base_url", "protocol", "isolation"):
                right = isinstance(value, str)
            elif name in ("approve_each", "sign"):
                right = isinstance(value, bool)
            else:
                whole = name not in ("seconds", "cell_seconds", "temperature")
                least = 0 if name in ("temperature", "seed") else 1
                right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
                right = right and least <= value < 1e9
            if not right:
                raise InputError(
                    f"option {name}={value!r:.60} is not of the right kind or range: leave it out for the default"
                )
        levels = ("auto", *(str(level) for level in Isolation if level is not Isolation.NONE))
        if given.get("isolation", "auto") not in levels:
            raise InputError(f"isolation {given['isolation']!r:.40}: take one of {', '.join(levels)}")
        return cls(**given)

    def over(self, defaults: RunOptions) -> RunOptions:
        """These, and the others' where these say nothing."""
        mine = {item.name: getattr(self, item.name) for item in fields(self)}
        mine = {name: value for name, value in mine.items() if value is not None}
        if mine.get("model") == "embedded":  # it is not to be found on the default server
            mine.setdefault("base_url", None)
        return RunOptions(**{**_values(defaults), **mine})

    def agent(self, model: Model, kernel: KernelOptions = KernelOptions()) -> Agent:
        """The agent they describe, on a model that has been chosen. May try what isolation works here: not for an event loop.

        Raises KernelError where the level that is asked for cannot be had, InputError where a key is wanted and cannot be used.
        """
        from kernel_agent.agent import Agent
        from kernel_agent.audit.signing import own_signer
        from kernel_agent.provisioners.sandbox.probes import choose

        budget = {name: getattr(self, name) for name in ("steps", "seconds", "cell_seconds", "tokens", "images")}
        sampling = {name: getattr(self, name) for name in ("max_tokens", "temperature", "seed")}
        if self.isolation not in (None, "auto"):
            level, order = Isolation(self.isolation), list(Isolation)
            there = choose().level if kernel.isolation == "auto" else kernel.isolation
            if order.index(level) < order.index(there):
                kernel = replace(kernel, isolation=level)
        return Agent(
            model,
            protocol=self.protocol or "native",
            budget=Budget(**{name: value for name, value in budget.items() if value is not None}),
            sampling=Sampling(**{name: value for name, value in sampling.items() if value is not None}),
            kernel=kernel,
            signer=own_signer(self.sign),
        )


def _values(options: RunOptions) -> Mapping[str, Json]:
    return {item.name: getattr(options, item.name) for item in fields(options)}
