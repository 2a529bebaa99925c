"""Addresses as text to packed addresses; what must not be used is left out and reported, not trusted.

The API server should have refused it; the agent also runs beside API servers and controllers that are not Kubernetes'
own, and a Service whose endpoint is 127.0.0.1 would open the node's own loopback to the cluster.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

_UNSPECIFIED6: Final = bytes(16)
_LOOPBACK6: Final = bytes(15) + b"\x01"
_SUSPECT: Final = bytes(first in (0, 127, 169) or first >= 224 for first in range(256))
"""By first octet, of either family: whether an address may be special."""


def packed(text: str, field: str, problems: list[str]) -> bytes | None:
    """The packed address; None, and a word in `problems`, for what is none or must not be a frontend or endpoint.

    Source of the ranges: ValidateEndpointIP and ValidateNonSpecialIP of k8s.io/kubernetes.
    """
    try:
        # Not `ipaddress`: it takes twenty times as long, and a large cluster has 500,000 of these.
        address = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        problems.append(f"{field} has {text!r}, which is not an IP address")
        return None
    if _SUSPECT[address[0]] and _special(address):
        problems.append(
            f"{field} has {text}; loopback, link-local, multicast and unspecified addresses are not allowed"
        )
        return None
    return address


def _special(address: bytes) -> bool:
    """Whether the address is unspecified, loopback, link-local, multicast or (IPv4) broadcast and reserved."""
    first = address[0]
    if len(address) == 4:
        return first in (0, 127) or first >= 224 or (first == 169 and address[1] == 254)
    return first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80) or address in (_UNSPECIFIED6, _LOOPBACK6)
