"""From kube-proxy's NAT modes to our nftables mode and back on this kernel, while clients keep opening connections."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from nftables_bed import node_config, service, state
from proxymode_agent.preflight.facts import collect
from proxymode_agent.services.model import Protocol
from proxymode_agent.switch import Outcome, Switcher
from proxymode_agent.takeover import Remains
from proxymode_api.modes import Mode, ObservedMode
from proxymode_testbeds.kubeproxy import ProxyMode, Service, Variant
from proxymode_testbeds.kubeproxy.process import start

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from proxymode_testbeds.traffic.processes import TrafficProcess

NODE = "node1"
VIP, VIP6, NODE_PORT = "10.96.0.10", "fd96::10", 30080
DEADLINE_SECONDS = 30.0


def pods(topology: Topology, version: int) -> list[str]:
    node = topology.fleet.node(NODE)
    return [str(address) for pod in node.pods for address in pod.addresses if address.version == version]


def clients(topology: Topology, traffic: Traffic) -> list[TrafficProcess]:
    address = next(str(address) for address in topology.fleet.node(NODE).addresses if address.version == 4)
    load = {"established": 6, "new_rate": 20.0}
    return [
        traffic.talk(topology, "client1", VIP, tcp=80, udp=53, udp_rate=10.0, **load),
        traffic.talk(topology, "client1", address, tcp=NODE_PORT, **load),
        traffic.talk(topology, NODE, VIP, tcp=80, **load),
        traffic.talk(topology, f"{NODE}-pod1", VIP, tcp=80, **load),
        traffic.talk(topology, f"{NODE}-pod3", VIP6, tcp=80, **load),
    ]


def stop(running: list[TrafficProcess]) -> dict[str, Any]:
    results = [client.stop() for client in running]
    counts = ("established", "lost", "new", "failed", "udp_sent", "udp_lost")
    return {name: sum(result[name] for result in results) for name in counts} | {
        "why": [(result["failed_first"], result["lost_first"]) for result in results]
    }


def let_run(running: list[TrafficProcess]) -> None:
    for client in running:
        client.wait_for("second")


@pytest.mark.parametrize(
    ("mode", "variant"),
    [(ProxyMode.NFTABLES, Variant.NFT), (ProxyMode.IPTABLES, Variant.NFT), (ProxyMode.IPTABLES, Variant.LEGACY)],
)
def test_there_and_back_loses_no_connection(
    node_fleet: FleetMaker, traffic: Traffic, tmp_path: Path, mode: ProxyMode, variant: Variant
) -> None:
    topology = node_fleet(nodes=1, pods=3, dual_stack=True)
    traffic.serve_all(topology)
    v4, v6 = ([(pod, 8080) for pod in pods(topology, version)[:2]] for version in (4, 6))
    udp = [(pod, 5353) for pod, _ in v4]
    theirs = [
        Service("default/web", VIP, 80, tuple(v4), node_port=NODE_PORT),
        Service("default/dns", VIP, 53, tuple(udp), "udp"),
        Service("default/web", VIP6, 80, tuple(v6), node_port=NODE_PORT),
        Service("default/empty", "10.96.0.11", 81, ()),
    ]
    ours = state(
        service("web", VIP, 80, v4, node_port=NODE_PORT),
        service("dns", VIP, 53, udp, protocol=Protocol.UDP),
        service("web", VIP6, 80, v6, node_port=NODE_PORT),
        service("empty", "10.96.0.11", 81, []),
    )
    with contextlib.ExitStack() as stack:
        kube_proxy = start(stack, topology, NODE, mode, theirs, variant=variant)
        found = topology.call(NODE, collect).kube_proxy
        assert (found.running.startswith("process"), found.mode, bool(found.rules)) == (True, mode, True)
        running = clients(topology, traffic)
        let_run(running)
        switcher = topology.call(NODE, Switcher, node_config(topology), tmp_path)
        stack.enter_context(contextlib.closing(switcher))

        kube_proxy.signal(signal.SIGTERM)
        record = topology.call(NODE, switcher.switch, Mode.NFTABLES, ours, lambda step: None)
        assert (record.from_mode, record.outcome) == (ObservedMode(f"kube-proxy-{mode}"), Outcome.SUCCEEDED)
        assert record.connections is not None
        assert record.connections.found >= 30
        assert record.connections.lost == 0
        assert topology.call(NODE, switcher.observe) is ObservedMode.NFTABLES
        with contextlib.closing(topology.call(NODE, Remains)) as remains:
            assert topology.call(NODE, remains.look).rules is False
            let_run(running)

            assert topology.call(NODE, switcher.hand_back, ours) == "all: it is not there"
            assert topology.call(NODE, switcher.observe) is ObservedMode.NFTABLES
            with contextlib.ExitStack() as incomplete:
                start(incomplete, topology, NODE, mode, theirs[1:], variant=variant)
                assert "default/web" in topology.call(NODE, switcher.hand_back, ours)
                assert topology.call(NODE, switcher.observe) is ObservedMode.NFTABLES
            start(stack, topology, NODE, mode, theirs, variant=variant)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while missing := topology.call(NODE, switcher.hand_back, ours):
                assert time.monotonic() < deadline, missing
        assert topology.call(NODE, switcher.observe) is ObservedMode(f"kube-proxy-{mode}")
        let_run(running)
        counted = stop(running)
    assert counted["established"] == 30
    assert counted["new"] > 100
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]
