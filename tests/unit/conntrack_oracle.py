"""Conntrack entries as plain values, to messages and back attribute by attribute: what the agent's byte-wise ways with
them are held against. Attribute numbers from include/uapi/linux/netfilter/nfnetlink_conntrack.h."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.conntrack.flow import Flow, Status
from proxymode_agent.dataplane.conntrack.shapes import walk
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields

if TYPE_CHECKING:
    from proxymode_agent.dataplane.nfnetlink.attributes import Attributes

INFO = {socket.IPPROTO_TCP: (1, (1, 1, 1, 2, 2)), socket.IPPROTO_SCTP: (3, (1, 4, 4))}
SEEN = Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED


class Path(NamedTuple):
    """One direction."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int

    def back(self) -> Path:
        return Path(self.destination, self.destination_port, self.source, self.source_port)


class Entry(NamedTuple):
    """`info`: the values of CTA_PROTOINFO, or none: TCP's state, window scales, flags; SCTP's state and tags."""

    protocol: int
    original: Path
    reply: Path
    status: int = SEEN
    timeout: int = 100
    mark: int = 0
    id: bytes = b"id42"
    info: tuple[int, ...] = ()


def message(entry: Entry, *, usual: bool = True, zone: bool = False) -> bytes:
    """As ctnetlink_fill_info writes it; not `usual`: in another order and with more in it."""
    numbers: Attributes = (
        (3, entry.status.to_bytes(4, "big")),
        (8, entry.mark.to_bytes(4, "big")),
        (12, entry.id),
        (11, bytes(4)),
        (7, entry.timeout.to_bytes(4, "big")),
    )
    info: Attributes = ()
    if entry.info:
        nest, sizes = INFO[entry.protocol]
        # the kernel's flags are struct nf_ct_tcp_flags, of which a dump fills the first byte
        values = [
            value.to_bytes(size, "little" if entry.protocol == socket.IPPROTO_TCP else "big")
            for value, size in zip(entry.info, sizes, strict=True)
        ]
        info = ((4, ((nest, tuple(enumerate(values, 1))),)),)
    if not usual:
        numbers = (*reversed(numbers), (20, bytes(8)))
    length = len(entry.original.source)
    header = bytes((socket.AF_INET if length == 4 else socket.AF_INET6, 0, 0, 0))
    tuples = encode(((1, _tuple(entry.protocol, entry.original)), (2, _tuple(entry.protocol, entry.reply))))
    return header + tuples + encode((*(((18, bytes(2)),) if zone else ()), *numbers, *info))


def flow(entry: Entry) -> Flow:
    found = walk(message(entry))
    assert found is not None
    return found


def entry_of(of: Flow) -> Entry:
    """A Flow's values; attributes read one by one."""
    (values,) = [fields(next(iter(fields(value).values()))) for value in fields(of.info).values()] or [{}]
    order = "little" if of.protocol[0] == socket.IPPROTO_TCP else "big"
    timeout, mark = (int.from_bytes(next(iter(fields(one).values())), "big") for one in (of.timeout, of.mark))
    return Entry(
        of.protocol[0],
        Path(of.source, _port(of.source_port), of.destination, _port(of.destination_port)),
        Path(of.back, _port(of.back_port), of.seen_as, _port(of.seen_as_port)),
        of.status,
        timeout,
        mark,
        bytes(fields(of.id)[12]),
        tuple(int.from_bytes(value, order) for value in values.values()),  # type: ignore[arg-type]
    )


def path(attribute: memoryview) -> tuple[int, Path]:
    """The protocol and the path in a CTA_TUPLE_*."""
    parts = fields(attribute)
    source, destination = fields(parts[1]).values()
    number, *ports = fields(parts[2]).values()
    (source_port, destination_port) = (int.from_bytes(port, "big") for port in ports)
    return number[0], Path(bytes(source), source_port, bytes(destination), destination_port)


def _tuple(protocol: int, of: Path) -> Attributes:
    """CTA_TUPLE_IP and CTA_TUPLE_PROTO."""
    source, destination = (1, 2) if len(of.source) == 4 else (3, 4)
    ports = tuple((kind, port.to_bytes(2, "big")) for kind, port in ((2, of.source_port), (3, of.destination_port)))
    return (
        (1, ((source, of.source), (destination, of.destination))),
        (2, ((1, bytes([protocol])), *ports)),
    )


def _port(of: bytes) -> int:
    assert of[2:] == bytes(2)
    return int.from_bytes(of[:2], "big")
