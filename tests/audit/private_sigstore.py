"""A small instance of Sigstore on this machine: certificates, certificate log, log, time-stamps and logins, over HTTP.

It stands for the public services, which tests cannot reach; all cryptography is real. Fulcio checks tokens, issues certificates from an
intermediate authority and has them in a certificate log (SCT); Rekor (both protocols: 1, with a signed promise, and 2, which needs
time-stamps) keeps a Merkle tree and proves entries; time-stamps are made by `openssl ts`; the identity provider logs in whoever asks
as `email`. What can be made to go wrong: `life` of certificates, and `skew` of the log's clock.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

_ISSUER_1, _ISSUER_2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCTS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
_TSA = """[tsa]
default_tsa = one
[one]
serial = {place}/serial
signer_cert = {place}/tsa.pem
signer_key = {place}/tsa.key
signer_digest = sha256
default_policy = 1.3.6.1.4.1.57264.2
digests = sha256
ess_cert_id_alg = sha256
"""


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _der(key: Any) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _tlv(tag: int, data: bytes) -> bytes:
    size = len(data)
    return (
        bytes([tag, size] if size < 128 else [tag, 0x81, size] if size < 256 else [tag, 0x82, *divmod(size, 256)])
        + data
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _tree(leaves: list[bytes]) -> bytes:
    """The root of a Merkle tree (RFC 6962) over hashes of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return _hash(_tree(leaves[:half]), _tree(leaves[half:]))


def _path(leaves: list[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*_path(leaves[:half], index), _tree(leaves[half:])]
    return [*_path(leaves[half:], index - half), _tree(leaves[:half])]


class Authority:
    """A root certificate, and one below it that signs."""

    def __init__(self, name: str, usage: Any, *, ca: bool) -> None:
        self.root_key, self.key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = self._made(f"{name} root", self.root_key, None, ca=True)
        self.cert = self._made(name, self.key, usage, ca=ca)

    def _made(self, name: str, key: Any, usage: Any, *, ca: bool) -> x509.Certificate:
        root = self.root_key
        issuer = name if key is root else f"{name} root"
        builder = (
            x509.CertificateBuilder(_name(issuer), _name(name), key.public_key(), x509.random_serial_number())
            .not_valid_before(_START)
            .not_valid_after(_START + dt.timedelta(days=9999))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=not ca)
        return builder.sign(root, hashes.SHA256())

    def trusted(self) -> dict[str, Any]:
        chain = [{"rawBytes": _b64(cert.public_bytes(serialization.Encoding.DER))} for cert in (self.cert, self.root)]
        return {
            "subject": {"organization": "test", "commonName": "test"},
            "certChain": {"certificates": chain},
            "validFor": {"start": "2025-01-01T00:00:00Z"},
        }


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)


