"""Which UDP flows are stale."""

from __future__ import annotations

import ipaddress
from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING, cast

import pytest

from conntrack_oracle import Entry, Path
from conntrack_oracle import flow as as_flow
from proxymode_agent.dataplane.conntrack.flow import Status
from proxymode_agent.dataplane.conntrack.stale import (
    StaleFlows,
    UdpFrontend,
    endpoint_of,
    frontend_of,
    is_stale,
    is_udp,
)
from proxymode_agent.dataplane.nftables.elements import nodeport_key, service_key
from proxymode_agent.services.model import Endpoint, Family, Frontend, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_agent.dataplane.conntrack.layout import Layout
    from proxymode_agent.dataplane.conntrack.table import ConntrackTable

VIP, CLIENT = bytes([10, 96, 0, 53]), bytes([10, 244, 1, 9])
NODE, OTHER = bytes([192, 168, 50, 1]), bytes([192, 168, 50, 2])
HERE, GONE = (bytes([10, 244, 1, 1]), 5353), (bytes([10, 244, 1, 2]), 5353)

REROUTED = {UdpFrontend(VIP, 53): frozenset([HERE]), UdpFrontend(None, 30053): frozenset([HERE])}


def flow(
    to: tuple[bytes, int], answers_from: tuple[bytes, int], *, protocol: int = IPPROTO_UDP, translated: bool = True
) -> Flow:
    status = Status.CONFIRMED | (Status.DST_NAT if translated else 0)
    return as_flow(Entry(protocol, Path(CLIENT, 4000, *to), Path(*answers_from, CLIENT, 4000), status))


@pytest.mark.parametrize(
    ("entry", "stale"),
    [
        pytest.param(flow((VIP, 53), GONE), True, id="Service, endpoint gone"),
        pytest.param(flow((VIP, 53), HERE), False, id="Service, endpoint there"),
        pytest.param(flow((VIP, 53), (HERE[0], 53)), True, id="Service, endpoint has another port now"),
        pytest.param(flow((VIP, 53), (VIP, 53), translated=False), True, id="Service, from before it was one"),
        pytest.param(flow((VIP, 54), GONE), False, id="another port"),
        pytest.param(flow((VIP, 53), GONE, protocol=IPPROTO_TCP), False, id="TCP"),
        pytest.param(flow((VIP, 53), GONE, protocol=IPPROTO_SCTP), False, id="SCTP"),
        pytest.param(flow((NODE, 30053), GONE), True, id="node port, endpoint gone"),
        pytest.param(flow((NODE, 30053), HERE), False, id="node port, endpoint there"),
        pytest.param(flow((NODE, 30053), (NODE, 30053), translated=False), True, id="node port, before it was one"),
        pytest.param(flow((OTHER, 30053), (OTHER, 30053), translated=False), False, id="somebody else's port 30053"),
        pytest.param(flow((OTHER, 30053), GONE, translated=False), False, id="translated by somebody else"),
    ],
)
def test_staleness(entry: Flow, stale: bool) -> None:
    assert is_stale(entry, REROUTED, [ipaddress.ip_network(NODE)]) is stale


class Conntrack:
    """Counts the looks at conntrack; the flows in it go to HERE and GONE."""

    def __init__(self) -> None:
        self.looks = 0
        self.deleted: list[Flow] = []

    def select(self, layout: Layout, criteria: bytes) -> list[Flow]:
        self.looks += 1
        return [flow((VIP, 53), HERE), flow((VIP, 53), GONE)]

    def delete(self, entries: Sequence[Flow]) -> None:
        self.deleted += entries


@pytest.mark.parametrize(
    ("serving", "looks", "deleted"),
    [
        pytest.param([{HERE, GONE}], 1, [], id="nobody knows what was before"),
        pytest.param([{HERE}, {HERE}, {HERE, GONE}], 1, [GONE], id="endpoints that come change nothing"),
        pytest.param([{HERE, GONE}, {HERE}], 2, [GONE], id="one goes"),
        pytest.param([{HERE, GONE}, set(), {HERE, GONE}], 3, [HERE, GONE], id="all go, and come"),
    ],
)
def test_conntrack_is_looked_through_only_where_a_flow_may_be_stale(
    serving: list[set[tuple[bytes, int]]], looks: int, deleted: list[tuple[bytes, int]]
) -> None:
    conntrack = Conntrack()
    stale = StaleFlows(Family.IPV4, cast("ConntrackTable", conntrack))
    key = service_key(Frontend(VIP, Protocol.UDP, 53))
    for endpoints in serving:
        stale.add([(key, [Endpoint(*one) for one in endpoints])])
        stale.delete()
    assert conntrack.looks == looks
    assert [(entry.back, int.from_bytes(entry.back_port[:2], "big")) for entry in conntrack.deleted] == deleted


def test_frontends_and_endpoints_are_read_back_from_their_bytes() -> None:
    key = service_key(Frontend(VIP, Protocol.UDP, 53))
    assert (is_udp(key), frontend_of(key)) == (True, UdpFrontend(VIP, 53))
    key = nodeport_key(Protocol.TCP, 30053)
    assert (is_udp(key), frontend_of(key)) == (False, UdpFrontend(None, 30053))
    assert list(map(endpoint_of, [Endpoint(*HERE), Endpoint(bytes(16), 1)])) == [HERE, (bytes(16), 1)]
