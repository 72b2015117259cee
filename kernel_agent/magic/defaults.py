"""Defaults of `%codevision`: what `%codevision_config` sets, by itself or as a named profile."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from kernel_agent.errors import InputError
from kernel_agent.live.options import RunOptions


@dataclass(kw_only=True)
class Defaults:
    """Options for runs that say nothing else; `profiles` are named sets that go before them."""

    options: RunOptions = RunOptions()
    profiles: dict[str, RunOptions] = field(default_factory=dict)

    def merged(self, given: RunOptions, profile: str | None) -> RunOptions:
        """What was given, then the profile's, then the defaults. InputError for a profile that is not there."""
        if profile is None:
            return given.over(self.options)
        if profile not in self.profiles:
            known = ", ".join(self.profiles) or "none"
            raise InputError(
                f"there is no profile {profile!r} (there are: {known}): make it with %codevision_config --profile {profile} ..."
            )
        return given.over(self.profiles[profile].over(self.options))

    def set(self, given: dict[str, Any], profile: str | None) -> None:
        """Change the defaults, or a profile."""
        before = self.options if profile is None else self.profiles.get(profile, RunOptions())
        changed = replace(before, **vars(RunOptions.from_json(given)) | _kept(before, given))
        if profile is None:
            self.options = changed
        else:
            self.profiles[profile] = changed

    def __str__(self) -> str:
        lines = [f"defaults: {_said(self.options)}"]
        lines += [f"profile {name}: {_said(options)}" for name, options in self.profiles.items()]
        return "\n".join(lines)


def _kept(before: RunOptions, given: dict[str, Any]) -> dict[str, Any]:
    return {item.name: getattr(before, item.name) for item in fields(before) if item.name not in given}


def _said(options: RunOptions) -> str:
    said = [
        f"{item.name}={value}"
        for item in fields(options)
        if (value := getattr(options, item.name)) != item.default and item.name != "by"
    ]
    return ", ".join(said) or "the embedded model, best isolation"
