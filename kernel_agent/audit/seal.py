"""Seals: a signed statement of what a notebook holds, kept in the notebook.

Under `metadata.codevision.seal` lie `envelope`, a DSSE envelope around an in-toto Statement v1 whose subjects are the notebook's
parts (see content.py) in their order with their digests, `fields`, the digests of each part's fields, and, where somebody signed
through Sigstore, `sigstore`: bundles around that very statement (see sigstore_check.py). The statement's predicate holds the head of the chain over the subjects: one hash that can be printed or published to pin the whole run.

Guarantees: whatever is edited, put in, taken out or moved is named by cell and field. A signature says who sealed these bytes, not
that they are true. Whoever re-signs makes a seal that is whole again; only a signer's key (or head) that the auditor knows
from elsewhere and asks for tells that apart. The time in a statement is the signer's word; that of a Sigstore signature is the
log's.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from kernel_agent.audit.content import SEAL, Part, digest_of, moved, parts, place
from kernel_agent.audit.finding import Finding, Outcome, few
from kernel_agent.audit.keys import public_key
from kernel_agent.audit.sigstore_check import Identified, Trust, check_all
from kernel_agent.errors import InputError, StorageError, TrajectoryError
from kernel_agent.trajectory import export, files, notebook
from kernel_agent.trajectory.cells import KEY
from kernel_agent.trajectory.reading import read_file
from kernel_agent.trajectory.trajectory import SEAL_BROKEN
from kernel_agent.types import Json

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    from kernel_agent.audit.sigstore_sign import SigstoreSigner
    from kernel_agent.trajectory import Trajectory

PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://github.com/kernel-agent/kernel-agent/run/v1"
_START = "0" * 64
_MOST = 100
"""Signatures of one seal."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """A seal as it is in a notebook, its signatures checked.

    Attributes:
        signers: public keys (hexadecimal) whose signatures hold; `broken` are those whose do not.
        names, digests: of the parts, in order.
        fields: of each part, as the seal has them beside the signed statement.
        head: of the chain over names and digests.
        signed: seconds since the epoch, as the signer says.
        payload: the statement, as base64; `bundles` are the Sigstore signatures over it, not checked yet.
        identified: those of them that hold.
    """

    signers: tuple[str, ...]
    broken: tuple[str, ...]
    names: tuple[str, ...]
    digests: Mapping[str, str] = field(repr=False)
    fields: Mapping[str, Mapping[str, str]] = field(repr=False)
    head: str
    signed: float
    payload: str = field(repr=False)
    bundles: tuple[Json, ...] = field(default=(), repr=False)
    identified: tuple[Identified, ...] = ()

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        told = {"signers": list(self.signers), "head": self.head, "signed": self.signed, "parts": len(self.names)}
        return told | {"sigstore": [item.as_json() for item in self.identified]}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the auditor knows from elsewhere.

    Attributes:
        signers: public keys that must have signed; `identities` must have signed through Sigstore: (identity, issuer).
        head: of the chain; "" for any.
        trust: whose word counts for Sigstore signatures.
    """

    signers: tuple[str, ...] = ()
    identities: tuple[tuple[str, str], ...] = ()
    head: str = ""
    trust: Trust = Trust()

    @property
    def signed(self) -> bool:
        """Whether certain signers are expected."""
        return bool(self.signers or self.identities)


def head_of(subjects: Iterable[tuple[str, str]]) -> str:
    """The last link: each is the SHA-256 of the one before, the part's name and the part's digest."""
    link = _START
    for name, digest in subjects:
        link = hashlib.sha256(orjson.dumps([link, name, digest])).hexdigest()
    return link


def sign_file(path: Path, signer: CryptoSigner | SigstoreSigner) -> Seal:
    """Seal a notebook and write it. A seal that is whole gets one more signature; any other is replaced.

    Raises TrajectoryError for what is no saved run, StorageError where it is being recorded to, changes meanwhile or cannot be
    written, SigningError where Sigstore does not sign.
    """
    target = files.notebook_path(path)
    data = _read(target, path)
    parsed = notebook.parse(data, path.name)
    notebook.read(parsed, path.name)
    return seal_notebook(parsed, data, target, signer)


