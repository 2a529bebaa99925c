"""From kube-proxy, in each of its modes, to each of ours and back while clients of every kind keep opening connections.

`make proof-takeover`: minutes for each mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kube_proxy_node import hand_back, let_run, start_kube_proxy, take_over, under_load
from proxymode_api.modes import Mode
from proxymode_testbeds.kubeproxy import ProxyMode

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.fixtures import Traffic
    from service_node import Idle, ServiceNode


@pytest.mark.parametrize("mode", ProxyMode)
def test_there_and_back_and_there_again_loses_no_connection(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path, mode: ProxyMode
) -> None:
    """From kube-proxy to our nftables mode, back to kube-proxy, and on to our ipvs mode, all under one load."""
    with under_load(node, traffic, idle, tmp_path, mode) as scene:
        take_over(node, scene.switcher, scene.kube_proxy, idle, mode, Mode.NFTABLES)
        let_run(scene.running)
        kube_proxy = start_kube_proxy(scene.stack, node, mode)
        hand_back(node, scene.switcher, mode)
        assert idle.broken() == []
        idle.open(1)
        let_run(scene.running)
        take_over(node, scene.switcher, kube_proxy, idle, mode, Mode.IPVS)


def test_kube_proxy_itself_moves_from_ipvs_to_nftables_by_way_of_the_agent(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path
) -> None:
    """docs/how-to/only-for-the-move.md: kube-proxy in mode ipvs, our nftables mode, kube-proxy in mode nftables."""
    with under_load(node, traffic, idle, tmp_path, ProxyMode.IPVS) as scene:
        take_over(node, scene.switcher, scene.kube_proxy, idle, ProxyMode.IPVS, Mode.NFTABLES)
        let_run(scene.running)
        start_kube_proxy(scene.stack, node, ProxyMode.NFTABLES)
        hand_back(node, scene.switcher, ProxyMode.NFTABLES)
        idle.open(1)
        let_run(scene.running)
