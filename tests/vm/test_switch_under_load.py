"""The switch between live modes while clients of every kind talk; and a killed one, at each of its steps.

`make proof-switches` does the same for longer: --round-trips 10 --half-done 10.
"""

from __future__ import annotations

import itertools
from contextlib import closing
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.switch import Outcome, Switcher
from proxymode_agent.switch.plan import plan
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode
from switch_load import ESTABLISHED, agent, clients, let_run, services, stop, switch, switch_and_die

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology
    from service_node import Idle, NodeMaker, ServiceNode

HANDOVER = ConnectionPolicy.HANDOVER
THERE_AND_BACK = ((Mode.NFTABLES, Mode.IPVS), (Mode.IPVS, Mode.NFTABLES))


def test_to_and_fro_under_load_no_connection_is_lost_and_nothing_stays_behind(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path, round_trips: int
) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, HANDOVER)) as switcher:
        record = switch(node, switcher, Mode.IPVS, ports)
        assert (record.from_mode, record.outcome, record.connections) == (ObservedMode.NONE, Outcome.SUCCEEDED, None)
        beginning = node.snapshot()
        running = traffic.talk_all(node.topology, clients(node))
        held = ESTABLISHED
        for _ in range(round_trips):
            for to, old in THERE_AND_BACK:
                idle.open(1)
                held += 7
                record = switch(node, switcher, to, ports)
                assert node.call(switcher.observe) is ObservedMode(to)
                assert node.call(switcher.dataplane(old).present) is False
                assert (record.outcome, record.attempts) == (Outcome.SUCCEEDED, 1)
                assert idle.broken() == []
                assert record.connections is not None
                assert record.connections.found >= held
                assert record.connections.lost == 0
                held = held if to is Mode.NFTABLES else 0  # what nftables translated goes on without IPVS
                tried = {probes.kind: probes for probes in record.verification}
                assert tried.keys() == {"ClusterIP", "ExternalIP", "NodePort"}
                assert all(probes.probed == probes.before == probes.after for probes in tried.values()), tried
                let_run(running, 1)
        assert idle.number == 7 * 2 * round_trips
        assert node.snapshot() == beginning
        assert list(tmp_path.iterdir()) == []
    counted = stop(running)
    assert counted["established"] == ESTABLISHED
    assert counted["new"] > 5 * round_trips
    assert counted["udp_sent"] > 5 * round_trips
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]
    # Some that end while IPVS forgets them, which is long on a busy machine, are put back and time out.
    assert idle.number <= len(node.call(open_connections)) <= idle.number + counted["new"] // 4


def open_connections() -> list[Flow]:
    """What conntrack takes for open connections through a Service."""
    with ConntrackTable() as table:
        translated = (one for one in table.flows() if (one.back, one.seen_as) != (one.destination, one.source))
        return [flow for flow in translated if flow.established]


def test_killed_after_any_step_the_next_agent_finishes_and_nothing_is_lost(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path, half_done: int
) -> None:
    ports = services(node)
    with closing(agent(node, tmp_path, HANDOVER)) as switcher:
        switch(node, switcher, Mode.IPVS, ports)
    beginning = node.snapshot()
    idle.open(1)
    running = traffic.talk_all(node.topology, clients(node))
    forth = plan({Mode.IPVS}, Mode.NFTABLES, HANDOVER).steps
    back = plan({Mode.NFTABLES}, Mode.IPVS, HANDOVER).steps
    for there, home in itertools.zip_longest(forth, back):
        for to, step in ((Mode.NFTABLES, there), (Mode.IPVS, home)):
            if step is not None:
                switch_and_die(node, tmp_path, HANDOVER, to, step, ports)
                let_run(running, half_done)
            with closing(agent(node, tmp_path, HANDOVER)) as next_agent:
                assert node.call(next_agent.unfinished) is (to if step else None)
                record = switch(node, next_agent, to, ports)
                assert (record.outcome, record.attempts) == ((Outcome.RESUMED, 2) if step else (Outcome.SUCCEEDED, 1))
                assert record.from_mode is not ObservedMode(to)
                assert node.call(next_agent.unfinished) is None
                assert node.call(next_agent.observe) is ObservedMode(to)
        assert idle.broken() == [], (there, home)
        idle.open(1)
    assert node.snapshot() == beginning
    assert list(tmp_path.iterdir()) == []
    counted = stop(running)
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]


def test_it_sees_whose_services_the_node_has(one_node: Topology, service_node: NodeMaker, tmp_path: Path) -> None:
    node = service_node(one_node)
    with closing(node.call(Switcher, node.config, tmp_path)) as switcher:
        assert node.call(switcher.observe) is ObservedMode.NONE
        assert node.call(switcher.unfinished) is None
        node.sh("nft add table ip nat; nft add chain ip nat KUBE-KUBELET-CANARY")
        assert node.call(switcher.observe) is ObservedMode.NONE
        node.sh("nft add chain ip nat KUBE-SERVICES")
        assert node.call(switcher.observe) is ObservedMode.KUBE_PROXY_IPTABLES
        node.sh("ip link add kube-ipvs0 type dummy")
        assert node.call(switcher.observe) is ObservedMode.KUBE_PROXY_IPVS
        node.sh("nft add table ip6 kube-proxy")
        assert node.call(switcher.observe) is ObservedMode.KUBE_PROXY_NFTABLES
