"""From what the kernel's maps hold and what they shall hold to the transactions between, in an order that never misses.

Pure. A packet looks its frontend up in the verdict map, and then frontend and random index in the endpoint map; an
update may come between the two. So
- an endpoint's hairpin pair is there before the endpoint, endpoints before the verdict that counts them, and verdicts
  are changed before indices are deleted;
- an endpoint that is replaced keeps its index: delete and add in one transaction;
- when endpoints become fewer, the last ones are copied over those that go, the verdict is changed, and only after a
  grace period (every packet that read the old verdict is through) are the stale indices deleted;
- chains are made a transaction before verdicts refer to them: a packet runs rules as of the generation in which it
  began (nft_do_chain reads gencursor once) but sees elements of the generation that is current when it looks them up,
  and would find a chain of the same transaction empty;
- chains stay: a new one costs the kernel a walk over all elements of the
  map that it looks up (nf_tables_bind_set: 0.15 s for 250,000), so they are best made while the map is empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.nftables.balancer import BalancerState
from proxymode_agent.dataplane.nftables.slots import References, Slots
from proxymode_agent.dataplane.nftables.units import members, pack, removed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.dataplane.nfnetlink import Transaction
    from proxymode_agent.dataplane.nftables.layout import Layout


@dataclass(frozen=True, slots=True)
class Plan:
    """Transactions in order: commit `make`, wait out a grace period if there is anything to clear, commit `clear`.

    `rerouted`: frontends that lost endpoints or got their first, with those of now: old UDP flows must not go on.
    """

    make: tuple[Transaction, ...]
    clear: tuple[Transaction, ...]
    rerouted: tuple[tuple[bytes, tuple[bytes, ...]], ...] = ()

    @property
    def objects(self) -> int:
        """Kernel objects that it adds, changes or deletes; a replaced element counts as two."""
        return sum(transaction.objects for transaction in (*self.make, *self.clear))


@dataclass(frozen=True, slots=True)
class ObservedElements:
    """What the kernel's maps hold. `junk`: keys of endpoint elements that no index of ours can have."""

    services: Mapping[bytes, Slots] = field(default_factory=dict)
    nodeports: Mapping[bytes, Slots] = field(default_factory=dict)
    services_junk: tuple[bytes, ...] = ()
    nodeports_junk: tuple[bytes, ...] = ()
    service_chains: frozenset[int] = frozenset()
    nodeport_chains: frozenset[int] = frozenset()
    cluster_ips: frozenset[bytes] = frozenset()
    hairpin: frozenset[bytes] = frozenset()
    refused_nodeports: frozenset[bytes] = frozenset()


class TableState:
    """One family's table as the kernel has it, once every plan made so far is committed.

    After a plan that could not be committed whole it is worthless: read the kernel back and begin anew.
    """

    def __init__(self, layout: Layout, observed: ObservedElements) -> None:
        self._layout = layout
        self._address_bytes = int(layout.family)
        self._services = BalancerState(
            layout.services, observed.services, observed.services_junk, observed.service_chains
        )
        self._nodeports = BalancerState(
            layout.nodeports, observed.nodeports, observed.nodeports_junk, observed.nodeport_chains
        )
        self._cluster_ips = References(observed.cluster_ips)
        self._hairpin = References(observed.hairpin)
        self._refused = References(observed.refused_nodeports)

    def plan_all(
        self,
        services: Mapping[bytes, tuple[bytes, ...] | None],
        nodeports: Mapping[bytes, tuple[bytes, ...] | None],
    ) -> Plan:
        """The way to these frontends and endpoints and no others."""
        gone_services = [key for key in self._services.slots if key not in services]
        gone_nodeports = [key for key in self._nodeports.slots if key not in nodeports]
        return self.plan({**services, **dict.fromkeys(gone_services)}, {**nodeports, **dict.fromkeys(gone_nodeports)})

    def plan(
        self,
        services: Mapping[bytes, tuple[bytes, ...] | None],
        nodeports: Mapping[bytes, tuple[bytes, ...] | None],
    ) -> Plan:
        """The way to these endpoints for these frontends (None: frontend gone); all others stay as they are."""
        rerouted: list[tuple[bytes, tuple[bytes, ...]]] = []
        for key, wanted in services.items():
            old, new = self._services.want(key, wanted)
            self._count_hairpin(old, new)
            if _reroutes(old, new):
                rerouted.append((key, wanted or ()))
            address = (key[: self._address_bytes],)
            if new.wanted:
                self._cluster_ips.take(address)
            if old.wanted:
                self._cluster_ips.drop(address)
        for key, wanted in nodeports.items():
            old, new = self._nodeports.want(key, wanted)
            self._count_hairpin(old, new)
            if _reroutes(old, new):
                rerouted.append((key, wanted or ()))
            if new.wanted and not new.endpoints:
                self._refused.take((key,))
            if old.wanted and not old.endpoints:
                self._refused.drop((key,))
        return self._ordered(tuple(rerouted))

    def _count_hairpin(self, old: Slots, new: Slots) -> None:
        counted = old.endpoints if old.wanted else ()
        if counted == new.endpoints:
            return
        size, before, after = self._address_bytes, set(counted), set(new.endpoints)
        self._hairpin.take([one[:size] * 2 for one in new.endpoints if one is not None and one not in before])
        self._hairpin.drop([one[:size] * 2 for one in counted if one is not None and one not in after])

    def _ordered(self, rerouted: tuple[tuple[bytes, tuple[bytes, ...]], ...]) -> Plan:
        services = self._services.commands()
        nodeports = self._nodeports.commands()
        hairpin_new, hairpin_old = self._hairpin.changes()
        refused_new, refused_old = self._refused.changes()
        cluster_ips_new, cluster_ips_old = self._cluster_ips.changes()
        layout = self._layout
        make = [
            *members(layout.hairpin, hairpin_new),
            *services.endpoints,
            *nodeports.endpoints,
            *services.verdicts,
            *nodeports.verdicts,
            *members(layout.refused_nodeports, refused_new),
            *members(layout.cluster_ips, cluster_ips_new),
            *removed(layout.refused_nodeports, refused_old),
            *removed(layout.cluster_ips, cluster_ips_old),
            *removed(layout.hairpin, hairpin_old),
        ]
        chains = pack((*services.chains, *nodeports.chains))
        return Plan((*chains, *pack(make)), tuple(pack((*services.clear, *nodeports.clear))), rerouted)


def _reroutes(old: Slots, new: Slots) -> bool:
    """Whether flows of a frontend may lead where they should not: an endpoint went, or the first one came."""
    return old.endpoints != new.endpoints and (not old.endpoints or not set(old.endpoints) <= set(new.endpoints))
