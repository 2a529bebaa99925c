"""No first packet is lost by an update: Services change while new flows arrive as fast as one CPU can send them.

This many packets find an update in the wrong order. They do not find the races of kernels up to
6.11, for which each lookup is written twice: those lose one packet in 100,000 under the worst conditions. Longer runs
are proof_updates.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flood import Case, careless, cases, control, fleet, run
from nftables_bed import dataplane, node_config, service, state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxymode_agent.services.model import ServicePort
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology

PACKETS = 20_000  # counted under updates, at least
DEADLINE_SECONDS = 240.0  # under emulation


@pytest.fixture(scope="module")
def two_nodes_and_a_pod() -> Iterator[Topology]:
    with fleet() as topology:
        yield topology


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.family} {case.name}")
def test_no_first_packet_is_lost(two_nodes_and_a_pod: Topology, case: Case) -> None:
    result = run(two_nodes_and_a_pod, case, PACKETS, DEADLINE_SECONDS)
    assert result.missed == 0
    assert result.hit >= PACKETS
    assert result.updates >= 2 * len(case.rounds)


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_an_order_that_loses_packets_is_found(two_nodes_and_a_pod: Topology, family: str) -> None:
    """The control of the tests above: they can fail."""
    with careless():
        result = run(two_nodes_and_a_pod, control(family), PACKETS, DEADLINE_SECONDS)
    assert result.missed > 0


def test_connections_while_a_rollout_replaces_every_pod(node_fleet: FleetMaker, traffic: Traffic) -> None:
    """Real TCP: new connections all the time, old ones stay with the pod that they have."""
    topology = node_fleet(nodes=2, pods=3)
    traffic.serve_all(topology)
    pods = [pod.address for node in topology.fleet.nodes for pod in node.pods]

    def web(numbers: Sequence[int]) -> ServicePort:
        return service("web", "10.96.0.10", 80, [(pods[number], 8080) for number in numbers])

    surge = [[*range(first, first + 3), (first + 3) % 6] for first in range(3)]
    rounds = [web(numbers) for numbers in ([0, 1, 2], *surge, [3, 4, 5], [4, 5], [5], [5, 0], [0, 1])]
    with dataplane(topology, node_config(topology)) as made:
        made.sync(state(rounds[0]))
        clients = [
            traffic.talk(topology, name, "10.96.0.10", tcp=80, established=10, new_rate=50)
            for name in ("node1-pod1", "node1", "client1")
        ]
        updates = 0
        for client in clients:
            while client.wait_for("second")["new"] < 200:
                for port in rounds:
                    made.sync(state(port), frozenset([port.name]))
                    updates += 1
        results = [client.stop() for client in clients]
    assert updates >= len(rounds)
    assert [(result["failed_reasons"], result["lost_reasons"]) for result in results] == [({}, {})] * 3
    assert {backend for result in results for backend in result["backends"]["new"]} == {
        pod.name for node in topology.fleet.nodes for pod in node.pods
    }
