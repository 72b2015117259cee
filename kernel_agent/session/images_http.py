"""Fetch an image over http(s) without becoming somebody's way into the local network.

Guarantees: every hop (redirects too) is resolved once, each of its addresses must be public, and the connection goes to
the address that was checked, so a name that resolves differently later (DNS rebinding) gains nothing; size and time
are capped; proxies, cookies and credentials of the environment are not used. Not covered: what a public server
does with the request, and networks where only a proxy reaches the internet.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import TYPE_CHECKING

from kernel_agent.errors import ImageError

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 64 * 1024 * 1024
MAX_SECONDS = 30.0
MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, *, allow_private: bool = False, max_bytes: int = MAX_BYTES, seconds: float = MAX_SECONDS) -> bytes:
    """Return the body of `url`. `allow_private` lifts the rule on addresses only."""
    import httpx

    deadline = time.monotonic() + seconds
    target = _parse(url)
    shown = display_url(url)
    try:
        with httpx.Client(trust_env=False, follow_redirects=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                address = _checked_address(target, shown, allow_private)
                request = client.build_request(
                    "GET",
                    target.copy_with(host=address, username=None, password=None),
                    headers={"Host": target.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": target.host},
                    timeout=max(0.1, min(10.0, deadline - time.monotonic())),
                )
                response = client.send(request, stream=True)
                try:
                    if response.is_redirect:
                        target = _parse(str(target.join(response.headers["location"])))
                        continue
                    if response.status_code != 200:
                        raise ImageError(
                            f"{shown}: the server answered {response.status_code}. Check the address, or download the image and give its path."
                        )
                    return _read(response, shown, max_bytes, deadline, seconds)
                finally:
                    response.close()
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise ImageError(
            f"{shown}: could not be fetched ({type(problem).__name__}: {problem}). Download the image and give its path."
        ) from problem
    raise ImageError(f"{shown}: more than {MAX_REDIRECTS} redirects. Give the final address.")


def display_url(url: str) -> str:
    """Return `url` without credentials, query and fragment: what may be shown and stored."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "http address"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.scheme}://{parsed.host}{port}{parsed.path}"


def _parse(url: str) -> httpx.URL:
    import httpx

    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as problem:
        raise ImageError(f"{url[:80]!r} is no http address ({problem}). Give http://host/path.") from problem
    if target.scheme not in ("http", "https") or not target.host:
        raise ImageError(
            f"{display_url(url)}: only http and https addresses are fetched. Give the path of a local file instead."
        )
    return target


def _checked_address(target: httpx.URL, shown: str, allow_private: bool) -> str:
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        raise ImageError(
            f"{shown}: the host {target.host!r} is unknown ({problem}). Check the address and the network."
        ) from problem
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not allow_private and not is_public(address):
            raise ImageError(
                f"{shown}: the host {target.host!r} is at {address}, which is no public address; only public ones are fetched. "
                "Download the image and give its path."
            )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is an ordinary one on the internet: no private, loopback, link-local, tunnelled or mapped one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in _NAT64:
            return False
    return ip.is_global and not ip.is_multicast


def _read(response: httpx.Response, shown: str, max_bytes: int, deadline: float, seconds: float) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise ImageError(
                f"{shown}: more than {max_bytes:,} bytes, the limit for fetched images. Download it and give its path."
            )
        if time.monotonic() > deadline:
            raise ImageError(f"{shown}: not complete after {seconds:g} s, the limit. Download it and give its path.")
    return bytes(body)
