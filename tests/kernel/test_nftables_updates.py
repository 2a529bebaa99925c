"""No first packet is lost by an update: Services change while new flows arrive as fast as one CPU can send them.

The packets are counted, by where they were sent to, and dropped right after the dataplane did its work; so each is a
first packet. This many packets find an update whose delete and add are parted (tried). They do not find the races of
kernels up to 6.11, for which each lookup is written twice: those lose one packet in 100,000 under the worst conditions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nftables_bed import dataplane, node_config, service, state
from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_testbeds.topology import build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxymode_agent.dataplane.nftables import NftablesDataplane
    from proxymode_agent.services.model import ServicePort, ServicePortName
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology

PACKETS = 20_000  # counted under updates, at least
DEADLINE_SECONDS = 240.0  # under emulation
SENDER = Path(__file__).with_name("first_packets.py")

OTHERS = 300  # Services beside the one that changes
"""Enough that a change of a verdict takes the kernel a moment (it walks all verdicts)."""


@dataclasses.dataclass(frozen=True)
class Flood:
    """One family's and frontend's flood: what is sent where, and how node1 tells hit from miss."""

    target: str
    port: int
    endpoints: str
    family: str
    sources: str
    vip: str


CLUSTER_IP = Flood("10.96.0.99", 80, "10.244.2.{}", "ip", "10.244.1.0/24", "10.96.0.99")
CLUSTER_IP6 = Flood("fd96::99", 80, "fd44:0:0:2::{:x}", "ip6", "fd44:0:0:1::/64", "fd96::99")
NODE_PORT = Flood("192.168.50.1", 30053, "10.244.2.{}", "ip", "10.244.1.0/24", "10.96.0.99")


def hot(flood: Flood, pods: Sequence[int]) -> ServicePort:
    """The Service under fire; its pods are on node2 and need not exist."""
    endpoints = [(flood.endpoints.format(pod), 5353) for pod in pods]
    return service("hot", flood.vip, 80, endpoints, protocol=Protocol.UDP, node_port=30053)


def others(flood: Flood) -> ServiceState:
    base = ipaddress.ip_address("10.96.1.0" if flood.family == "ip" else "fd96::1:0")
    pods = [(flood.endpoints.format(pod), 80) for pod in (1, 2, 3)]
    return state(*(service(f"other{n}", str(base + n), 80, pods) for n in range(OTHERS)))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Topology]:
    with build(make_fleet(nodes=2, pods=1, dual_stack=True)) as topology:
        yield topology


def count_rules(flood: Flood) -> str:
    """Counts what was sent to an endpoint and what was not, and lets none of it go on."""
    pods = "10.244.2.0/24" if flood.family == "ip" else "fd44:0:0:2::/64"
    return f"""
        table {flood.family} tally
        delete table {flood.family} tally
        table {flood.family} tally {{
            counter hit {{ }}
            counter missed {{ }}
            chain tell {{
                {flood.family} daddr {pods} udp dport 5353 counter name hit drop
                counter name missed drop
            }}
            chain forwarded {{
                type filter hook forward priority -10
                {flood.family} saddr {flood.sources} meta l4proto udp goto tell
            }}
            chain received {{
                type filter hook input priority -10
                {flood.family} saddr {flood.sources} meta l4proto udp goto tell
            }}
        }}
        """


def counted(topology: Topology, flood: Flood) -> tuple[int, int]:
    """Packets so far: (hit, missed)."""
    listing = topology.run("node1", ["nft", "list", "counters", "table", flood.family, "tally"]).stdout.split()
    hit, missed = (int(listing[at + 1]) for at, word in enumerate(listing) if word == "packets")
    return hit, missed


# Sequences of pods; the update goes round and round them. Numbers are the pods' last byte.
ROUNDS = {
    "one endpoint replaced": [range(1, 11), [*range(1, 10), 20]],
    "the only endpoint replaced": [[1], [2]],
    "all endpoints replaced": [range(1, 11), range(21, 31)],
    "one endpoint more and one less": [range(1, 11), range(1, 12)],
    "scaled up and down": [range(1, 3), range(1, 40), range(30, 40), range(1, 31)],
    "everything at once": [range(1, 6), range(4, 20), [5], [7, 5, 90]],
}


@pytest.mark.parametrize("pods", ROUNDS.values(), ids=ROUNDS)
@pytest.mark.parametrize("flood", [CLUSTER_IP, CLUSTER_IP6, NODE_PORT], ids=["IPv4", "IPv6", "node port"])
def test_no_first_packet_is_lost(fleet: Topology, flood: Flood, pods: Sequence[Sequence[int]]) -> None:
    rounds = [hot(flood, numbers) for numbers in pods]
    name = rounds[0].name
    ports = dict(others(flood).ports)
    with dataplane(fleet, node_config(fleet)) as made:
        ports[name] = rounds[0]
        made.sync(ServiceState(ports))
        fleet.run("node1", ["nft", "-f", "-"], input=count_rules(flood))
        with flooding(fleet, flood):
            updates = until_counted(fleet, flood, made, ports, rounds)
        hit, missed = counted(fleet, flood)
        made.remove()
    assert missed == 0
    assert hit >= PACKETS
    assert updates >= 2 * len(rounds)


@contextlib.contextmanager
def flooding(topology: Topology, flood: Flood) -> Iterator[None]:
    """First packets from node1-pod1, all the time."""
    command = [sys.executable, str(SENDER), flood.sources, flood.target, str(flood.port)]
    with topology.popen("node1-pod1", command, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
            yield
            sender.terminate()
            assert int(sender.stdout.readline()) >= PACKETS
        finally:
            sender.kill()


def until_counted(
    topology: Topology,
    flood: Flood,
    made: NftablesDataplane,
    ports: dict[ServicePortName, ServicePort],
    rounds: Sequence[ServicePort],
) -> int:
    """Update round after round until enough packets were counted; returns the number of updates."""
    name = rounds[0].name
    deadline = time.monotonic() + DEADLINE_SECONDS
    updates = 0
    while counted(topology, flood)[0] < PACKETS:
        assert time.monotonic() < deadline, f"{counted(topology, flood)} packets in {DEADLINE_SECONDS:g} s"
        for _ in range(10):
            for port in rounds:
                ports[name] = port
                made.sync(ServiceState(ports), frozenset([name]))
                updates += 1
    return updates


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
