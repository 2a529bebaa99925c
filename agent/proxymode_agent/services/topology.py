"""Which endpoints of a Service port this node uses, for traffic policy Cluster and for Local: kube-proxy's decisions.

Semantics are those of CategorizeEndpoints (k8s.io/kubernetes pkg/proxy/topology.go; KEP-1669, KEP-2086, KEP-2433,
KEP-3015), made once a group of endpoints with the same placement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from proxymode_agent.services.slices import NodeHint, Place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from proxymode_agent.services.model import Endpoint
    from proxymode_agent.services.slices import Placement

# An enumeration's members are found through a descriptor, which shows on the hot path.
_ELSEWHERE: Final = Place.ELSEWHERE


class Usable(msgspec.Struct, frozen=True, gc=False):
    """What ServicePort says of endpoints: `cluster` and `local` are sorted, and empty where the policy is not used."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    elsewhere: bool
    hairpin: tuple[bytes, ...]


def usable(groups: Mapping[Placement, Collection[Endpoint]], *, cluster: bool, local: bool, zone: str) -> Usable:
    """The usable ones of a Service port's endpoints.

    `groups` are disjoint and not empty. `cluster`, `local`: which policies its frontends use. `zone`: this node's,
    empty where it has none.
    """
    if cluster and not local and len(groups) == 1:  # as of most Services: whatever its placement, there is no other
        ((placement, endpoints),) = groups.items()
        addresses = () if placement.place is _ELSEWHERE else sorted({endpoint.address for endpoint in endpoints})
        return Usable(tuple(sorted(endpoints)), (), elsewhere=False, hairpin=tuple(addresses))
    ready = [placement for placement in groups if not placement.draining]
    draining = [placement for placement in groups if placement.draining]
    for_cluster = (_preferred(ready, zone) or draining) if cluster else []
    for_local = (_here(ready) or _here(draining)) if local else []
    chosen = dict.fromkeys((*for_cluster, *for_local))
    # Where both policies are used, pods of other nodes can come here from outside and be short-circuited to themselves.
    reach_themselves = [one for one in chosen if (cluster and local) or one.place is not _ELSEWHERE]
    return Usable(
        cluster=_sorted(groups, for_cluster),
        local=_sorted(groups, for_local),
        elsewhere=bool(groups) and not chosen,
        hairpin=tuple(sorted({endpoint.address for placement in reach_themselves for endpoint in groups[placement]})),
    )


def _preferred(ready: list[Placement], zone: str) -> list[Placement]:
    """Topology: those hinted for this node if all have node hints, else those for its zone if all have zone hints; all
    of them where that leaves none."""
    if all(placement.node_hint is not NodeHint.NONE for placement in ready):
        for_node = [placement for placement in ready if placement.node_hint is NodeHint.HERE]
        if for_node:
            return for_node
    if all(placement.zones for placement in ready):
        for_zone = [placement for placement in ready if zone in placement.zones]
        if for_zone:
            return for_zone
    return ready


def _here(placements: Iterable[Placement]) -> list[Placement]:
    return [placement for placement in placements if placement.place is Place.HERE]


def _sorted(groups: Mapping[Placement, Collection[Endpoint]], placements: list[Placement]) -> tuple[Endpoint, ...]:
    return tuple(sorted([endpoint for placement in placements for endpoint in groups[placement]]))
