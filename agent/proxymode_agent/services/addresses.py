"""Addresses and networks as text to what can be used; what must not be used is left out and reported, not trusted.

Kubernetes stores what older releases let through: octets with leading zeros, which are decimal all the same, and IPv4
addresses written as IPv6 ones. They mean what they always meant (ParseIPSloppy of k8s.io/utils/net).

The API server should have refused it; the agent also runs beside API servers and controllers that are not Kubernetes'
own, and a Service whose endpoint is 127.0.0.1 would open the node's own loopback to the cluster.
"""

from __future__ import annotations

import ipaddress
import re
from socket import AF_INET, AF_INET6, inet_pton
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxymode_agent.services.model import Family, Network

_UNSPECIFIED6: Final = bytes(16)
_LOOPBACK6: Final = bytes(15) + b"\x01"
_MAPPED: Final = bytes(10) + b"\xff\xff"
_LEADING_ZEROS: Final = r"(?<![0-9a-fA-F:.])0+(?=[0-9])|(?<=\.)0+(?=[0-9])"
"""Of the octets of an address, but not of the groups of an IPv6 one; of a prefix length as well. Hardly ever needed, so
compiled by its first use."""
_USUAL: Final = bytes(first for first in range(224) if first not in (0, 127, 169))
"""First octets, of either family, of addresses that are nothing special."""


def packed(text: str, field: str, problems: list[str]) -> bytes | None:
    """The packed address; None, and a word in `problems`, for what is none or must not be a frontend or endpoint.

    Source of the ranges: ValidateEndpointIP and ValidateNonSpecialIP of k8s.io/kubernetes.
    """
    try:
        # Not `ipaddress`: it takes twenty times as long, and a large cluster has 500,000 of these.
        address = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        decimal = re.sub(_LEADING_ZEROS, "", text)
        if decimal != text:
            return packed(decimal, field, problems)
        problems.append(f"{field} has {text!r}, which is not an IP address")
        return None
    if not address[0] and address.startswith(_MAPPED):
        address = address[len(_MAPPED) :]
    if address[0] not in _USUAL and _special(address):
        problems.append(
            f"{field} has {text}; loopback, link-local, multicast and unspecified addresses are not allowed"
        )
        return None
    return address


def all_packed(texts: list[str], family: Family, field: str, problems: list[str]) -> list[bytes]:
    """The packed addresses of one family without those that cannot be used, as `packed` has it; one by one only where
    there is one that may be special."""
    kind = AF_INET if family == 4 else AF_INET6
    try:
        addresses = [inet_pton(kind, text) for text in texts]
    except (OSError, ValueError):
        addresses = []
    first_octets = b"".join(addresses)[::family]
    if addresses and not first_octets.strip(_USUAL):
        return addresses
    found = []
    for text in texts:
        address = packed(text, field, problems)
        if address is None:
            continue
        if len(address) != family:
            problems.append(f"{field} has {text}, which is not {'IPv4' if family == 4 else 'IPv6'}")
        else:
            found.append(address)
    return found


def network(text: str) -> Network:
    """The network written so: padding and host bits have always been allowed. Raises ValueError for what is none."""
    return ipaddress.ip_network(re.sub(_LEADING_ZEROS, "", text.strip()), strict=False)


def _special(address: bytes) -> bool:
    """Whether the address is unspecified, loopback, link-local, multicast or (IPv4) broadcast and reserved."""
    first = address[0]
    if len(address) == 4:
        return first in (0, 127) or first >= 224 or (first == 169 and address[1] == 254)
    return first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80) or address in (_UNSPECIFIED6, _LOOPBACK6)
