"""From kube-proxy in mode ipvs to our nftables mode while clients of every kind keep opening connections.

`make proof-takeover` has the way back and every other pair; tests/kernel tries kube-proxy's NAT modes on the host's
kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kube_proxy_node import take_over, under_load
from proxymode_api.modes import Mode
from proxymode_testbeds.kubeproxy import ProxyMode

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.fixtures import Traffic
    from service_node import Idle, ServiceNode


def test_a_take_over_from_ipvs_to_nftables_loses_no_connection(
    node: ServiceNode, traffic: Traffic, idle: Idle, tmp_path: Path
) -> None:
    with under_load(node, traffic, idle, tmp_path, ProxyMode.IPVS) as scene:
        take_over(node, scene.switcher, scene.kube_proxy, idle, ProxyMode.IPVS, Mode.NFTABLES)
