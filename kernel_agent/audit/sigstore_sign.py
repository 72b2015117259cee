"""Sign through Sigstore: a certificate for a key that lives for minutes, made out to whom an identity provider names.

This goes to the network: to the instance's trust root (TUF), its certificate authority (Fulcio), its log (Rekor) and, where it has
one, its time-stamp authority. What is published there stays: e-mail address or URI, issuer, time and hash of the statement; the
log's server is sent at most the statement (names and hashes of the cells), never the notebook. Guarantees: nothing is sent before
`PUBLISHED` can be said; a signature that does not hold when it comes back is an error and not kept.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson

from kernel_agent.audit.sigstore_check import INSTALL, PRODUCTION, STAGING, Identified, Trust, Unchecked, check, load
from kernel_agent.errors import SigningError
from kernel_agent.types import Json

PUBLISHED = (
    "Sigstore writes {who} into its log, with the time and a hash of what is signed. Whoever can read the log (that of the public"
    " instance: everybody) sees it there, and nobody can take it out again. The notebook itself is not sent."
)


class SigstoreSigner:
    """Signs as whom an OIDC token names.

    Attributes:
        named: what the token calls its holder; the certificate has the last word.
        made: the last signature that was made.
    """

    def __init__(self, token: str | None, trust: Trust = Trust()) -> None:
        """Raises SigningError where the token is none or the instance cannot be asked."""
        self.trust = _fetched(trust)
        self._config = _config(self.trust)
        if not token:
            raise SigningError("there is no identity token: log in with codevision sign --sigstore, or give one")
        try:
            import jwt
            from sigstore.oidc import IdentityToken

            self._token = IdentityToken(token)
            claims = jwt.decode(token, options={"verify_signature": False})  # it is Sigstore that has to believe it
        except Exception as error:  # of three libraries, without a common base
            raise SigningError(f"the identity token cannot be used: {_told(error)}: get a new one") from error
        self.named = ", ".join(dict.fromkeys(str(name) for name in (claims.get("email"), self._token.identity) if name))
        self.made: Identified | None = None

    def sign(self, statement: bytes) -> Json:
        """A Sigstore bundle around an in-toto statement. Raises SigningError."""
        try:
            from sigstore.dsse import Statement
            from sigstore.sign import SigningContext

            with SigningContext.from_trust_config(self._config).signer(self._token) as signer:
                bundle = orjson.loads(signer.sign_dsse(Statement(statement)).to_json())
        except Exception as error:  # as above
            raise SigningError(f"Sigstore did not sign: {_told(error)}: try again, or sign with a key") from error
        try:
            self.made = check(bundle, base64.b64encode(statement).decode(), self.trust)
        except (Unchecked, ValueError) as error:
            raise SigningError(f"Sigstore's signature does not hold: {error}: it was not kept") from error
        return bundle


def ambient_token() -> str | None:
    """The token of the CI job that this runs in; None elsewhere. Raises SigningError where the job may not have one."""
    _config(None)
    from sigstore.oidc import detect_credential

    try:
        token: str | None = detect_credential()
    except Exception as error:  # as above
        raise SigningError(f"this CI job gives no identity token: {_told(error)}") from error
    return token


def browser_token(trust: Trust, *, out_of_band: bool = False) -> str:
    """The token of a person who logs in, in a browser or (`out_of_band`) through a link and a code. Raises SigningError."""
    config = _config(_fetched(trust))
    from sigstore.oidc import Issuer

    try:
        return str(Issuer(config.signing_config.get_oidc_url()).identity_token(force_oob=out_of_band))
    except Exception as error:  # as above
        raise SigningError(f"nobody logged in: {_told(error)}: try again, or give --identity-token") from error


def _fetched(trust: Trust) -> Trust:
    """The same instance, as it is today."""
    return replace(trust, refresh=trust.instance in (PRODUCTION, STAGING))


def _config(trust: Trust | None) -> Any:
    """Services and keys of an instance; of none it is only seen to that the package is there."""
    try:
        import sigstore.sign  # noqa: F401

        return None if trust is None else load(trust)
    except ImportError as error:
        raise SigningError(f"signing through Sigstore needs a package more: {INSTALL}") from error
    except Unchecked as error:
        raise SigningError(f"Sigstore cannot be asked: {error}") from error


def _told(error: BaseException) -> str:
    """What an error says, and what it was made of: Sigstore's own say little."""
    told = [
        f"{type(item).__name__}: {item}".removesuffix(": ") for item in (error, error.__cause__) if item is not None
    ]
    return " ".join("; ".join(told).split())[:400]
