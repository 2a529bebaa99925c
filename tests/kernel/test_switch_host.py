"""What of the switch needs no IPVS: the hand-over of connections that talk, and a node that cannot have IPVS.

IPVS's part is played over ctnetlink: entries as it leaves them (replies from another address than was asked, without
netfilter's NAT), and their deletion, again and again, while it forgets.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nftables_bed import node_config, service, state
from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.flow import Status
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkSocket, request_header
from proxymode_agent.dataplane.nftables import NftablesDataplane
from proxymode_agent.switch import Outcome, Switcher, SwitchError, connections
from proxymode_agent.switch.handover import carrier, remembered
from proxymode_api.modes import Mode, ObservedMode
from proxymode_testbeds.traffic.ask import ask

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_agent.services.model import ServiceState
    from proxymode_agent.switch import Connections
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess

WEB = "10.96.0.50"
FORGETS = 4
# There is no IPVS to translate what the kernel sends again for processes that stand still: it is not to get through.
HOLD = """table inet hold {
    chain prerouting { type filter hook prerouting priority -300; meta l4proto tcp drop; }
    chain output { type filter hook output priority -300; meta l4proto tcp drop; }
}"""


@pytest.fixture
def fleet(node_fleet: FleetMaker) -> Topology:
    return node_fleet(nodes=2, pods=2)


@pytest.fixture
def servers(fleet: Topology, traffic: Traffic) -> list[TrafficProcess]:
    return [traffic.serve(fleet, pod) for pod in ("node1-pod1", "node2-pod1")]


def web() -> ServiceState:
    return state(service("web", WEB, 80, [("10.244.1.11", 8080), ("10.244.2.11", 8080)]))


def nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


def as_ipvs(flow: Flow) -> bytes:
    """An entry goes, and comes again as IPVS would have left it."""
    entry = messages.dumped(flow._replace(status=Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED))
    goes = messages.delete(messages.original_of(flow), flow.id)
    return goes + request_header(messages.CT_NEW, NLM_F_CREATE | NLM_F_EXCL, len(entry)) + entry


def hand_over(
    folder: Path, ports: ServiceState, monkeypatch: pytest.MonkeyPatch, everybody: list[TrafficProcess]
) -> Connections:
    services = connections.frontends(ports)
    looks = 0
    held: connections.Held = {}

    def forgets_in_turns(_: object) -> bool:
        nonlocal looks
        looks += 1
        if looks <= FORGETS:
            with ConntrackTable() as table:
                mine = table.check(held)
                good = held.keys() - mine.rest
                table.delete([flow for flow in table.flows() if messages.original_of(flow) in good] + mine.others)
        return looks < FORGETS - 1  # the list is empty before the last entry is gone

    monkeypatch.setattr(remembered.Remembered, "any", forgets_in_turns)
    with ConntrackTable() as table, closing(NetlinkSocket(12)) as netlink, closing(carrier.Carrier(folder)) as moves:
        for process in everybody:
            process.signal(signal.SIGSTOP)
        nft(HOLD)
        forward = (connections.upright(flow, services) for flow in table.flows())
        ours = [flow for flow in forward if flow.by_nftables and flow.established]
        assert not netlink.submit(map(as_ipvs, ours))
        held |= moves.catch(ports)
        assert held.keys() == {messages.original_of(flow) for flow in ours}
        moves.carry(ports)
        nft("delete table inet hold")
        for process in everybody:
            process.signal(signal.SIGCONT)
        moves.restore(ports)
        moves.end()
        assert not moves.ended & held.keys(), "nobody has closed them"
        assert looks >= FORGETS
        return connections.compare(held, table.check(held))


def test_connections_that_talk_are_carried_over_and_counted(
    fleet: Topology,
    servers: list[TrafficProcess],
    traffic: Traffic,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(fleet.call("node1", NftablesDataplane, node_config(fleet))) as made:
        fleet.call("node1", made.sync, web())
        load: dict[str, float] = {"tcp": 80, "established": 4, "bulk": 1, "push": 2, "new_rate": 5.0, "interval": 0.1}
        running = traffic.talk_all(fleet, [(name, WEB, load) for name in ("client1", "node1", "node1-pod1")])
        for _ in range(2):
            found = fleet.call("node1", hand_over, tmp_path, web(), monkeypatch, [*running, *servers])
            assert found.found >= 3 * 7
            assert found.lost == 0
            for client in running:
                client.wait_for("second")
        for client in running:
            client.signal(signal.SIGTERM)
        results = [client.result() for client in running]
    assert sum(result["established"] for result in results) == 3 * 7
    assert [(result["lost_first"], result["failed_first"]) for result in results] == [([], [])] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("servers")
def test_a_node_that_cannot_have_ipvs_stays_in_nftables_mode_and_says_why(fleet: Topology, tmp_path: Path) -> None:
    with closing(fleet.call("node1", Switcher, node_config(fleet), tmp_path)) as switcher:
        fleet.call("node1", switcher.switch, Mode.NFTABLES, web(), lambda step: None)
        loadable = subprocess.run(["modprobe", "ip_vs"], capture_output=True, check=False).returncode == 0
        if loadable:
            record = fleet.call("node1", switcher.switch, Mode.IPVS, web(), lambda step: None)
            assert record.outcome is Outcome.SUCCEEDED
            return
        with pytest.raises(SwitchError, match=r"program-target: .*ip_vs") as failure:
            fleet.call("node1", switcher.switch, Mode.IPVS, web(), lambda step: None)
        assert failure.value.record.outcome is Outcome.ROLLED_BACK
        assert fleet.call("node1", switcher.observe) is ObservedMode.NFTABLES
        assert fleet.call("node1", switcher.unfinished) is None
        assert fleet.call("client1", ask, WEB, 80).server in {"node1-pod1", "node2-pod1"}
