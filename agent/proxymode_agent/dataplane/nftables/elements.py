"""Service state in the bytes of the kernel's map elements. Pure.

A key or value is its fields one after another, each padded to four bytes, as registers hold them: addresses and ports
in network order, protocol as one byte, an index in host order.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.services.model import Endpoint, Frontend, Protocol

INDEX_BYTES = 4
_PORT = struct.Struct(">H2x")


class _Ports(dict[int, bytes]):
    """Packed ports, made when first asked for: there are far fewer ports than endpoints."""

    def __missing__(self, port: int) -> bytes:
        packed = self[port] = _PORT.pack(port)
        return packed


_ports = _Ports()
_indices: list[bytes] = []


def service_key(frontend: Frontend) -> bytes:
    """Key of a Service address and port: address . protocol . port."""
    return frontend.address + nodeport_key(frontend.protocol, frontend.port)


def nodeport_key(protocol: Protocol, port: int) -> bytes:
    """Key of a node port: protocol . port."""
    return bytes((protocol, 0, 0, 0)) + _ports[port]


def pack_endpoints(endpoints: Iterable[Endpoint]) -> tuple[bytes, ...]:
    """Values of the endpoint maps: address . port."""
    ports = _ports
    return tuple([address + ports[port] for address, port in endpoints])


def indices(count: int) -> list[bytes]:
    """The last field of an endpoint map's key, for the indices from 0 to at least count - 1."""
    while len(_indices) < count:
        _indices.append(len(_indices).to_bytes(INDEX_BYTES, sys.byteorder))
    return _indices


def index_of(packed: bytes) -> int:
    """The number of an index field."""
    return int.from_bytes(packed, sys.byteorder)
