"""Keep secrets out of what is written: API keys, Authorization headers, passwords, credentials in URLs.

Works on the JSON of headers and events, where servers and clients report about themselves, and on image sources. It knows
names (`api_key`, `Authorization`, ...) and well-known shapes of keys; it cannot know a secret that a user types into
a question or that the model's own code prints: those are the record itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from kernel_agent.types import Json

T = TypeVar("T")
REDACTED = "[redacted]"

_NAMES = re.compile(
    r"(^|[_\-. ])(api[_\-]?key|apikey|authorization|auth|bearer|cookie|credentials?|passw(or)?d|passphrase|secret"
    r"|secret[_\-]?key|private[_\-]?key|(access|auth|api|bearer|refresh|session|id|hf|hub)[_\-]?token)$|^token$",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"^(environ|env|environment_variables)$", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.\-]{1,20}://)[^\s/@?#]+@")
_URL_QUERY = re.compile(
    r"(?P<name>[?&](?:[\w\-]*(?:token|key|secret|signature|sig|password|passwd|credential|auth)[\w\-]*)=)[^&\s#\"']+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<name>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=\-]{6,}", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>\b(?:api[_\-]?key|authorization|password|secret|access[_\-]?token)\b['\"]?\s*[:=]\s*['\"]?)"
    r"(?!\[redacted\]|Bearer\b|Basic\b)[^\s'\",;)}]{4,}",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-*]{12,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|AIza[0-9A-Za-z_\-]{30,}|xox[abprs]-[A-Za-z0-9\-]{10,}|eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]{6,})"
)


def redact_text(value: str) -> str:
    """`value` without URL credentials, bearer tokens and strings of the shape of well-known API keys."""
    value = _URL_LOGIN.sub(rf"\g<scheme>{REDACTED}@", value)
    value = _URL_QUERY.sub(rf"\g<name>{REDACTED}", value)
    value = _BEARER.sub(rf"\g<name>{REDACTED}", value)
    value = _NAMED.sub(rf"\g<name>{REDACTED}", value)
    return _SHAPES.sub(REDACTED, value)


def redact(value: Json) -> Json:
    """A copy of a JSON value without secrets; equal to it where there are none."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: _redact_item(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return value


def _redact_item(key: str, item: Json) -> Json:
    secret = _NAMES.search(key) is not None and not isinstance(item, (bool, int, float))
    dump = _ENVIRONMENT.search(key) is not None and isinstance(item, Mapping)
    return REDACTED if item and (secret or dump) else redact(item)
