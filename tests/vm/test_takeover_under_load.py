"""From kube-proxy to each of our modes and back while clients of every kind keep opening connections.

Of kube-proxy in mode ipvs; `make proof-takeover` has the others, which tests/kernel tries on the host's kernel.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from kube_proxy_node import (
    ESTABLISHED,
    KUBELET,
    clients,
    kube_proxys,
    let_run,
    services,
    start_kube_proxy,
    stop,
)
from proxymode_agent.switch import Outcome, Switcher
from proxymode_api.modes import Mode, ObservedMode
from proxymode_testbeds.kubeproxy import ProxyMode
from service_node import Idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.traffic.processes import TrafficProcess
    from service_node import NodeMaker, ServiceNode

MODES = tuple(ProxyMode) if os.environ.get("PROXYMODE_PROOF") else (ProxyMode.IPVS,)
HAND_BACK_SECONDS = 60.0  # a deadline under emulation, not an estimate


@pytest.fixture
def node(node_fleet: FleetMaker, service_node: NodeMaker, traffic: Traffic) -> ServiceNode:
    topology = node_fleet(nodes=1, pods=3, dual_stack=True)
    traffic.serve_all(topology)
    return service_node(topology)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as found:
        yield found


def take_over(
    node: ServiceNode, switcher: Switcher, kube_proxy: TrafficProcess, idle: Idle, mode: ProxyMode, to: Mode
) -> None:
    """kube-proxy leaves, and the agent takes its place: no connection is lost, and nothing of kube-proxy stays."""
    kube_proxy.stop()
    assert node.call(switcher.observe) is ObservedMode(f"kube-proxy-{mode}")
    record = node.call(switcher.switch, to, services(node), lambda step: None)
    assert (record.from_mode, record.outcome) == (ObservedMode(f"kube-proxy-{mode}"), Outcome.SUCCEEDED), record.message
    assert node.call(switcher.observe) is ObservedMode(to)
    assert idle.broken() == []
    if not (mode is ProxyMode.IPVS and to is Mode.IPVS):
        assert record.connections is not None
        assert record.connections.found >= ESTABLISHED
        assert record.connections.lost == 0
    assert kube_proxys(node) == ""
    assert "KUBE-FIREWALL" in node.sh("iptables-save")
    assert ("kube-ipvs0" in node.sh("ip link")) is (to is Mode.IPVS)
    if to is Mode.NFTABLES:
        assert node.sh("ipvsadm -Sn") == ""
    idle.open(1)


def hand_back(node: ServiceNode, switcher: Switcher, mode: ProxyMode) -> None:
    """kube-proxy has come; as soon as it has programmed everything, nothing of ours is left."""
    deadline = time.monotonic() + HAND_BACK_SECONDS
    while missing := node.call(switcher.hand_back, services(node)):
        assert time.monotonic() < deadline, missing
    assert node.call(switcher.observe) is ObservedMode(f"kube-proxy-{mode}")
    assert "proxymode" not in node.sh("nft list tables")


@pytest.mark.parametrize("mode", MODES)
def test_there_and_back_and_there_again_loses_no_connection(
    stack: contextlib.ExitStack, node: ServiceNode, traffic: Traffic, tmp_path: Path, mode: ProxyMode
) -> None:
    """From kube-proxy to our nftables mode, back to kube-proxy, and on to our ipvs mode, all under one load."""
    node.sh(KUBELET)
    kube_proxy = start_kube_proxy(stack, node, mode)
    idle = stack.enter_context(contextlib.closing(Idle(node)))
    idle.open(2)
    running = clients(node, traffic)
    let_run(running, 1)
    switcher = stack.enter_context(contextlib.closing(node.call(Switcher, node.config, tmp_path)))
    take_over(node, switcher, kube_proxy, idle, mode, Mode.NFTABLES)
    let_run(running, 2)
    kube_proxy = start_kube_proxy(stack, node, mode)
    hand_back(node, switcher, mode)
    assert idle.broken() == []
    idle.open(1)
    let_run(running, 2)
    take_over(node, switcher, kube_proxy, idle, mode, Mode.IPVS)
    let_run(running, 2)
    counted = stop(running)
    assert counted["established"] == ESTABLISHED
    assert counted["new"] > 20
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]
    assert idle.broken() == []
    assert list(tmp_path.iterdir()) == []
