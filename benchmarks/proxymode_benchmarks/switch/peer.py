"""The peer: what kube-proxy does to the kernel when it is restarted in another mode.

When it starts, kube-proxy 1.36 removes what its other modes have left (cmd/kube-proxy/app/server_linux.go
platformCleanup; CleanupLeftovers in pkg/proxy/{ipvs,nftables,iptables}), and then writes its own rules. Both are done
here by the tools that it calls itself, one right after the other: what a real one needs in between, to list Services
and to make its first sync, is not in it. That flatters the peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_api.modes import Mode
from proxymode_benchmarks.switch import node
from proxymode_testbeds.kubeproxy import ProxyMode, Service, script

if TYPE_CHECKING:
    from proxymode_testbeds.topology import Topology

NAME: Final = "kube-proxy replay"

# ipvs.Flush, DeleteDummyDevice, cleanupIptablesLeftovers, DestroySet
_WITHOUT_IPVS: Final = """
ipvsadm -C
ip link delete kube-ipvs0
for program in iptables-nft ip6tables-nft; do
  for table in nat filter mangle; do
    rules=$($program-save -t $table | grep -E '^-A [A-Z]+ .*-j KUBE-' | grep -v '^-A KUBE-' | sed 's/^-A/-D/' || true)
    chains=$($program-save -t $table | sed -n 's/^:\\(KUBE-[^ ]*\\).*/\\1/p')
    { echo "*$table"; echo "$rules"; for c in $chains; do echo "-F $c"; done; for c in $chains; do echo "-X $c"; done
      echo COMMIT; } | $program-restore -w --noflush
  done
done
ipset list -n | sed -n 's/^KUBE-/destroy KUBE-/p' | ipset restore
"""
_WITHOUT_NFTABLES: Final = "nft delete table ip kube-proxy; nft delete table ip6 kube-proxy"
_CLEANUP: Final = {Mode.IPVS: _WITHOUT_IPVS, Mode.NFTABLES: _WITHOUT_NFTABLES}


class KubeProxy:
    """kube-proxy's rules on the node, for its Service of both families."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        fleet = topology.fleet
        v4, v6 = ([str(pod) for _, pod in node.backends(fleet, version)] for version in (4, 6))
        services = [
            Service("default/web:tcp", vip, 80, tuple((pod, 8080) for pod in pods), "tcp", node.NODE_PORT)
            for vip, pods in ((node.VIP, v4), (node.VIP6, v6))
        ]
        services.append(Service("default/web:udp", node.VIP, 53, tuple((pod, 5353) for pod in v4), "udp"))
        cidrs = [str(cidr) for spec in fleet.nodes for cidr in spec.pod_cidrs]
        own = [str(address) for address in fleet.node(node.NAME).addresses]
        self._scripts = {
            mode: script(ProxyMode(mode.value), services, node_ips=own, cluster_cidrs=cidrs) for mode in Mode
        }

    def start(self, mode: Mode) -> None:
        """Write the rules of a mode."""
        self._sh(self._scripts[mode])

    def restart(self, old: Mode, to: Mode) -> None:
        """What a restart in mode `to` does."""
        self._sh(_CLEANUP[old])
        self._sh(self._scripts[to])

    def _sh(self, text: str) -> None:
        self._topology.run(node.NAME, ["sh", "-e"], input=text)
