"""Ed25519 keys of signers, in files that ssh-keygen and OpenSSL write as well.

Guarantees: a public key is named by its 32 bytes in hexadecimal, so that a name is the key and nothing has to be looked up. A key
made here lies in a file that only its owner may read. Nothing of a private key gets into a message.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_agent.errors import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

KEY_VARIABLE = "CODEVISION_SIGNING_KEY"
"""Names the file of the user's key, where it is not the default one."""
_MOST = 1 << 16
"""Bytes of a key's file."""
_HEX = re.compile(r"[0-9a-f]{64}")


def default_key() -> Path:
    """Where the user's own key lies: CODEVISION_SIGNING_KEY, or `codevision/signing-key.pem` in the configuration folder."""
    if chosen := os.environ.get(KEY_VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "codevision", "signing-key.pem")


def make_key(path: Path) -> None:
    """Write a new private key (PKCS#8 PEM, no passphrase, mode 0600). InputError where there is a file already."""
    from securesystemslib.signer import CryptoSigner

    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(CryptoSigner.generate_ed25519().private_bytes)
    except OSError as error:
        raise InputError(f"no key can be made at {path}: {error.strerror}: give another --key") from error


def load_signer(path: Path) -> CryptoSigner:
    """The signer in a file: PEM (PKCS#8) or OpenSSH, without a passphrase. InputError otherwise."""
    # before the imports, which take longer
    data = _read(path, "give the file of a private key; codevision sign makes yours")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner

    load = serialization.load_ssh_private_key if b"OPENSSH" in data[:60] else serialization.load_pem_private_key
    try:
        key = load(data, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        locked = isinstance(error, TypeError)
        what = "it has a passphrase" if locked else "it is no whole one in PEM or OpenSSH form"
        remedy = "give another, or move it away: codevision sign makes a new one where you have none"
        raise InputError(f"{path} holds no private key that can be used: {what}: {remedy}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds a key of another kind: Ed25519 is needed (ssh-keygen -t ed25519)")
    name = key.public_key().public_bytes_raw().hex()
    return CryptoSigner(key, public_key(name))


def public_key(name: str) -> SSlibKey:
    """The key that this name is. InputError where it is none."""
    from securesystemslib.signer import SSlibKey

    if not _HEX.fullmatch(name):
        raise InputError(f"{name!r:.80} is no Ed25519 public key: 64 hexadecimal digits")
    return SSlibKey(name, "ed25519", "ed25519", {"public": name})


def pinned(given: str) -> str:
    """The name of a key that a user gives: 64 hexadecimal digits, or a file with a public key (PEM or OpenSSH)."""
    if _HEX.fullmatch(given.lower()):
        return given.lower()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = _read(Path(given), "give 64 hexadecimal digits, or the file of a public key (PEM or .pub)")
    load = (
        serialization.load_pem_public_key
        if data.startswith(b"-----BEGIN PUBLIC")
        else serialization.load_ssh_public_key
    )
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        remedy = "give 64 hexadecimal digits (codevision sign prints them), or a PEM or .pub file"
        raise InputError(f"{given} holds no public key: {remedy}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{given} holds a key of another kind: Ed25519 is needed")
    return key.public_bytes_raw().hex()


def _read(path: Path, remedy: str) -> bytes:
    from kernel_agent.trajectory.reading import read_file  # loaded here: `codevision --help` needs no run

    try:
        return read_file(path, _MOST)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}: {remedy}") from error
