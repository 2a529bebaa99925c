"""The peer: what kube-proxy does to the kernel when it is restarted in another mode.

When it starts, kube-proxy 1.36 removes what its other modes have left (cmd/kube-proxy/app/server_linux.go
platformCleanup; CleanupLeftovers in pkg/proxy/{ipvs,nftables,iptables}), and then writes its own rules. Both are done
here by the tools that it calls itself, one right after the other: what a real one needs in between, to list Services
and to make its first sync, is not in it. That flatters the peer.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from proxymode_api.modes import Mode
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


def packed(address: str) -> bytes:
    """An address as the kernel has it."""
    return ipaddress.ip_address(address).packed


class KubeProxy:
    """kube-proxy's rules on one node, for a Service of both families: (cluster IP, pods) each."""

    def __init__(
        self, topology: Topology, node: str, v4: tuple[str, list[bytes]], v6: tuple[str, list[bytes]], node_port: int
    ) -> None:
        self._topology = topology
        self._node = node
        services = []
        for vip, pods in (v4, v6):
            at = tuple(str(ipaddress.ip_address(pod)) for pod in pods)
            services.append(Service("bench/web:tcp", vip, 80, tuple((pod, 8080) for pod in at), "tcp", node_port))
        services.append(
            Service("bench/web:udp", v4[0], 53, tuple((str(ipaddress.ip_address(pod)), 5353) for pod in v4[1]), "udp")
        )
        fleet = topology.fleet
        cidrs = [str(cidr) for spec in fleet.nodes for cidr in spec.pod_cidrs]
        own = [str(address) for address in fleet.node(node).addresses]
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
        self._topology.run(self._node, ["sh", "-e"], input=text)
