"""Starts `python -m proxymode_testbeds.kubeproxy` on a node of a fleet."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from proxymode_testbeds.kubeproxy.model import Variant
from proxymode_testbeds.traffic.processes import TrafficProcess

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from proxymode_testbeds.kubeproxy.model import ProxyMode, Service
    from proxymode_testbeds.topology import Topology


def start(
    stack: contextlib.ExitStack,
    topology: Topology,
    node: str,
    mode: ProxyMode,
    services: Sequence[Service],
    *,
    variant: Variant = Variant.NFT,
) -> TrafficProcess:
    """A kube-proxy on the node, which has synced; it ends with the stack at the latest."""
    command = [sys.executable, "-m", "proxymode_testbeds.kubeproxy", "--mode", mode, "--iptables", variant]
    process = topology.popen(node, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    kube_proxy = stack.enter_context(TrafficProcess(process))
    assert process.stdin is not None
    with process.stdin as stdin:
        json.dump(
            {
                "services": [service.to_json() for service in services],
                "node_ips": [str(address) for address in topology.fleet.node(node).addresses],
                "cluster_cidrs": [str(cidr) for member in topology.fleet.nodes for cidr in member.pod_cidrs],
            },
            stdin,
        )
    kube_proxy.wait_for("synced")
    return kube_proxy
