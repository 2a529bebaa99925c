"""UDP flows that an update made stale: conntrack would carry them on to an endpoint that is gone.

A UDP flow has no end but silence; a client that goes on sending from one port (a resolver, a tracer) keeps its
conntrack entry and with it the endpoint once chosen. Deleting the entry makes the next packet a first packet. TCP is
left alone: its connections end with their endpoints, or are served to their end. So are UDP flows while their endpoint
serves, though new ones may go elsewhere.
"""

from __future__ import annotations

import ipaddress
import sys
from socket import IPPROTO_UDP
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.conntrack.flow import Status
from proxymode_agent.dataplane.conntrack.layout import BY_LENGTH
from proxymode_agent.dataplane.nfnetlink.attributes import Attributes, encode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_agent.dataplane.conntrack.table import ConntrackTable
    from proxymode_agent.services.model import Family, Network

# include/uapi/linux/netfilter/nfnetlink_conntrack.h; filter flags: net/netfilter/nf_conntrack_netlink.c
_CTA_TUPLE_ORIG = 1
_CTA_FILTER = 25
_CTA_FILTER_ORIG_FLAGS = 1
_CTA_TUPLE_PROTO = 2
_CTA_PROTO_NUM = 1
_CTA_PROTO_DST_PORT = 3
_F_PROTO_NUM = 1 << 3
_F_PROTO_DST_PORT = 1 << 5

ASKED_SINGLY = 8  # ports; each is a walk of the kernel over its table, all together are one dump to sift here


class UdpFrontend(NamedTuple):
    """What a flow was sent to; `address` is None for a node port."""

    address: bytes | None
    port: int


def is_udp(key: bytes) -> bool:
    """Whether a frontend key, by address or of a node port, is UDP's."""
    return key[-8] == IPPROTO_UDP


def frontend_of(key: bytes) -> UdpFrontend:
    """The frontend in such a key."""
    return UdpFrontend(key[:-8] or None, int.from_bytes(key[-4:-2], "big"))


def endpoint_of(value: bytes) -> tuple[bytes, int]:
    """The address and port in a value of the endpoint maps."""
    return value[:-4], int.from_bytes(value[-4:-2], "big")


def is_stale(
    flow: Flow, rerouted: Mapping[UdpFrontend, Collection[tuple[bytes, int]]], node_ports: Collection[Network] = ()
) -> bool:
    """Whether a flow goes where its frontend leads nobody any more.

    Answers come `back` from somewhere. Sent to a Service address, that must be an endpoint of now. A node port's number
    may be anything's on other addresses; so there only flows count whose destination was translated, or which were sent
    to one of the networks `node_ports` and not translated at all: before the number was a node port.
    """
    if flow.protocol[0] != IPPROTO_UDP:
        return False
    port, back_port = (int.from_bytes(one[:2], "big") for one in (flow.destination_port, flow.back_port))
    endpoints = rerouted.get(UdpFrontend(flow.destination, port))
    if endpoints is not None:
        return (flow.back, back_port) not in endpoints
    endpoints = rerouted.get(UdpFrontend(None, port))
    if endpoints is None or (flow.back, back_port) in endpoints:
        return False
    if (flow.back, back_port) == (flow.destination, port):
        masqueraded = flow.status & Status.SRC_NAT
        return not masqueraded and any(ipaddress.ip_address(flow.destination) in network for network in node_ports)
    return flow.by_nftables


def criteria(port: int | None) -> bytes:
    """The attributes of a dump request for the UDP entries to one destination port; None: to any.

    Not by address, though the kernel offers it: for IPv6 its comparison is the wrong way round
    (ctnetlink_filter_match_tuple takes ipv6_addr_cmp for a truth value), and gives all entries but those asked for.
    """
    flags = _F_PROTO_NUM
    proto: Attributes = ((_CTA_PROTO_NUM, bytes([IPPROTO_UDP])),)
    if port is not None:
        flags |= _F_PROTO_DST_PORT
        proto += ((_CTA_PROTO_DST_PORT, port.to_bytes(2, "big")),)
    compared: Attributes = ((_CTA_FILTER_ORIG_FLAGS, flags.to_bytes(4, sys.byteorder)),)
    return encode(((_CTA_TUPLE_ORIG, ((_CTA_TUPLE_PROTO, proto),)), (_CTA_FILTER, compared)))


class StaleFlows:
    """One family's UDP flows that have yet to be looked through. Survives errors: what is not done stays to be done.

    Looking through them is dear, so it is remembered which endpoints each frontend had: only where one is gone, or
    where there were none, or where nobody knows, can a flow be stale. `node_ports`: the networks that node ports
    answer on, where their frontends have no address.
    """

    def __init__(self, family: Family, conntrack: ConntrackTable, node_ports: Collection[Network] = ()) -> None:
        self._conntrack = conntrack
        self._node_ports = node_ports
        self._layout = BY_LENGTH[family]
        self._rerouted: dict[UdpFrontend, frozenset[tuple[bytes, int]]] = {}
        self._serving: dict[bytes, frozenset[bytes]] = {}

    def add(self, frontends: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
        """UDP frontends by key, with the packed endpoints that their flows may go on with."""
        for key, endpoints in frontends:
            before, now = self._serving.pop(key, frozenset()), frozenset(endpoints)
            if now:
                self._serving[key] = now
            if not before or not before <= now:
                self._rerouted[frontend_of(key)] = frozenset(map(endpoint_of, now))

    def delete(self) -> None:
        """Delete the conntrack entries of flows that are stale. Raises DataplaneError."""
        if not self._rerouted:
            return
        ports = {frontend.port for frontend in self._rerouted}
        try:
            for port in ports if len(ports) <= ASKED_SINGLY else (None,):
                flows = self._conntrack.select(self._layout, criteria(port))
                self._conntrack.delete([flow for flow in flows if is_stale(flow, self._rerouted, self._node_ports)])
        except OSError as error:
            raise DataplaneError(f"conntrack: stale UDP flows are still there: {error}") from error
        self._rerouted.clear()
