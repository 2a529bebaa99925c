"""Pure: which conntrack entries are carried over, how their packets are caught meanwhile, and what got lost.

Between the moment an entry of IPVS is deleted and the moment its successor is created, and again when the end of an
IPVS connection makes the kernel delete the entry with its addresses and ports, a packet may come and make an entry of
its own. Each flow therefore has a translation for either side's packet, keyed by that packet's own addresses and
ports, which conntrack calls the original direction of the entry that it makes. Conntrack's tuples are unique, so the
keys are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.conntrack.layout import BY_LENGTH
from proxymode_agent.dataplane.conntrack.messages import reply_of
from proxymode_agent.switch.connections import found, upright

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_agent.dataplane.conntrack.table import Checked
    from proxymode_agent.switch.connections import Frontends


class Catches(NamedTuple):
    """What netfilter's NAT does with flows' packets that find no entry: new destinations and new sources, by packet.

    Keys: protocol, source, port, destination, port; values: address, port; all numbers filled up to four bytes.
    """

    destinations: dict[bytes, bytes]
    sources: dict[bytes, bytes]


def nothing_caught() -> dict[int, Catches]:
    """By length of addresses."""
    return {length: Catches({}, {}) for length in BY_LENGTH}


class Repair(NamedTuple):
    """Of the wanted flows, by CTA_TUPLE_ORIG: those without any entry, those that their own ends are closing, and those
    in the place of which something else is, with its CTA_ID."""

    missing: list[bytes]
    ended: set[bytes]
    wrong: dict[bytes, bytes]


def on_ipvs(flow: Flow, services: Frontends) -> Flow | None:
    """The flow the right way round if it is to a Service and IPVS translates it."""
    if not flow.by_ipvs:
        if not flow.backwards:
            return None
        flow = flow.turned()
    return flow if services.include(flow) else None


def on_nat(flow: Flow, services: Frontends) -> Flow | None:
    """The flow the right way round if it is an open one to a Service and netfilter's NAT translates it."""
    flow = upright(flow, services)
    return flow if flow.by_nftables and flow.open and services.include(flow) else None


def catch(flow: Flow, catches: Mapping[int, Catches]) -> None:
    """Add the translations for a packet of the client and for one of the endpoint."""
    source, destination, protocol, source_port, destination_port, back, seen_as, back_port, seen_as_port = flow[:9]
    client = b"".join((protocol, source, source_port, destination, destination_port))
    endpoint = b"".join((protocol, back, back_port, seen_as, seen_as_port))
    destinations, sources = catches[len(source)]
    destinations[client] = back + back_port
    sources[endpoint] = destination + destination_port
    if flow.masqueraded:
        sources[client] = seen_as + seen_as_port
        destinations[endpoint] = source + source_port


def repair(wanted: Mapping[bytes, bytes], checked: Checked) -> Repair:
    """What of `wanted`, CTA_TUPLE_ORIG to CTA_TUPLE_REPLY, is to be put back or needs no more care."""
    seen = found(checked.rest, checked.others)
    ended = {original for original, flow in seen.items() if flow.by_nftables and not flow.open}
    return Repair(
        missing=[original for original in checked.rest if original not in seen],
        ended=ended,
        wrong={
            original: flow.id
            for original, flow in seen.items()
            if original not in ended and not (flow.by_nftables and reply_of(flow) == wanted[original])
        },
    )
