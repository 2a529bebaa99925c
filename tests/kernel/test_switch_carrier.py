"""The hand-over's steps on entries in every state, and by an agent that has only the list that a killed one left."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from conntrack_entries import leave, padded, through_ipvs
from nftables_bed import namespace, service, state
from proxymode_agent.dataplane.conntrack.messages import original_of, reply_of
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.services.model import Protocol
from proxymode_agent.switch.handover import carrier, flows, maps

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

SERVICES = state(
    *(
        service(protocol.name, address, 80, [], protocol=protocol)
        for protocol in Protocol
        for address in ("10.1.0.2", "::0a01:2")
    )
)


def flow(
    port: int, protocol: Protocol = Protocol.TCP, *, length: int = 4, tcp: int = 3, masqueraded: bool = False
) -> Flow:
    """From that port; TCP in the state `tcp`."""
    made = through_ipvs(protocol, length, masqueraded=masqueraded)
    info = made.info[:12] + bytes((tcp,)) + made.info[13:] if protocol is Protocol.TCP else made.info
    return made._replace(source_port=padded(port), seen_as_port=padded(port), info=info)


OPEN = [flow(1), flow(2, length=16), flow(3, Protocol.UDP), flow(4, Protocol.SCTP), flow(5, Protocol.SCTP, length=16)]
MANY = [
    flow(1000 + 20 * kind + number, protocol, length=length, masqueraded=masqueraded)
    for kind, (protocol, length, masqueraded) in enumerate(itertools.product(Protocol, (4, 16), (False, True)))
    for number in range(12)
]
"""Of each kind enough to be taken many at a time."""
ANYHOW = [flow(11, tcp=1), flow(12, tcp=2), flow(13, tcp=5), flow(14, tcp=7)]
"""SYN_SENT, SYN_RECV, CLOSE_WAIT, TIME_WAIT."""


def there() -> dict[bytes, bytes]:
    """What netfilter's NAT translates."""
    with ConntrackTable() as table:
        return {original_of(flow): reply_of(flow) for flow in table.flows() if flow.by_nftables}


def replies(flows: list[Flow]) -> dict[bytes, bytes]:
    return {original_of(flow): reply_of(flow) for flow in flows}


@pytest.mark.parametrize("killed", [False, True])
def test_entries_in_every_state_are_moved_and_open_ones_put_back(
    namespace: Topology, tmp_path: Path, killed: bool
) -> None:
    def hand_over() -> None:
        turned = flow(6)
        leave([*OPEN, *MANY, *ANYHOW, turned.turned()])
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(closing(carrier.Carrier(tmp_path)))
            held = first.catch(SERVICES)
            assert held == replies([one for one in (*OPEN, *MANY, turned) if one.info])
            late = flow(21)
            leave([late])
            first.carry(SERVICES)
            assert there() == replies([*OPEN, *MANY, *ANYHOW, turned, late])
            with ConntrackTable() as table:
                table.delete(list(table.flows()))
            last = stack.enter_context(closing(carrier.Carrier(tmp_path))) if killed else first
            assert last.under_way()
            last.restore(SERVICES)
            assert there() == replies([*OPEN, *MANY, turned, late])
            last.end()
            assert not last.under_way()
        assert subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout == ""

    namespace.call("node1", hand_over)
    assert list(tmp_path.iterdir()) == []


def test_of_two_flows_with_the_same_addresses_the_later_is_caught(namespace: Topology) -> None:
    """A dump may have an entry and the one that took its place meanwhile. A table that is there keeps what it has."""

    def caught(first: Flow, second: Flow, third: Flow) -> list[dict[bytes, bytes]]:
        none = maps.Packed([], [])
        with closing(maps.CatchTable()) as table, Connection() as kernel:
            one, two, three = map(packed, (first, second, third))
            both = maps.Packed(one.destinations + two.destinations, one.sources + two.sources)
            table.add({4: both, 16: none})
            table.add({4: maps.Packed(one.destinations + three.destinations, one.sources + three.sources), 16: none})
            return [dict(kernel.elements(of)) for of in maps.MAPS[4]]

    one = flow(1)
    elsewhere = one._replace(back=bytes((10, 1, 0, 9)))
    other = flow(2)
    destinations, sources = namespace.call("node1", caught, one, elsewhere, other)
    wanted = flows.nothing_caught()
    for each in (one, elsewhere, other):
        flows.catch(each, wanted)
    assert flows.Catches(destinations, sources) == wanted[4]


def packed(of: Flow) -> maps.Packed:
    catches = flows.nothing_caught()
    flows.catch(of, catches)
    return maps.pack(4, catches[4])
