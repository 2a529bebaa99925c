"""Which endpoints a node uses: kube-proxy's published cases as a table, and its algorithm as an oracle."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.services.model import Endpoint
from proxymode_agent.services.slices import NodeHint, Place, Placement
from proxymode_agent.services.topology import Usable, usable

PORT = 80


@dataclasses.dataclass(frozen=True)
class Pod:
    """An endpoint 10.0.0.`last` in one word: `state` is ready, unready or draining; `zones` and `node_hint` its hints,
    the latter as this node sees them."""

    last: int
    here: bool = False
    state: str = "ready"
    zones: tuple[str, ...] = ()
    node_hint: NodeHint = NodeHint.NONE

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(ipaddress.IPv4Address(f"10.0.0.{self.last}").packed, PORT)


def here(last: int, state: str = "ready", *zones: str) -> Pod:
    return Pod(last, True, state, zones)


def away(last: int, state: str = "ready", *zones: str) -> Pod:
    return Pod(last, False, state, zones)


def grouped(pods: tuple[Pod, ...]) -> dict[Placement, set[Endpoint]]:
    groups: dict[Placement, set[Endpoint]] = {}
    for pod in pods:
        if pod.state != "unready":
            draining = pod.state == "draining"
            placement = Placement(
                draining,
                Place.HERE if pod.here else Place.ELSEWHERE,
                NodeHint.NONE if draining else pod.node_hint,
                () if draining else pod.zones,
            )
            groups.setdefault(placement, set()).add(pod.endpoint)
    return groups


class Policies(NamedTuple):
    """kube-proxy's view of a Service port."""

    internal_local: bool = False
    external_local: bool = False
    accessible: bool = False

    def decide(self, pods: tuple[Pod, ...], zone: str) -> Usable:
        return usable(
            grouped(pods),
            cluster=self.accessible or not self.internal_local,
            local=self.internal_local or (self.external_local and self.accessible),
            zone=zone,
        )


def lasts(endpoints: tuple[Endpoint, ...]) -> list[int]:
    return [endpoint.address[3] for endpoint in endpoints]


CLUSTER = Policies()
INTERNAL = Policies(internal_local=True)
INTERNAL_OPEN = Policies(internal_local=True, accessible=True)
EXTERNAL = Policies(external_local=True, accessible=True)
BOTH = Policies(internal_local=True, external_local=True, accessible=True)
FOUR = (away(3, "ready", "a"), away(4, "ready", "b"), away(5, "ready", "c"), away(6, "ready", "a"))
MIXED = (here(3, "ready", "a"), here(4, "ready", "b"), away(5, "ready", "c"), away(6, "ready", "a"))
DRAINING = (away(0), here(1, "unready"), here(2, "draining"), away(3, "draining"))
NODES = tuple(
    Pod(last, here=last == 3, zones=(zone,), node_hint=NodeHint.HERE if last == 3 else NodeHint.ELSEWHERE)
    for last, zone in ((3, "a"), (4, "b"), (5, "c"), (6, "a"))
)


def hinted_elsewhere(pods: tuple[Pod, ...]) -> tuple[Pod, ...]:
    return tuple(dataclasses.replace(pod, node_hint=NodeHint.ELSEWHERE) for pod in pods)


