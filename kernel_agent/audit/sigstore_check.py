"""Sigstore signatures of a seal, checked: who signed, told by an identity provider, and when, told by a public log.

A signature is a Sigstore bundle (v0.3) around the very statement that the seal's other signatures are over. Guarantees: nothing is
asked over the network unless `Trust.refresh` says so: all that is needed is in the bundle, and in the trust root that comes with the
package `sigstore` or that the auditor gives. Each source of time in a bundle (log, time-stamp authority) has to hold alone, so a
broken one does not hide behind a whole one. What cannot be checked here is `unchecked`, never a failure and never left out: without
the package, without a trust root, or where another instance has signed than the one that is trusted. A bundle is bounded before it is
read, and whatever is wrong in it makes a finding. Not compared, and not told: names on the signature lines of a log's checkpoint, and
more than four bytes of a log's own name where it gives no signed time (Rekor 2).
"""

from __future__ import annotations

import base64
import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from kernel_agent.audit.finding import Finding, Outcome
from kernel_agent.errors import InputError
from kernel_agent.types import Json

PRODUCTION, STAGING = "production", "staging"
INSTALL = "pip install 'kernel-agent[sigstore]'"
FORMAT = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BYTES = 1 << 18
"""Of one bundle, without the statement in it. A real one has about 20,000."""
_MOST_TIMES = 8
_MAX_CONFIG = 10_000_000
_ISSUER = "1.3.6.1.4.1.57264.1.8"
"""The extension of Fulcio's certificates that names the identity provider."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The instance of Sigstore whose word counts: PRODUCTION, STAGING, or the JSON of a ClientTrustConfig of another one.

    With `refresh` the newest trust root of the public instances is fetched first (TUF).
    """

    instance: str = PRODUCTION
    refresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A Sigstore signature that holds.

    Attributes:
        identity: e-mail address or URI that the certificate names; `issuer` is the provider that vouched for it.
        time: seconds since the epoch, by the log or by the time-stamp authority (the later where both tell it).
        log_index: of the entry in the log.
    """

    identity: str
    issuer: str
    time: float
    log_index: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.identity} ({self.issuer})"

    def as_json(self) -> dict[str, Json]:
        """For `--json`."""
        return {"identity": self.identity, "issuer": self.issuer, "time": self.time, "log_index": self.log_index}


class Unchecked(Exception):
    """Why a signature cannot be checked here."""


class AnotherInstance(Unchecked):
    """It can, but whoever made it is not trusted here."""


def trust_of(*, staging: bool = False, config: Path | None = None, refresh: bool = False) -> Trust:
    """What a user names: the public instance, its staging, or the file of a ClientTrustConfig. InputError where it is none."""
    if config is None:
        return Trust(instance=STAGING if staging else PRODUCTION, refresh=refresh)
    if staging or refresh:
        raise InputError(f"{config} says which instance is trusted, and nothing of it is fetched: give it alone")
    try:
        with config.open("rb") as file:
            text = file.read(_MAX_CONFIG).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{config} cannot be read ({error}): give the file of a ClientTrustConfig") from error
    trust = Trust(instance=text)
    try:
        load(trust)
    except Unchecked as error:
        raise InputError(f"{config}: {error}") from error
    return trust


@lru_cache(maxsize=8)
def load(trust: Trust) -> Any:
    """The `ClientTrustConfig` of an instance. Raises Unchecked where there is none."""
    try:
        from sigstore.models import ClientTrustConfig
    except ImportError as error:
        raise Unchecked(f"{error}: {INSTALL}") from error
    logging.getLogger("sigstore").addHandler(
        logging.NullHandler()
    )  # it warns of working offline, which is what is meant
    public = {PRODUCTION: ClientTrustConfig.production, STAGING: ClientTrustConfig.staging}
    try:
        if trust.instance in public:
            return public[trust.instance](offline=not trust.refresh)
        config = ClientTrustConfig.from_json(trust.instance)
        config.trusted_root.get_fulcio_certs()
        return config
    except Exception as error:  # of TUF, pydantic, cryptography, requests, the disk
        raise Unchecked(f"there is no trust root of this instance: {_told(error)}") from error


def check_all(
    bundles: Sequence[Json], payload: str, identities: Sequence[tuple[str, str]], trust: Trust
) -> tuple[tuple[Identified, ...], list[Finding]]:
    """The signatures over a statement (base64) that hold, and what does not; `identities` (with issuers) must have signed."""
    held: list[Identified] = []
    found: list[Finding] = []
    missing = False
    for number, bundle in enumerate(bundles):
        try:
            held.append(check(bundle, payload, trust))
        except Unchecked as error:
            missing = missing or not isinstance(error, AnotherInstance)
            message = f"a Sigstore signature is there and was not checked: {error}"
            found.append(_finding(f"sigstore[{number}]", message, Outcome.UNCHECKED))
        except ValueError as error:
            found.append(
                _finding(f"sigstore[{number}]", f"the Sigstore signature does not hold: {error}", Outcome.FAILS)
            )
    signed = {(item.identity, item.issuer) for item in held}
    by = (
        f"signed by {', '.join(item.name for item in held)}" if held else "no Sigstore signature that was checked holds"
    )
    for identity, issuer in identities:
        if (identity, issuer) not in signed:
            message = f"not signed by {identity} ({issuer}): {by}"
            found.append(_finding("signer", message, Outcome.UNCHECKED if missing else Outcome.FAILS))
    return tuple(held), found


def check(bundle: Json, payload: str, trust: Trust) -> Identified:
    """Whose signature over the statement a bundle is. ValueError where it does not hold, Unchecked where that cannot be told."""
    text = _bounded(bundle, payload)
    try:
        from sigstore.models import Bundle
        from sigstore.verify import Verifier
        from sigstore.verify.policy import Identity
    except ImportError as error:
        raise Unchecked(INSTALL) from error
    root = load(trust).trusted_root
    try:
        parsed = Bundle.from_json(text)
        if orjson.loads(parsed.to_json()) != bundle:
            raise ValueError("it is not written as it was made")
        identity, issuer = _named(parsed.signing_certificate)
        verifier, policy, times = Verifier(trusted_root=root), Identity(identity=identity), []
        for time, alone in _times(bundle, parsed):
            kind, _ = verifier.verify_dsse(Bundle.from_json(orjson.dumps(alone)), policy)
            times.append(time)
        if kind != bundle["dsseEnvelope"]["payloadType"]:
            raise ValueError("it signs something of another kind")
        index = int(bundle["verificationMaterial"]["tlogEntries"][0]["logIndex"])
        return Identified(identity=identity, issuer=issuer, time=max(times), log_index=index)
    except Exception as error:  # whatever hostile bytes can make of libraries that are not ours
        if _of_another_instance(text, root):
            raise AnotherInstance(
                "it was made under another instance of Sigstore than the one that is trusted here: give its trust root"
                " (--trust-config FILE, --staging)"
            ) from error
        raise ValueError(_told(error)) from error


def _bounded(bundle: Json, payload: str) -> bytes:
    """The bundle as text; ValueError where it is too large, or its statement is not the seal's."""
    try:
        envelope, format_ = bundle["dsseEnvelope"], bundle["mediaType"]
        ours = envelope["payload"] == payload
        keyed = any(signature.get("keyid") for signature in envelope["signatures"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is no Sigstore bundle: {type(error).__name__}: {error}"[:300]) from error
    if not ours:
        raise ValueError("it is over another statement than the seal's")
    if format_ != FORMAT or keyed:
        raise ValueError(f"it is of another form than {FORMAT}")
    text = orjson.dumps(bundle)
    if len(text) > MAX_BYTES + len(payload):
        raise ValueError(
            f"it has {len(text) - len(payload):,} bytes beside the statement: at most {MAX_BYTES:,} are read"
        )
    return text


def _named(certificate: Any) -> tuple[str, str]:
    """Identity and issuer in a certificate."""
    from cryptography import x509
    from cryptography.hazmat import asn1

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [name.value for name in names if isinstance(name, (x509.RFC822Name, x509.UniformResourceIdentifier))]
    if len(found) != 1 or len(list(names)) != 1:
        raise ValueError("its certificate names no e-mail address and no URI, or several")
    issuer = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER)).value.value
    return found[0], asn1.decode_der(str, issuer)


