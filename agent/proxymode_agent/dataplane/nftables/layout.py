"""What a node's nf_tables table of ours looks like: tables, chains, rules and maps as data, for one address family.

Pure. README.md draws the packet's path through it. The layout depends on the DataplaneConfig only, never on Services:
those are elements of the maps declared here, and the chains of :mod:`.draws`. The rules are in :mod:`.paths`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.dataplane.nfnetlink import (
    L4PROTO,
    META_PRIORITY,
    TH_DPORT,
    Chain,
    Rule,
    Set,
    Table,
    VerdictCode,
    set_mark_bit,
    verdict,
)
from proxymode_agent.dataplane.nftables.draws import CLUSTER_BASE, LOCAL_BASE, Body, Kind, Memory, Space, space
from proxymode_agent.dataplane.nftables.paths import TRAITS, Paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.services.model import DataplaneConfig, Family

TABLE = "proxymode"
CLIENTS = 1 << 18  # remembered in all by each pool, once a Service port each; beyond that, new ones are not sticky


class Layout(msgspec.Struct, frozen=True):
    """The whole table of one family but for its elements and the chains of draws."""

    family: Family
    table: Table
    services: Space
    nodeports: Space
    memories: Mapping[int, Memory]
    cluster_ips: Set
    hairpin: Set
    restricted: Set
    sources: Set
    rules_by_chain: dict[Chain, tuple[Rule, ...]]

    @property
    def spaces(self) -> tuple[Space, Space]:
        return self.services, self.nodeports

    @property
    def sets(self) -> tuple[Set, ...]:
        """All sets and maps."""
        memories = (of for memory in self.memories.values() for of in memory)
        shared = (self.cluster_ips, self.hairpin, self.restricted, self.sources)
        return (*self.services.sets, *self.nodeports.sets, *memories, *shared)


def layout(family: Family, config: DataplaneConfig, version: str) -> Layout:
    """The table of a family. `version` goes into the comment that tells an admin whose table it is."""
    traits = TRAITS[family]
    table = Table(traits.proto, TABLE, f"proxymode {version}: Kubernetes Services of this node")
    mark: Body = set_mark_bit(1 << config.masquerade_bit)

    def external(prefix: str) -> dict[Kind, tuple[Body, ...]]:
        short_circuit = verdict(VerdictCode.JUMP, f"{prefix}short-circuit")
        return {Kind.EXTERNAL: (mark,), Kind.LOCAL: ((short_circuit,),), Kind.INSIDE: ()}

    from_outside = verdict(VerdictCode.JUMP, "masquerade-from-outside")
    addresses = (traits.saddr, traits.daddr)
    nodeport_key = (L4PROTO, TH_DPORT)
    service_key = (traits.daddr, *nodeport_key)
    memories = {
        base: Memory(
            Set(table, f"{prefix}sticky-clients", (traits.saddr, META_PRIORITY), (META_PRIORITY,), dynamic=CLIENTS),
            Set(table, f"{prefix}endpoints-by-id", (L4PROTO, META_PRIORITY), (traits.daddr, TH_DPORT)),
        )
        for base, prefix in ((CLUSTER_BASE, ""), (LOCAL_BASE, "local-"))
    }
    internal = (from_outside,)
    preludes = {Kind.INTERNAL: (internal,), Kind.HERE: (internal,), **external("")}
    services = space(table, addresses, service_key, ("services", ""), memories, preludes)
    nodeports = space(table, addresses, nodeport_key, ("nodeports", "nodeport-"), memories, external("nodeport-"))
    cluster_ips = Set(table, "cluster-ips", (traits.daddr,))
    hairpin = Set(table, "hairpin", (traits.saddr, traits.daddr))
    restricted = Set(table, "restricted", service_key)
    sources = Set(table, "allowed-sources", (*service_key, traits.saddr), intervals=True)
    paths = Paths(family, config, table, services, nodeports, cluster_ips, hairpin, restricted, sources)
    rules = {chain: tuple(Rule(chain, body) for body in bodies) for chain, bodies in paths.chains()}
    return Layout(family, table, services, nodeports, memories, cluster_ips, hairpin, restricted, sources, rules)
