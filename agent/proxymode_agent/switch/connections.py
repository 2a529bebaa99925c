"""Which established connections hang on a mode, and which of them still do what they did. Pure, over conntrack entries.

TCP only: a UDP "connection" is a guess of conntrack's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.conntrack.entries import TCP_ESTABLISHED, Entry, Key, Status, forwards, key_of
from proxymode_agent.switch.record import Connections
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from proxymode_agent.dataplane.conntrack.entries import Path
    from proxymode_agent.services.model import Frontend, ServiceState

Held = dict[Key, "Path"]
"""Connections by key, with the reply direction: from which endpoint, and to whom."""


class Frontends(NamedTuple):
    """What clients address: Services' own addresses, and NodePorts (protocol, port) on any address."""

    addressed_ports: frozenset[Frontend]
    node_ports: frozenset[tuple[int, int]]

    def include(self, entry: Entry) -> bool:
        """Whether the connection was made to one of them."""
        return self.addressed(entry.protocol, entry.original.destination, entry.original.destination_port)

    def addressed(self, protocol: int, address: bytes, port: int) -> bool:
        """Whether one of them has this address and port."""
        return (address, protocol, port) in self.addressed_ports or (protocol, port) in self.node_ports


def frontends(state: ServiceState) -> Frontends:
    """The frontends of all Service ports."""
    return Frontends(
        addressed_ports=frozenset(
            port.cluster_ip._replace(address=address)
            for port in state.ports.values()
            for address in (port.cluster_ip.address, *port.external_ips, *port.load_balancer_ips)
        ),
        node_ports=frozenset(
            (port.name.protocol, port.node_port) for port in state.ports.values() if port.node_port is not None
        ),
    )


def upright(entry: Entry, services: Frontends) -> Entry:
    """The entry as it would be had the client's packet made it, where the endpoint's did, by the hand-over's maps: then
    the client's direction is its reply, and netfilter translates its source where otherwise the destination."""
    if not entry.status & Status.SRC_NAT or services.include(entry):
        return entry
    turned = forwards(entry._replace(status=entry.status | Status.DST_NAT))
    return turned if services.include(turned) else entry


def held_by(mode: Mode, entries: Iterable[Entry], services: Frontends) -> Held:
    """Established connections to Services that `mode` translates."""
    return {
        key_of(entry): entry.reply
        for entry in (upright(one, services) for one in entries)
        if entry.established and _translates(mode, entry) and services.include(entry)
    }


def opening(entries: Iterable[Entry], services: Frontends) -> set[Key]:
    """Connections to Services whose handshake goes through IPVS right now."""
    return {
        key_of(entry)
        for entry in entries
        if entry.tcp is not None and entry.tcp.state < TCP_ESTABLISHED and entry.by_ipvs and services.include(entry)
    }


def found(wanted: Container[Key], entries: Iterable[Entry]) -> dict[Key, Entry]:
    """What a dump has for `wanted`, all the right way round.

    An entry that the endpoint's packet made, by the maps, has the client's direction as its reply, and netfilter
    translates its source where otherwise it translates the destination.
    """
    seen: dict[Key, Entry] = {}
    for entry in entries:
        if key_of(entry) in wanted:
            seen[key_of(entry)] = entry
        elif entry.status & Status.SRC_NAT and Key(entry.protocol, entry.reply) in wanted:
            seen[Key(entry.protocol, entry.reply)] = forwards(entry._replace(status=entry.status | Status.DST_NAT))
    return seen


def compare(before: Mapping[Key, Path], entries: Iterable[Entry]) -> Connections:
    """What became of connections. One that ended by itself meanwhile is kept as long as conntrack remembers its end."""
    after = found(before, entries)
    kept = sum(1 for key, entry in after.items() if entry.by_nftables and entry.reply == before[key])
    return Connections(found=len(before), kept=kept)


def _translates(mode: Mode, entry: Entry) -> bool:
    return entry.by_ipvs if mode is Mode.IPVS else entry.by_nftables