def _times(bundle: Json, parsed: Any) -> Iterator[tuple[float, Json]]:
    """Each source of time, with a bundle that holds only if it does."""
    entry = bundle["verificationMaterial"]["tlogEntries"][0]
    proof, promised = entry["inclusionProof"], "inclusionPromise" in entry
    size = proof["checkpoint"]["envelope"].split("\n")[1]
    of_tree = promised or entry["logIndex"] == proof["logIndex"]
    if promised != ("integratedTime" in entry) or size != proof["treeSize"] or not of_tree:
        raise ValueError("its log entry contradicts itself")
    stamps = parsed.verification_material.timestamp_verification_data
    stamped = [] if stamps is None else stamps.rfc3161_timestamps
    if not 1 <= promised + len(stamped) <= _MOST_TIMES:
        raise ValueError(f"nothing tells its time, or more than {_MOST_TIMES} things do")
    if promised:
        yield float(entry["integratedTime"]), bundle  # the promise over it is checked whatever else there is
    for number, stamp in enumerate(stamped):
        alone = copy.deepcopy(bundle)
        for key in ("inclusionPromise", "integratedTime"):
            alone["verificationMaterial"]["tlogEntries"][0].pop(key, None)
        held = alone["verificationMaterial"]["timestampVerificationData"]
        held["rfc3161Timestamps"] = held["rfc3161Timestamps"][number : number + 1]
        yield stamp.tst_info.gen_time.timestamp(), alone


def _of_another_instance(text: bytes, root: Any) -> bool:
    """Whether the certificate says that an authority issued it which is none of the trusted ones."""
    from cryptography import x509

    try:
        raw = base64.b64decode(orjson.loads(text)["verificationMaterial"]["certificate"]["rawBytes"])
        extensions = x509.load_der_x509_certificate(raw).extensions
        issued = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        trusted = {
            ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            for ca in root.get_fulcio_certs()
        }
    except Exception:  # hostile bytes again
        return False
    return issued is not None and issued not in trusted


def _told(error: Exception) -> str:
    return f"{error or type(error).__name__}"[:300]


def _finding(field: str, message: str, outcome: Outcome) -> Finding:
    return Finding(check="integrity", outcome=outcome, cell="seal", field=field, message=message)
