"""Service state in the bytes of the kernel's map elements. Pure.

A key or value is its fields one after another, each padded to four bytes, as registers hold them: addresses and ports
in network order, protocol as one byte, an index or an id in host order.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import Frontend, Network, Protocol

INDEX_BYTES = 4
_KEY = struct.Struct(">B3xH2x")
_indices: dict[int, list[bytes]] = {}


def service_key(frontend: Frontend) -> bytes:
    """Key of a Service address and port: address . protocol . port."""
    return frontend.address + nodeport_key(frontend.protocol, frontend.port)


@cache  # there are far fewer ports than Services
def nodeport_key(protocol: Protocol, port: int) -> bytes:
    """Key of a node port: protocol . port."""
    return _KEY.pack(protocol, port)


def protocol_of(key: bytes) -> bytes:
    """The protocol's field of a frontend's key, which is the last but the port."""
    return key[-8:-4]


def source_range(key: bytes, sources: Network) -> bytes:
    """An element of the set of allowed sources: the first and the last of frontend . source address."""
    return key + sources[0].packed + key + sources[-1].packed


def collapsed(networks: Iterable[Network]) -> list[Network]:
    """Networks of one family without overlaps: the kernel refuses overlapping intervals."""
    return list(ipaddress.collapse_addresses(networks))  # type: ignore[type-var]


def indices(count: int, base: int = 0) -> list[bytes]:
    """The last field of an index map's key, for the indices from `base` to at least base + count - 1."""
    known = _indices.setdefault(base, [])
    while len(known) < count:
        known.append(number(base + len(known)))
    return known


def number(value: int) -> bytes:
    """A number in host order."""
    return value.to_bytes(INDEX_BYTES, sys.byteorder)


def number_of(packed: bytes) -> int:
    """The number in a field in host order."""
    return int.from_bytes(packed, sys.byteorder)
