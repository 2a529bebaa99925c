"""From kube-proxy in mode ipvs to our nftables mode while clients of every kind keep opening connections.

`make proof-takeover` has the way back and every other pair; tests/kernel tries kube-proxy's NAT modes on the host's
kernel.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from kube_proxy_node import (
    ESTABLISHED,
    KUBELET,
    clients,
    let_run,
    start_kube_proxy,
    stop,
    take_over,
)
from proxymode_agent.switch import Switcher
from proxymode_api.modes import Mode
from proxymode_testbeds.kubeproxy import ProxyMode
from service_node import Idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from service_node import NodeMaker, ServiceNode


@pytest.fixture
def node(node_fleet: FleetMaker, service_node: NodeMaker, traffic: Traffic) -> ServiceNode:
    topology = node_fleet(nodes=1, pods=3, dual_stack=True)
    traffic.serve_all(topology)
    return service_node(topology)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as found:
        yield found


def test_a_take_over_from_ipvs_to_nftables_loses_no_connection(
    stack: contextlib.ExitStack, node: ServiceNode, traffic: Traffic, tmp_path: Path
) -> None:
    node.sh(KUBELET)
    kube_proxy = start_kube_proxy(stack, node, ProxyMode.IPVS)
    idle = stack.enter_context(contextlib.closing(Idle(node)))
    idle.open(2)
    running = clients(node, traffic)
    switcher = stack.enter_context(contextlib.closing(node.call(Switcher, node.config, tmp_path)))
    take_over(node, switcher, kube_proxy, idle, ProxyMode.IPVS, Mode.NFTABLES)
    let_run(running, 2)
    counted = stop(running)
    assert counted["established"] == ESTABLISHED
    assert counted["new"] > 20
    assert (counted["lost"], counted["failed"], counted["udp_lost"]) == (0, 0, 0), counted["why"]
    assert idle.broken() == []
    assert list(tmp_path.iterdir()) == []
