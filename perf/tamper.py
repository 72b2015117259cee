"""Whether audits find every tampering, and where it is: `python -m perf.tamper --n 500 --json OUT [--seed 0] [--sigstore]`.

Makes a few honest runs (code, pictures, errors, interrupts, lossy and resized pictures, follow-up questions, malformed messages),
signs them, and tampers with copies, one seeded random change each: any field of any cell and of the run's record (every kind of
field at least once), the lowest bit of one pixel, a cell or an item taken out, put in, doubled or moved, something that viewers show
besides the record, the seal itself, a copy changed and signed again by another key; any file of a bundle; any line or blob of the
journal of an unfinished run. Each is audited without running code, with the signer's key known to the auditor. With `--sigstore`
(kernel-agent[sigstore]) the runs are signed through a small instance of Sigstore as well, every kind of field of its signatures is
changed too, and the auditor knows the identity.

- `n`, `found` (exit code 1), `located` (found, and the findings about integrity name that cell and field and no other cell; of a
  journal the line, or the next one as the one that does not follow).
- `missed`: those not found or not located.
- `kinds`: how many of each kind; `fields`: kinds of fields that were changed, `wanted` their list.
- `saved`, `saved_alarms`: honest copies saved anew as editors do it, and how many of them gave a finding: it has to be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import re
import shutil
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from kernel_agent import Agent, Budget, Task, Trajectory
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.bundle import write_bundle
from kernel_agent.audit.finding import Outcome, Report
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import Expected, sign_file
from kernel_agent.audit.sigstore_check import Trust
from kernel_agent.audit.sigstore_sign import SigstoreSigner
from kernel_agent.models.scripted import ScriptedModel
from kernel_agent.models.tokens import joined, rendered_prompt
from kernel_agent.session.images_view import ViewBounds
from kernel_agent.types import Completion, ImageEncoding, TokenLogprob
from perf import honest
from perf.tampering import (
    Tampering,
    beside_change,
    cell_change,
    changed,
    cut_off,
    field_change,
    generic,
    item_change,
    pixel_change,
    saved_anew,
    seal_change,
    spots,
    walk,
)


class Runs:
    """The honest files, and the keys."""

    def __init__(self, place: Path, named: SigstoreSigner | None) -> None:
        self.place, self.named = place, named
        make_key(place / "key.pem")
        make_key(place / "other.pem")
        self.signer, self.other = (load_signer(place / name) for name in ("key.pem", "other.pem"))
        self.notebooks: list[bytes] = []
        self.bundles: list[bytes] = []

    async def make(self) -> None:
        for number in range(5):
            path = self.place / f"honest-{number}.ipynb"
            run = await _run(path, number)
            if number == 0:
                self._unfinished(run)
            sign_file(path, self.signer)
            if self.named is not None:
                sign_file(path, self.named)
            self.notebooks.append(path.read_bytes())
            write_bundle(path, path.with_suffix(".zip"))
            self.bundles.append(path.with_suffix(".zip").read_bytes())

    def _unfinished(self, run: Trajectory) -> None:
        """A run whose process went away before its end: `crashed.ipynb` and `crashed.codevision`."""
        path = self.place / "half.ipynb"
        half = run.branch(0, in_turn=True)
        half.record_to(path)
        half.reopen_turn()
        for step in run.steps[:3]:
            half.add_step(step)
        shutil.copytree(path.with_suffix(".codevision"), self.place / "crashed.codevision")
        shutil.copy(path, self.place / "crashed.ipynb")
        half.close()


class Telling(ScriptedModel):
    """Tells everything that models and servers can tell."""

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "openai",
            "model": self.name,
            "base_url": "http://127.0.0.1:8000/v1",
            "server": "vllm",
            "server_version": "0.32.0",
            "context_tokens": 4096,
            "root": "/models/telling",
            "config": "model='/models/telling', seed=0",
            "flags": {"--model": "/models/telling", "--enforce-eager": True, "--lora-modules": ["a=/a", "b=/b"]},
            "variables": {"OMP_NUM_THREADS": "2"},
            "revision": None,
            "weights_sha256": "ab" * 32,
            "files_sha256": "cd" * 32,
            "chat_template_sha256": "ef" * 32,
            "not_told": {"revision": "the checkpoint is a folder that is no hub snapshot"},
        }


def _said(text: str) -> Completion:
    return Completion(
        text=text,
        prompt=rendered_prompt(list(text.encode()), text),
        token_ids=joined(list(text.encode())),
        system_fingerprint="vllm-0.32.0-12345678",
        logprobs=tuple(TokenLogprob(token=word, logprob=-0.5) for word in text.split()[:2]),
    )


async def _run(path: Path, number: int) -> Trajectory:
    codes = [*honest.codes(number, stops=False), "image_0.crop((5, 5, 80, 60))", "1 / 0", "display(image_0, 'seen')"]
    if number == 3:
        codes.append(honest.STOPPED[0])
    replies = [f"I look.\n```python\n{code}\n```" for code in codes]
    agent = Agent(
        Telling([_said(text) for text in (replies[0], "neither", *replies[1:], "<answer>7</answer>")]),
        protocol="fenced",
        budget=Budget(steps=len(codes) + 2, cell_seconds=1.0 if number == 3 else 60.0),
        bounds=ViewBounds(max_pixels=3000, min_pixels=100) if number == 1 else ViewBounds(),
        encoding=ImageEncoding(notebook="jpeg", view="jpeg") if number == 2 else ImageEncoding(),
    )
    run = await agent.arun(Task(question="How many?", images=(honest.picture(number),)), save_to=path)
    await asyncio.to_thread(run.ask, "and now?", model=ScriptedModel(["<answer>8</answer>"]))
    await asyncio.to_thread(run.close)
    return run


# Files


def tamper_notebook(runs: Runs, rng: random.Random, target: Path, want: str | None) -> Tampering | None:
    run = orjson.loads(rng.choice(runs.notebooks))
    kinds: list[Callable[[Any, random.Random], Tampering | None]] = [
        item_change,
        cell_change,
        pixel_change,
        seal_change,
        beside_change,
    ]
    if want is None and rng.random() < 0.05:
        data, done = cut_off(rng.choice(runs.notebooks), rng)
        target.write_bytes(data)
        return done
    if want is not None:
        found = [data for data in runs.notebooks if any(generic(spot) == want for spot in spots(orjson.loads(data)))]
        run = orjson.loads(rng.choice(found))
    done = field_change(run, rng, want) if want is not None or rng.random() < 0.5 else rng.choice(kinds)(run, rng)
    target.write_bytes(orjson.dumps(run))
    if done is not None and done.cell != "seal" and rng.random() < 0.05:
        try:
            sign_file(target, runs.other)
        except ValueError:
            return done  # it is no run any more
        return Tampering(kind="signed again by another key", cell="seal", field="signer")
    return done


def tamper_bundle(runs: Runs, rng: random.Random, target: Path) -> Tampering | None:
    if rng.random() < 0.1:
        data, cut = cut_off(rng.choice(runs.bundles), rng)
        target.write_bytes(data)
        return cut
    with zipfile.ZipFile(io.BytesIO(rng.choice(runs.bundles))) as old:
        held = {name: old.read(name) for name in old.namelist()}
    name = rng.choice([name for name in held if name != "run.ipynb"])
    kind = rng.choice(("changed", "taken out", "put in", "renamed", "notebook"))
    done: Tampering | None = Tampering(kind=f"file of a bundle {kind}", cell="bundle", field=name)
    if kind == "changed":
        data = bytearray(held[name])
        data[rng.randrange(len(data))] ^= 1
        held[name] = bytes(data)
    elif kind in ("taken out", "renamed"):
        data_out = held.pop(name)
        if kind == "renamed":
            held[f"{name}.old"] = data_out
    elif kind == "put in":
        held["images/image_99.png"] = held[name]
        done = Tampering(kind="file of a bundle put in", cell="bundle", field="images/image_99.png")
    else:
        run = orjson.loads(held["run.ipynb"])
        done = field_change(run, rng, None)
        held["run.ipynb"] = orjson.dumps(run)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for other, content in held.items():
            new.writestr(other, content)
    return done


def tamper_journal(runs: Runs, rng: random.Random, target: Path) -> Tampering | None:
    folder = target.with_suffix(".codevision")
    shutil.copytree(runs.place / "crashed.codevision", folder)
    shutil.copy(runs.place / "crashed.ipynb", target)
    lines = (folder / "journal.jsonl").read_bytes().splitlines()
    at = rng.randrange(len(lines))
    kind = rng.choice(("line changed", "line taken out", "lines swapped", "blob changed", "blob taken out"))
    field = f"line {at + 1}"
    if kind.startswith("blob"):
        blob = rng.choice(sorted((folder / "blobs").iterdir()))
        data = bytearray(blob.read_bytes())
        data[rng.randrange(len(data))] ^= 1
        blob.unlink()
        if kind == "blob changed":
            blob.write_bytes(bytes(data))
        field = blob.name
    elif kind == "line changed":
        record = orjson.loads(lines[at])
        inside = [spot for spot in walk(record["data"]) if not isinstance(spot[0][spot[1]], (dict, list))]
        holder, key, _ = rng.choice(inside)
        holder[key] = changed(holder[key], rng)
        lines[at] = orjson.dumps(record)
    elif kind == "line taken out":
        at = rng.randrange(len(lines) - 1)  # a journal that ends earlier is that of an earlier moment
        field = f"line {at + 1}"
        del lines[at]
    else:
        at = rng.randrange(len(lines) - 1)
        field = f"line {at + 1}"
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    (folder / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return Tampering(kind=f"journal: {kind}", cell="journal", field=field)


# Judging


def located(report: Report, done: Tampering) -> bool:
    """Whether the findings about integrity point to the place, and to no other cell."""
    check = "reading" if done.kind == "file cut off" else "integrity"
    found = [item for item in report.findings if item.check == check and item.outcome is Outcome.FAILS]
    if done.cell != "bundle":  # its other files follow from the notebook, and may not fit a changed one
        found = [item for item in found if item.cell != "bundle"]
    cells = {item.cell for item in found}
    if done.cell == "journal":
        line = re.fullmatch(r"line (\d+)", done.field)
        names = (
            {done.field}
            if line is None
            else {f"line {int(line[1])}", f"line {int(line[1]) + 1}", f"record {int(line[1]) - 1}"}
        )
        told = " ".join(f"{item.field} {item.message}" for item in found)
        return cells == {"journal"} and any(re.search(rf"\b{re.escape(name)}\b", told) for name in names)
    if done.field == "order" and not done.cell:
        return bool(found) and all(item.field == "order" for item in found)
    if not found or cells != {done.cell}:
        return False
    return (
        any(item.field == done.field or item.field.startswith((f"{done.field}.", f"{done.field}[")) for item in found)
        or not done.field
    )


async def measure(
    place: Path, n: int, seed: int, named: SigstoreSigner | None = None, *, only: str = ""
) -> dict[str, Any]:
    """`only`: of the kinds of fields those that begin so are each changed at least once."""
    rng = random.Random(seed)
    runs = Runs(place, named)
    await runs.make()
    expected, options = Expected(signers=(runs.signer.public_key.keyid,)), RerunOptions(code=False)
    if named is not None and named.made is not None:
        expected = replace(expected, identities=((named.made.identity, named.made.issuer),), trust=named.trust)
    every = {generic(spot) for data in runs.notebooks for spot in spots(orjson.loads(data))}
    wanted = sorted(name for name in every if name.startswith(only))
    total, left = 0, list(wanted)
    rng.shuffle(left)
    found = located_count = 0
    missed: list[dict[str, Any]] = []
    kinds: Counter[str] = Counter()
    while total < n or left:
        work = place / "work"
        work.mkdir()
        what = rng.choices(("notebook", "bundle", "journal"), (8, 2, 1))[0]
        target = work / ("run.zip" if what == "bundle" else "run.ipynb")
        if what == "notebook":
            want = left.pop() if left else None
            done = tamper_notebook(runs, rng, target, want)
            if done is None and want is not None:
                left.append(want)
        else:
            done = (tamper_bundle if what == "bundle" else tamper_journal)(runs, rng, target)
        if done is not None:
            report, _ = await audit_file(target, options, expected=expected if what != "journal" else Expected())
            total += 1
            kinds[done.kind] += 1
            hit, exact = report.exit_code == 1, located(report, done)
            found += hit
            located_count += hit and exact
            if not (hit and exact):
                told = [(item.check, item.cell, item.field, item.message[:200]) for item in report.findings[:8]]
                missed.append(
                    {"kind": done.kind, "cell": done.cell, "field": done.field, "found": hit, "findings": told}
                )
        shutil.rmtree(work)
    alarms: dict[str, int] = defaultdict(int)
    for number in range(n // 5):
        path = place / "saved.ipynb"
        path.write_bytes(saved_anew(rng.choice(runs.notebooks), rng))
        report, _ = await audit_file(path, options, expected=expected)
        alarms["all"] += 1
        alarms["bad"] += bool(report.findings)
        if report.findings:
            missed.append(
                {"kind": f"saved anew {number}", "findings": [item.as_json() for item in report.findings[:5]]}
            )
    return {
        "n": total,
        "found": found,
        "located": located_count,
        "missed": missed,
        "seed": seed,
        "kinds": dict(kinds.most_common()),
        "fields": len(wanted),
        "wanted": wanted,
        "saved": alarms["all"],
        "saved_alarms": alarms["bad"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sigstore", action="store_true")
    args = parser.parse_args()
    with ExitStack() as left:
        place = Path(left.enter_context(tempfile.TemporaryDirectory(prefix="codevision-perf-")))
        named = None
        if args.sigstore:
            from tests.audit.private_sigstore import running

            instance = left.enter_context(running(place / "instance"))
            named = SigstoreSigner(instance.token(seconds=600), Trust(instance=instance.config))
        figures = asyncio.run(measure(place, args.n, args.seed, named))
    print(json.dumps({**figures, "missed": figures["missed"][:20], "wanted": "see the file"}, indent=1))
    args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