class Instance:
    """The services. `config` is the ClientTrustConfig that a client needs, as JSON."""

    def __init__(self, place: Path, *, rekor: int = 1, email: str = "alice@example.org") -> None:
        self.place, self.rekor, self.email = place, rekor, email
        self.life, self.skew = 600.0, 0.0
        self.fulcio = Authority("fulcio", ExtendedKeyUsageOID.CODE_SIGNING, ca=True)
        self.tsa = Authority("tsa", ExtendedKeyUsageOID.TIME_STAMPING, ca=False)
        self.ct_key, self.oidc_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.log_key: Any = (
            ec.generate_private_key(ec.SECP256R1()) if rekor == 1 else ed25519.Ed25519PrivateKey.generate()
        )
        self.leaves: list[bytes] = [hashlib.sha256(b"\x00" + bytes([number])).digest() for number in range(4)]
        self.codes: list[str] = []
        self.asked: list[str] = []
        place.mkdir()
        self._time_stamps()
        self.url = ""

    # Who asks

    def token(self, email: str | None = None, *, audience: str = "sigstore", seconds: float = 300) -> str:
        now = int(time.time())
        claims = {"iss": f"{self.url}/auth", "sub": "subject-1", "aud": audience, "iat": now, "exp": now + int(seconds)}
        return jwt.encode(claims | {"email": email or self.email}, self.oidc_key, "ES256")

    @property
    def issuer(self) -> str:
        return f"{self.url}/auth"

    @property
    def config(self) -> str:
        kind = "PKIX_ECDSA_P256_SHA_256"
        logs = [self._trusted(self.log_key, kind if self.rekor == 1 else "PKIX_ED25519", self._log_id())]
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": logs,
            "certificateAuthorities": [self.fulcio.trusted()],
            "ctlogs": [self._trusted(self.ct_key, kind, hashlib.sha256(_der(self.ct_key.public_key())).digest())],
            "timestampAuthorities": [self.tsa.trusted()],
        }
        service = {"validFor": {"start": "2025-01-01T00:00:00Z"}, "operator": "test"}
        any_ = {"selector": "ANY"}
        signing = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [{"url": self.url, "majorApiVersion": 1, **service}],
            "oidcUrls": [{"url": self.issuer, "majorApiVersion": 1, **service}],
            "rekorTlogUrls": [{"url": self.url, "majorApiVersion": self.rekor, **service}],
            "rekorTlogConfig": any_,
            "tsaUrls": [{"url": f"{self.url}/time", "majorApiVersion": 1, **service}],
            "tsaConfig": any_,
        }
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        return json.dumps({"mediaType": kind, "trustedRoot": root, "signingConfig": signing})

    def _trusted(self, key: Any, kind: str, log_id: bytes) -> dict[str, Any]:
        public = {"rawBytes": _b64(_der(key.public_key())), "keyDetails": kind}
        public["validFor"] = {"start": "2025-01-01T00:00:00Z"}  # type: ignore[assignment]
        return {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": {"keyId": _b64(log_id)}}

    # Fulcio

    def certificate(self, request: Any, bearer: str) -> Any:
        token = bearer.removeprefix("Bearer ")
        claims = jwt.decode(token, self.oidc_key.public_key(), ["ES256"], audience="sigstore", issuer=self.issuer)
        csr = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        assert csr.is_signature_valid
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        issuer = claims["iss"].encode()
        key = self.fulcio.key
        builder = (
            x509.CertificateBuilder(
                self.fulcio.cert.subject, x509.Name([]), csr.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now)
            .not_valid_after(now + dt.timedelta(seconds=self.life))
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(claims["email"])]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_1, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_2, _tlv(0x0C, issuer)), critical=False)
        )
        known = self._logged(builder.sign(key, hashes.SHA256()).tbs_certificate_bytes)
        cert = builder.add_extension(x509.UnrecognizedExtension(_SCTS, known), critical=False).sign(
            key, hashes.SHA256()
        )
        chain = [each.public_bytes(serialization.Encoding.PEM).decode() for each in (cert, self.fulcio.cert)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _logged(self, certificate: bytes) -> bytes:
        """The certificate log's receipt (RFC 6962, 3.2 and 3.3)."""
        issuer = hashlib.sha256(_der(self.fulcio.key.public_key())).digest()
        now = int(time.time() * 1000)
        head, size = struct.pack("!BBQH", 0, 0, now, 1), struct.pack("!I", len(certificate))[1:]
        signature = self.ct_key.sign(head + issuer + size + certificate + b"\0\0", ec.ECDSA(hashes.SHA256()))
        name = hashlib.sha256(_der(self.ct_key.public_key())).digest()
        sct = b"\0" + name + struct.pack("!QHBBH", now, 0, 4, 3, len(signature)) + signature
        return _tlv(0x04, struct.pack("!HH", len(sct) + 2, len(sct)) + sct)

    # Rekor

    def _log_id(self) -> bytes:
        if self.rekor == 1:
            return hashlib.sha256(_der(self.log_key.public_key())).digest()
        return hashlib.sha256(b"log.test\n\x01" + self.log_key.public_key().public_bytes_raw()).digest()

    def _signed(self, data: bytes) -> bytes:
        return self.log_key.sign(data, ec.ECDSA(hashes.SHA256())) if self.rekor == 1 else self.log_key.sign(data)

    def _proof(self, body: bytes) -> dict[str, Any]:
        self.leaves.append(hashlib.sha256(b"\x00" + body).digest())
        root, index = _tree(self.leaves), len(self.leaves) - 1
        note = f"log.test\n{index + 1}\n{_b64(root)}\n"
        line = f"\u2014 log.test {_b64(self._log_id()[:4] + self._signed(note.encode()))}\n"
        path = _path(self.leaves, index)
        return {"index": index, "size": index + 1, "root": root, "path": path, "checkpoint": f"{note}\n{line}"}

    def entry_1(self, request: Any) -> Any:
        content = request["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        digests = [content["envelope"].encode(), base64.b64decode(envelope["payload"])]
        first, second = ({"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()} for data in digests)
        signatures = [{"signature": envelope["signatures"][0]["sig"], "verifier": content["verifiers"][0]}]
        spec = {"envelopeHash": first, "payloadHash": second, "signatures": signatures}
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        proof = self._proof(body)
        told = {"body": _b64(body), "integratedTime": int(time.time() + self.skew), "logID": self._log_id().hex()}
        told["logIndex"] = proof["index"] + 1000  # this tree is not the log's first
        inclusion = {
            "logIndex": proof["index"],
            "treeSize": proof["size"],
            "rootHash": proof["root"].hex(),
            "hashes": [each.hex() for each in proof["path"]],
            "checkpoint": proof["checkpoint"],
        }
        promise = _b64(self._signed(rfc8785.dumps(told)))
        return {"e" * 64: told | {"verification": {"inclusionProof": inclusion, "signedEntryTimestamp": promise}}}

    def entry_2(self, request: Any) -> Any:
        asked = request["hashedRekordRequestV002"]
        spec = {"data": {"algorithm": "SHA2_256", "digest": asked["digest"]}, "signature": asked["signature"]}
        body = rfc8785.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": spec}})
        proof = self._proof(body)
        return {
            "logIndex": str(proof["index"]),
            "logId": {"keyId": _b64(self._log_id())},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": {
                "logIndex": str(proof["index"]),
                "treeSize": str(proof["size"]),
                "rootHash": _b64(proof["root"]),
                "hashes": [_b64(each) for each in proof["path"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": _b64(body),
        }

    # Time-stamps

    def _time_stamps(self) -> None:
        pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
        (self.place / "tsa.pem").write_bytes(self.tsa.cert.public_bytes(pem))
        (self.place / "tsa.key").write_bytes(self.tsa.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
        (self.place / "serial").write_text("01")
        (self.place / "tsa.cnf").write_text(_TSA.format(place=self.place))

    def time_stamp(self, query: bytes) -> bytes:
        (self.place / "query").write_bytes(query)
        command = ["openssl", "ts", "-reply", "-config", self.place / "tsa.cnf", "-queryfile", self.place / "query"]
        return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout


class _Handler(BaseHTTPRequestHandler):
    instance: Instance

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        """The identity provider: where it is, a login that is over at once, a token for a CI job."""
        ours, path = self.instance, urllib.parse.urlsplit(self.path)
        ours.asked.append(path.path)
        if path.path.endswith("openid-configuration"):
            places = {"authorization_endpoint": f"{ours.url}/login", "token_endpoint": f"{ours.url}/token"}
            return self._give(200, json.dumps(places).encode(), "application/json")
        asked = dict(urllib.parse.parse_qsl(path.query))
        if path.path == "/ci":  # as GitHub gives tokens to a job
            assert self.headers["Authorization"] == "bearer the-job"
            return self._give(
                200, json.dumps({"value": ours.token(audience=asked["audience"])}).encode(), "application/json"
            )
        ours.codes.append("code-1")
        answer = urllib.parse.urlencode({"code": "code-1", "state": asked["state"]})
        self.send_response(302)
        self.send_header("Location", f"{asked['redirect_uri']}?{answer}")
        self.end_headers()
        return None

    def do_POST(self) -> None:
        """All other services."""
        ours = self.instance
        ours.asked.append(self.path)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.path == "/time":
                return self._give(201, ours.time_stamp(data), "application/timestamp-reply")
            if self.path == "/token":
                form = dict(urllib.parse.parse_qsl(data.decode()))
                assert (form["code"] in ("code-1", "by-hand"), bool(form["code_verifier"])) == (True, True)
                answer: Any = {"access_token": ours.token()}
            elif self.path == "/api/v2/signingCert":
                answer = ours.certificate(json.loads(data), self.headers["Authorization"])
            else:
                entry = {"/api/v1/log/entries": ours.entry_1, "/api/v2/log/entries": ours.entry_2}[self.path]
                answer = entry(json.loads(data))
        except Exception as error:
            return self._give(400, json.dumps({"code": 400, "message": repr(error)}).encode(), "application/json")
        return self._give(201, json.dumps(answer).encode(), "application/json")

    def _give(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running(place: Path, **options: Any) -> Iterator[Instance]:
    """An instance that listens on 127.0.0.1."""
    instance = Instance(place, **options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"instance": instance}))
    instance.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield instance
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
