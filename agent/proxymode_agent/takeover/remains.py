"""I/O: what there is of a kube-proxy in this network namespace, whichever mode it ran in, and its removal.

Every part is looked for wherever it can be: rules of iptables in the variant with nf_tables and in the legacy one,
kube-proxy's own nf_tables tables, ipsets, and kube-ipvs0. A kube-proxy that changed its mode may have left several.
"""

from __future__ import annotations

import socket

from proxymode_agent.dataplane.ipvs.addresses import DEVICE, Addresses
from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.takeover import chains, legacy
from proxymode_agent.takeover.found import Found
from proxymode_agent.takeover.ipsets import IpSets
from proxymode_agent.takeover.names import is_set
from proxymode_api.modes import ObservedMode


class Remains:
    """kube-proxy's part of the network namespace that this object was made in. Raises DataplaneError and OSError."""

    def __init__(self) -> None:
        self._kernel = Connection()
        self._addresses = Addresses()

    def close(self) -> None:
        self._kernel.close()
        self._addresses.close()

    def look(self) -> Found:
        """What is there; a handful of small dumps."""
        seen = chains.look(self._kernel)
        legacy_chains = legacy.look()
        with IpSets() as ipsets:
            sets = any(map(is_set, ipsets.names()))
        exists = _device_exists()
        if seen.tables:
            mode = ObservedMode.KUBE_PROXY_NFTABLES
        elif not (seen.serves or legacy_chains.serves):
            mode = ObservedMode.NONE
        else:
            mode = ObservedMode.KUBE_PROXY_IPVS if exists else ObservedMode.KUBE_PROXY_IPTABLES
        return Found(
            mode,
            rules=bool(seen.tables or seen.chains or legacy_chains or sets),
            device=exists and not self._addresses.device_is_ours(),
        )

    def remove(self) -> None:
        """Remove rules, tables and sets, whatever is there of them; a second call finds nothing."""
        chains.remove(self._kernel, chains.look(self._kernel))
        legacy.remove()
        with IpSets() as ipsets:
            ipsets.destroy(filter(is_set, ipsets.names()))


def _device_exists() -> bool:
    try:
        socket.if_nametoindex(DEVICE)
    except OSError:
        return False
    return True
