"""I/O: what there is of a kube-proxy in this network namespace, whichever mode it ran in, and its removal.

Every part is looked for wherever it can be: rules of iptables in the variant with nf_tables and in the legacy one,
kube-proxy's own nf_tables tables, ipsets, and kube-ipvs0. A kube-proxy that changed its mode may have left several.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.addresses import DEVICE, Addresses
from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.takeover import chains, legacy
from proxymode_agent.takeover.found import Found
from proxymode_agent.takeover.ipsets import IpSets
from proxymode_agent.takeover.names import is_set
from proxymode_api.modes import ObservedMode

if TYPE_CHECKING:
    from proxymode_agent.dataplane.ipvs.model import RealServer
    from proxymode_agent.services.model import Endpoint, Frontend, ServiceState


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

    def missing(self, state: ServiceState) -> str:
        """What a kube-proxy has not programmed yet of these Services; empty: it has everything."""
        from proxymode_agent.takeover import complete  # asked once in a node's life, while every start looks

        match self.look().mode:
            case ObservedMode.KUBE_PROXY_IPVS:
                ruled = {length for length, chain in chains.with_rules(self._kernel) if chain == complete.MASQUERADING}
                return complete.of_virtual_servers(
                    state, _virtual_servers(), ruled | legacy.lengths(complete.MASQUERADING)
                )
            case ObservedMode.KUBE_PROXY_IPTABLES:
                return complete.of_chains(state, chains.with_rules(self._kernel) | legacy.nat_chains())
            case ObservedMode.KUBE_PROXY_NFTABLES:
                return complete.of_elements(state, chains.service_ips(self._kernel))
            case _:
                return "all: it is not there"


def _virtual_servers() -> dict[Frontend, dict[Endpoint, RealServer]]:
    from proxymode_agent.dataplane.ipvs.listing import parse

    try:
        return parse(Path("/proc/thread-self/net/ip_vs").read_text(), lambda frontend: True)
    except FileNotFoundError:
        return {}


def _device_exists() -> bool:
    try:
        socket.if_nametoindex(DEVICE)
    except OSError:
        return False
    return True
