"""The table of docs/isolation.md, made from outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from perf.attacks.case import all_cases
from perf.attacks.drive import Outcome
from perf.attacks.profiles import PROFILES

BEGIN, END = "<!-- attacks: begin (python -m perf.attacks --table) -->", "<!-- attacks: end -->"
DOCUMENT = Path(__file__).parents[2] / "docs" / "isolation.md"


def table(outcomes: Iterable[Outcome]) -> str:
    """Markdown: a row a case, a column a profile that ran."""
    results = {(outcome.case, outcome.profile): outcome.result for outcome in outcomes}
    profiles = [name for name in PROFILES if any(profile == name for _, profile in results)]
    lines = [f"| what must hold | {' | '.join(profiles)} |", f"|---|{'---|' * len(profiles)}"]
    group = ""
    for case in all_cases().values():
        if not any((case.name, profile) in results for profile in profiles):
            continue
        if case.group != group:
            group = case.group
            lines.append(f"| **{group}** |{' |' * len(profiles)}")
        cells = (results.get((case.name, profile), "-") for profile in profiles)
        must = " ".join(case.must.split()).replace("|", "\\|").replace("<", "\\<")
        lines.append(f"| **{case.name}**: {must} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rewrite(outcomes: Iterable[Outcome], document: Path = DOCUMENT) -> None:
    """Put the table between the document's markers. Raises ValueError where they are missing."""
    text = document.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no {BEGIN!r} ... {END!r} to write the table between. Put the two lines back.")
    document.write_text(f"{head}{BEGIN}\n{table(outcomes)}\n{END}{tail}")
