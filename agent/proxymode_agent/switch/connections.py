"""Which established connections hang on a mode, and which of them still do what they did. Pure, over conntrack entries.

TCP and SCTP only: a UDP "connection" is a guess of conntrack's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.conntrack.flow import INFO, Flow, Status
from proxymode_agent.dataplane.conntrack.layout import BY_LENGTH
from proxymode_agent.dataplane.conntrack.messages import original_of, reply_of
from proxymode_agent.switch.record import Connections
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from proxymode_agent.dataplane.conntrack.shapes import Block
    from proxymode_agent.dataplane.conntrack.table import Checked
    from proxymode_agent.services.model import ServiceState

_PORT: Final = struct.Struct(">H2x")

Held = dict[bytes, bytes]
"""Connections by CTA_TUPLE_ORIG, with CTA_TUPLE_REPLY: from which endpoint, and to whom."""


class Frontends(NamedTuple):
    """What clients address: Services' own addresses with ports, and NodePorts on any address; as they are in a Flow, by
    length of addresses and protocol."""

    addressed: dict[tuple[int, int], set[bytes]]
    node_ports: dict[tuple[int, int], set[bytes]]

    @classmethod
    def of(cls, frontends: Iterable[tuple[bytes, int, int]], node_ports: Iterable[tuple[int, int]]) -> Frontends:
        """Of addresses with protocols and ports, and NodePorts with their protocols."""
        kinds = [(length, protocol) for length in BY_LENGTH for protocol in INFO]
        made = cls({kind: set() for kind in kinds}, {kind: set() for kind in kinds})
        for address, protocol, port in frontends:
            made.addressed[len(address), protocol].add(address + _PORT.pack(port))
        for protocol, port in node_ports:
            for length in BY_LENGTH:
                made.node_ports[length, protocol].add(_PORT.pack(port))
        return made

    def include(self, flow: Flow) -> bool:
        """Whether the connection was made to one of them."""
        return self._has(flow.protocol[0], flow.destination, flow.destination_port)

    def has(self, protocol: int, address: bytes, port: int) -> bool:
        """Whether one of them has this address and port."""
        return self._has(protocol, address, _PORT.pack(port))

    def _has(self, protocol: int, address: bytes, port: bytes) -> bool:
        kind = len(address), protocol
        return address + port in self.addressed[kind] or port in self.node_ports[kind]


def frontends(state: ServiceState) -> Frontends:
    """The frontends of all Service ports."""
    ports = state.ports.values()
    return Frontends.of(
        (
            (address, port.cluster_ip.protocol, port.cluster_ip.port)
            for port in ports
            for address in (port.cluster_ip.address, *port.external_ips, *port.load_balancer_ips)
        ),
        ((port.name.protocol, port.node_port) for port in ports if port.node_port is not None),
    )


def concerning(found: Iterable[Block | Flow], services: Frontends) -> Iterator[Flow]:
    """Entries in which one of them is at either end; there are many others."""
    for one in found:
        if isinstance(one, Flow):
            yield one
        else:
            yield from one.picked(concerned(one, services)).flows()


def concerned(block: Block, services: Frontends) -> list[int]:
    """The rows of such entries."""
    kind = block.shape.length, block.shape.protocol
    addressed, node_ports = services.addressed[kind], services.node_ports[kind]
    return [
        at
        for at, (_, to, _, _, to_port, _, seen_as, _, seen_as_port) in enumerate(block.ends())
        if to + to_port in addressed
        or to_port in node_ports
        or seen_as + seen_as_port in addressed
        or seen_as_port in node_ports
    ]


def upright(flow: Flow, services: Frontends) -> Flow:
    """The entry as it would be had the client's packet made it, where the endpoint's did, by the hand-over's maps: then
    the client's direction is its reply, and netfilter translates its source where otherwise the destination."""
    if not flow.status & Status.SRC_NAT or services.include(flow):
        return flow
    turned = made_by_client(flow)
    return turned if services.include(turned) else flow


def made_by_client(flow: Flow) -> Flow:
    """An entry that the endpoint's packet made, the other way round."""
    return flow.turned()._replace(status=flow.status | Status.DST_NAT)


def held_by(mode: Mode, flows: Iterable[Flow], services: Frontends) -> Held:
    """Established connections to Services that `mode` translates."""
    return {
        original_of(flow): reply_of(flow)
        for flow in (upright(one, services) for one in flows)
        if flow.established and _translates(mode, flow) and services.include(flow)
    }


def opening(flows: Iterable[Flow], services: Frontends) -> set[bytes]:
    """CTA_TUPLE_ORIG of connections to Services whose handshake goes through IPVS right now."""
    return {original_of(flow) for flow in flows if flow.opening and flow.by_ipvs and services.include(flow)}


def found(wanted: Container[bytes], flows: Iterable[Flow]) -> dict[bytes, Flow]:
    """What a dump has for `wanted`, all the right way round."""
    seen: dict[bytes, Flow] = {}
    for flow in flows:
        turned = made_by_client(flow)
        if original_of(flow) in wanted:
            seen[original_of(flow)] = flow
        elif flow.status & Status.SRC_NAT and original_of(turned) in wanted:
            seen[original_of(turned)] = turned
    return seen


def compare(before: Mapping[bytes, bytes], after: Checked) -> Connections:
    """What became of connections. One that ended by itself meanwhile is kept as long as conntrack remembers its end."""
    others = found(after.rest, after.others)
    kept = sum(1 for original, flow in others.items() if flow.by_nftables and reply_of(flow) == before[original])
    return Connections(found=len(before), kept=len(before) - len(after.rest) + kept)


def _translates(mode: Mode, flow: Flow) -> bool:
    return flow.by_ipvs if mode is Mode.IPVS else flow.by_nftables