# Situation, policies, endpoints, this node's zone; what serves policy Cluster, what serves policy Local.
CASES: list[tuple[str, Policies, tuple[Pod, ...], str, list[int], list[int]]] = [
    ("hints for zones: those for ours", CLUSTER, FOUR, "a", [3, 6], []),
    ("policy Local of external traffic does not look at hints", EXTERNAL, MIXED, "a", [3, 6], [3, 4]),
    ("policy Local of internal traffic does not look at hints", INTERNAL_OPEN, MIXED, "a", [3, 6], [3, 4]),
    ("a node without a zone takes all", CLUSTER, FOUR[:1], "", [3], []),
    ("a node in a zone without endpoints takes all", CLUSTER, FOUR[:1], "b", [3], []),
    ("an unready endpoint in our zone is not used", CLUSTER, (*FOUR[:3], away(6, "unready", "a")), "a", [3], []),
    (
        "no ready endpoint in our zone: all are used",
        CLUSTER,
        (away(3, "unready", "a"), *FOUR[1:3], away(6, "unready", "a")),
        "a",
        [4, 5],
        [],
    ),
    ("one ready endpoint without a hint: all are used", CLUSTER, (*FOUR[:2], away(5), FOUR[3]), "a", [3, 4, 5, 6], []),
    ("an unready one without a hint does not matter", CLUSTER, (*FOUR, away(7, "unready")), "a", [3, 6], []),
    ("a draining one without a hint does not matter", CLUSTER, (*FOUR, away(7, "draining")), "a", [3, 6], []),
    (
        "an endpoint may be hinted for several zones",
        CLUSTER,
        (
            away(3, "ready", "a", "b", "c"),
            away(4, "ready", "b", "c"),
            away(5, "ready", "b", "d"),
            away(6, "ready", "c"),
        ),
        "c",
        [3, 4, 6],
        [],
    ),
    ("a hint for this node comes before those for its zone", CLUSTER, NODES, "a", [3], []),
    ("hints for other nodes only: those for our zone", CLUSTER, hinted_elsewhere(NODES), "a", [3, 6], []),
    ("hints for other nodes and other zones only: all", CLUSTER, hinted_elsewhere(NODES), "z", [3, 4, 5, 6], []),
    (
        "one ready endpoint without a node hint: those for our zone",
        CLUSTER,
        (*NODES[:3], dataclasses.replace(NODES[3], node_hint=NodeHint.NONE)),
        "a",
        [3, 6],
        [],
    ),
    ("no endpoints at all", INTERNAL, (), "", [], []),
    ("internal Local, all are on other nodes", INTERNAL, (away(0), away(1)), "", [], []),
    ("internal Local, all are here", INTERNAL, (here(0), here(1)), "", [], [0, 1]),
    ("internal Local, some are here", INTERNAL, (here(0), away(1)), "", [], [0]),
    ("none is ready", CLUSTER, (away(0, "unready"), here(1, "unready")), "", [], []),
    ("some are ready", CLUSTER, (away(0, "unready"), away(1)), "", [1], []),
    ("all are draining: they serve", CLUSTER, (here(0, "draining"), away(1, "draining")), "", [0, 1], []),
    ("draining ones do not serve beside ready ones", CLUSTER, (here(0, "draining"), away(1)), "", [1], []),
    ("draining ones serve whatever their hints", CLUSTER, (away(0, "draining", "b"),), "a", [0], []),
    ("internal Local, external Cluster", INTERNAL_OPEN, (here(0), away(1)), "", [0, 1], [0]),
    ("internal Cluster, external Local", EXTERNAL, (here(0), away(1)), "", [0, 1], [0]),
    ("both Local", BOTH, (here(0), away(1)), "", [0, 1], [0]),
    ("both Local, all on other nodes", BOTH, (away(0), away(1)), "", [0, 1], []),
    ("both Local, all draining on other nodes", BOTH, (away(0, "draining"), away(1, "draining")), "", [0, 1], []),
    ("each policy falls back to draining ones by itself", EXTERNAL, DRAINING, "", [0], [2]),
    ("external Local without external frontends", Policies(external_local=True), (away(0), here(1)), "", [0, 1], []),
]


@pytest.mark.parametrize(
    ("policies", "pods", "zone", "cluster", "local"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_published_cases(
    policies: Policies, pods: tuple[Pod, ...], zone: str, cluster: list[int], local: list[int]
) -> None:
    found = policies.decide(pods, zone)
    assert (lasts(found.cluster), lasts(found.local)) == (cluster, local)
    exist = any(pod.state != "unready" for pod in pods)
    assert bool(found.cluster or found.local or found.elsewhere) == exist, "refuse only where nobody serves"


def oracle(pods: tuple[Pod, ...], policies: Policies, zone: str) -> tuple[list[int], list[int], bool]:
    """CategorizeEndpoints, endpoint by endpoint: what serves Cluster, what serves Local, whether anything exists."""
    uses_cluster = not policies.internal_local or policies.accessible
    uses_local = policies.internal_local or (policies.external_local and policies.accessible)
    ready = [pod for pod in pods if pod.state == "ready"]
    draining = [pod for pod in pods if pod.state == "draining"]
    cluster: list[Pod] = []
    exist = False
    if uses_cluster:
        mode = ""
        if ready and all(pod.zones for pod in ready) and any(zone in pod.zones for pod in ready):
            mode = "zone"
        if (
            ready
            and all(pod.node_hint is not NodeHint.NONE for pod in ready)
            and any(pod.node_hint is NodeHint.HERE for pod in ready)
        ):
            mode = "node"
        cluster = [
            pod
            for pod in ready
            if mode == ""
            or (mode == "zone" and zone in pod.zones)
            or (mode == "node" and pod.node_hint is NodeHint.HERE)
        ]
        if not cluster:
            cluster = draining
        exist = bool(cluster)
    local: list[Pod] = []
    if uses_local:
        exist = exist or bool(ready) or bool(draining)
        local = [pod for pod in ready if pod.here] or [pod for pod in draining if pod.here]
    return sorted(pod.last for pod in cluster), sorted(pod.last for pod in local), exist


pods_strategy = st.lists(
    st.builds(
        Pod,
        last=st.integers(0, 255),
        here=st.booleans(),
        state=st.sampled_from(["ready", "unready", "draining"]),
        zones=st.sampled_from([(), ("a",), ("a",), ("b",), ("a", "b")]),
        node_hint=st.sampled_from(NodeHint),
    ),
    max_size=8,
    unique_by=lambda pod: pod.last,
).map(tuple)


@given(pods_strategy, st.builds(Policies, st.booleans(), st.booleans(), st.booleans()), st.sampled_from(["", "a", "b"]))
def test_decisions_by_group_are_those_by_endpoint(pods: tuple[Pod, ...], policies: Policies, zone: str) -> None:
    found = policies.decide(pods, zone)
    cluster, local, exist = oracle(pods, policies, zone)
    assert (lasts(found.cluster), lasts(found.local)) == (cluster, local)
    assert bool(found.cluster or found.local or found.elsewhere) == exist
    used = {*cluster, *local}
    short_circuited = policies.accessible and (policies.internal_local or policies.external_local)
    assert [address[3] for address in found.hairpin] == sorted(
        pod.last for pod in pods if (pod.here or short_circuited) and pod.last in used
    )
