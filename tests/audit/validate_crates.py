"""Runs in .venv-crate: `validate_crates.py FOLDER LEVEL CRATE...` prints, for each crate, what rocrate-validator finds, as JSON.

Nothing is fetched. The validator works offline, from a cache in FOLDER that holds one thing: the JSON-LD context of RO-Crate 1.1
as the package `rocrate` ships it (CC0), under the address that crates name.
"""

from __future__ import annotations

import io
import json
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from rocrate_validator.models import Severity, ValidationSettings
from rocrate_validator.services import validate
from urllib3 import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


class Shipped(HTTPAdapter):
    """Answers a request for the context with the file of the package."""

    def send(self, request: Any, *_: Any, **__: Any) -> Any:
        data = Path(str(distribution("rocrate").locate_file("rocrate/data/ro-crate.jsonld"))).read_bytes()
        shipped = json.loads(data)
        assert shipped["@id"] == CONTEXT, f"this version of rocrate ships {shipped['@id']}"
        assert "publicdomain/zero" in shipped["license"]["@id"]
        body = HTTPResponse(io.BytesIO(data), {"Content-Type": "application/ld+json"}, 200, preload_content=False)
        return self.build_response(request, body)


def main(folder: Path, level: str, crates: list[str]) -> None:
    cache = str(folder / "http")
    session = CachedSession(cache, backend="sqlite", expire_after=-1)
    session.mount(CONTEXT, Shipped())
    session.get(CONTEXT)
    found = {}
    for crate in crates:
        settings = ValidationSettings(
            rocrate_uri=crate,  # type: ignore[arg-type]
            profile_identifier="process-run-crate",
            requirement_severity=Severity[level],
            cache_path=Path(cache),
            offline=True,
        )
        result = validate(settings)
        found[crate] = [
            {"level": issue.severity.name, "what": issue.message, "where": str(issue.violatingEntity)}
            for issue in result.get_issues(Severity[level])
        ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