def seal_notebook(parsed: Json, data: bytes, target: Path, signer: CryptoSigner | SigstoreSigner) -> Seal:
    """Seal what was read and parsed of `target`, as `sign_file` does, and write it. StorageError, SigningError."""
    from securesystemslib.signer import CryptoSigner

    now, ours = parts(parsed), parsed["metadata"][KEY]
    trust = Trust() if isinstance(signer, CryptoSigner) else signer.trust
    envelope, bundles = _whole(ours.get(SEAL), now, trust) or (_statement(now, ours), [])
    if isinstance(signer, CryptoSigner):
        envelope.sign(signer)
    else:
        export.check_free(target)  # nothing is published that cannot be kept
        bundles.append(signer.sign(envelope.payload))
    ours[SEAL] = {"envelope": envelope.to_dict(), "fields": {part.name: part.fields for part in now}}
    ours[SEAL] |= {"sigstore": bundles} if bundles else {}
    seal = read_seal(ours[SEAL])
    if _read(target, target) != data:  # Sigstore takes its time
        raise StorageError(f"{target} was changed while it was being signed: sign it again")
    export.write(target, notebook.document(notebook.pack(parsed["cells"]), notebook.closing(parsed["metadata"])))
    return seal


def _read(target: Path, given: Path) -> bytes:
    try:
        return read_file(target)
    except OSError as error:
        raise TrajectoryError(f"{given} cannot be read: {error.strerror}: give the path of a saved run") from error


def _statement(now: Sequence[Part], ours: Mapping[str, Json]) -> Envelope:
    from securesystemslib.dsse import Envelope

    subjects = [(part.name, part.digest) for part in now]
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE,
        "predicate": {"run": ours["run"], "head": head_of(subjects), "signed": time.time()},
    }
    return Envelope(orjson.dumps(statement), PAYLOAD, {})


def _whole(old: Json, now: Sequence[Part], trust: Trust) -> tuple[Envelope, list[Json]] | None:
    """Envelope and Sigstore bundles of a seal that fits what is there now."""
    from securesystemslib.dsse import Envelope

    if old is None:
        return None
    try:
        seal = read_seal(old)
    except TrajectoryError:
        return None
    _, found = check_all(seal.bundles, seal.payload, (), trust)
    if seal.broken or any(finding.outcome is Outcome.FAILS for finding in found) or list(_compare(seal, now)):
        return None
    return Envelope.from_dict(copy.deepcopy(old["envelope"])), list(seal.bundles)


def read_seal(value: Json) -> Seal:
    """The seal in a notebook. TrajectoryError where it is damaged; signatures that do not hold are no error here.

    Its Sigstore signatures are not checked yet.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import UnverifiedSignatureError

    try:
        ours = {"envelope", "fields", *({"sigstore"} & value.keys())}
        if value.keys() != ours or value["envelope"].keys() != {"payload", "payloadType", "signatures"}:
            raise ValueError("it has other keys than a seal")
        signed, bundles = value["envelope"]["signatures"], tuple(value.get("sigstore", ()))
        if bool(bundles) != ("sigstore" in value) or not isinstance(value.get("sigstore", []), list):
            raise ValueError("its Sigstore signatures are no list, or an empty one")
        if not 1 <= len(signed) + len(bundles) <= _MOST or any(each.keys() != {"keyid", "sig"} for each in signed):
            raise ValueError(f"it has no signature, more than {_MOST}, or other things beside them")
        envelope = Envelope.from_dict(copy.deepcopy(value["envelope"]))
        if envelope.to_dict() != value["envelope"]:
            raise ValueError("its envelope is not written as it was signed")
        statement = orjson.loads(envelope.payload)
        predicate = statement["predicate"]
        names = tuple(_text(subject["name"]) for subject in statement["subject"])
        digests = {_text(subject["name"]): _text(subject["digest"]["sha256"]) for subject in statement["subject"]}
        head = head_of((name, digests[name]) for name in names)
        if predicate.keys() != {"run", "head", "signed"} or len(statement) != 4:
            raise ValueError("its statement says more than a seal does")
        kinds = (envelope.payload_type, statement["_type"], statement["predicateType"])
        if kinds != (PAYLOAD, STATEMENT, PREDICATE) or predicate["head"] != head or len(digests) != len(names):
            raise ValueError("its statement is of another kind, or contradicts itself")
        signers: list[str] = []
        broken: list[str] = []
        for name, signature in envelope.signatures.items():
            try:
                public_key(name).verify_signature(signature, envelope.pae())
                signers.append(name)
            except (UnverifiedSignatureError, InputError):
                broken.append(name[:64])
        fields = {name: _fields(inner) for name, inner in value["fields"].items()}
        return Seal(
            signers=tuple(signers),
            broken=tuple(broken),
            names=names,
            digests=digests,
            fields=fields,
            head=head,
            signed=_moment(predicate["signed"]),
            payload=value["envelope"]["payload"],
            bundles=bundles,
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise TrajectoryError(f"the seal was damaged: {type(error).__name__}: {error}"[:300]) from error


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _moment(value: Json) -> float:
    """Seconds since the epoch, within what a calendar has."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r:.80} is no time")
    return min(max(float(value), 0.0), 4e9)


def _fields(value: Json) -> dict[str, str]:
    return {name: _text(item) for name, item in value.items()}


def check_seal(parsed: Json, expected: Expected = Expected()) -> tuple[Seal | None, list[Finding]]:
    """The seal of a notebook, and whatever does not fit it. No seal is a finding only where a signer or a head is expected."""
    value = parsed["metadata"][KEY].get(SEAL)
    if value is None:
        message = "the run is not signed, and a signer or a head is expected"
        return None, [_finding("seal", "signature", message)] if expected.signed or expected.head else []
    try:
        seal = read_seal(value)
    except TrajectoryError as error:
        return None, [_finding("seal", "envelope", str(error))]
    found = [_finding("seal", "signature", f"the signature of {name} does not hold") for name in seal.broken]
    missing = [name for name in expected.signers if name not in seal.signers]
    found += [_finding("seal", "signer", f"not signed by {name}: {_told(seal)}") for name in missing]
    identified, more = check_all(seal.bundles, seal.payload, expected.identities, expected.trust)
    seal, found = replace(seal, identified=identified), found + more
    if expected.head and seal.head != expected.head:
        found.append(_finding("seal", "head", f"the head is {seal.head}, not {expected.head}"))
    return seal, [*found, *few(_compare(seal, parts(parsed)))]


def _told(seal: Seal) -> str:
    return f"signed by {', '.join(seal.signers)}" if seal.signers else "no signature holds"


def _compare(seal: Seal, now: Sequence[Part]) -> Iterable[Finding]:
    """What is not as it was sealed, in the notebook's order."""
    here = {part.name: part for part in now}
    order = [part.name for part in now]
    for name in seal.names:
        if name not in here:
            yield _finding(place(name), "cell", "it was taken out after the run was sealed")
    for name in order:
        if name not in seal.digests:
            yield _finding(place(name), "cell", "it was put in after the run was sealed")
    was = [name for name in seal.names if name in here]
    now_order = [name for name in order if name in seal.digests]
    old, new = ({name: number for number, name in enumerate(names, 1)} for names in (was, now_order))
    for name in moved(was, now_order):
        yield _finding(place(name), "order", f"it was moved: it was number {old[name]}, now {new[name]}")
    for name in now_order:
        yield from _compare_part(here[name], seal)
    for name in seal.fields.keys() - seal.digests.keys():
        yield _finding("seal", f"fields of {name[:80]}", "the seal lists fields of a part that was not sealed")


def _compare_part(part: Part, seal: Seal) -> Iterable[Finding]:
    whole = part.digest == seal.digests[part.name]
    sealed = seal.fields.get(part.name)
    where = place(part.name)
    if sealed is None or digest_of(sealed) != seal.digests[part.name]:
        yield _finding("seal", f"fields of {part.name}", "the seal's list of this part's fields was changed")
        if not whole:
            yield _finding(
                where, "cell", "it was changed; which field cannot be told, because the seal was changed too"
            )
        return
    if whole:
        return
    for name in sorted({*sealed, *part.fields}):
        old, new = sealed.get(name), part.fields.get(name)
        if old != new:
            message = (
                "it was put in" if old is None else "it was taken out" if new is None else f"it was {old}, now {new}"
            )
            yield _finding(where, name, message)


def _finding(cell: str, field: str, message: str) -> Finding:
    return Finding(check="integrity", outcome=Outcome.FAILS, cell=cell, field=field, message=message)


def broken_before(trajectory: Trajectory) -> list[Finding]:
    """That an unsigned run went on from a notebook whose seal did not hold: the run says so itself (audit/signing.py)."""
    broken = [event for event in trajectory.events if event.kind == SEAL_BROKEN]
    told = "; ".join(f"{event.data.get('notebook', '')}: {event.data.get('why', '')}" for event in broken[:3])
    message = f"it went on from a notebook whose seal did not hold: {told}"[:500]
    return [replace(_finding("run", "seal", message), outcome=Outcome.UNCHECKED)] if broken else []
