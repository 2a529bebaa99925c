"""Where a node stands between kube-proxy and the agent, and what of kube-proxy's is still missing."""

from __future__ import annotations

import pytest
from msgspec import structs

from proxymode_agent.engine.decide import Leave, Situation, Switch, Sync, Wait, decide
from proxymode_agent.kube.objects import Node, ObjectMeta
from proxymode_agent.node.handing import NOWHERE, stand
from proxymode_agent.preflight.model import KubeProxyFound
from proxymode_agent.services.model import (
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_agent.takeover import complete
from proxymode_api.common import KubeProxyOptions
from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode
from proxymode_api.nodeproxymode import NodeProxyModeSpec
from proxymode_api.reasons.codes import Reason

INF = float("inf")
RUNS = KubeProxyFound(running="process 7", mode="ipvs")
LEFT = KubeProxyFound(rules=("table ip nat",))
NONE = KubeProxyFound()
TAKE_OVER, HAND_BACK, IGNORE = KubeProxyPolicy.TAKE_OVER, KubeProxyPolicy.HAND_BACK, KubeProxyPolicy.IGNORE
THEIRS = ObservedMode.KUBE_PROXY_IPVS


def spec(policy: KubeProxyPolicy, mode: Mode | None = Mode.NFTABLES) -> NodeProxyModeSpec:
    return NodeProxyModeSpec(mode=mode, kube_proxy=KubeProxyOptions(policy=policy))


def node(*, labelled: bool) -> Node:
    labels = {SERVICE_PROXY_LABEL: SERVICE_PROXY_AGENT} if labelled else {}
    return Node(metadata=ObjectMeta(name="n", uid="u", labels=labels))


@pytest.mark.parametrize(
    ("found", "observed", "labelled", "waits"),
    [
        (RUNS, THEIRS, False, True),
        (RUNS, THEIRS, True, True),  # the label is there, the pod not yet gone
        (LEFT, THEIRS, False, True),  # gone without the label: it may be restarting
        (LEFT, THEIRS, True, False),
        (RUNS, ObservedMode.NONE, True, True),  # it came after the last look at the kernel
        (LEFT, ObservedMode.NONE, False, True),
        (NONE, ObservedMode.NONE, False, False),
        (RUNS, ObservedMode.NFTABLES, True, False),  # ours already: nothing to wait for
        (NONE, ObservedMode.IPVS, True, False),
    ],
)
def test_a_node_waits_to_be_taken_over_until_kube_proxy_has_left_for_good(
    found: KubeProxyFound, observed: ObservedMode, labelled: bool, waits: bool
) -> None:
    where = stand(spec(TAKE_OVER), node(labelled=labelled), found, observed)
    assert (where.waits, where.reason) == (waits, Reason.READY_TO_TAKE_OVER if waits else None)
    assert where.soon is waits
    assert ("label" in where.message) is (waits and not labelled)
    assert ("leave (process 7" in where.message) is (waits and bool(found.running))
    assert ("by hand" in where.message) is (waits and labelled)


@pytest.mark.parametrize(
    ("found", "observed", "labelled", "reason"),
    [
        (NONE, ObservedMode.IPVS, True, None),  # first to nftables
        (NONE, ObservedMode.NFTABLES, True, Reason.READY_TO_HAND_BACK),
        (RUNS, ObservedMode.NFTABLES, False, Reason.READY_TO_HAND_BACK),
        (RUNS, THEIRS, False, Reason.HANDED_BACK),
        (RUNS, THEIRS, True, Reason.READY_TO_HAND_BACK),  # it was about to leave
        (LEFT, THEIRS, True, Reason.READY_TO_HAND_BACK),  # it had left, and nothing had taken its place
    ],
)
def test_a_node_is_ready_to_be_handed_back_from_nftables_or_from_kube_proxys_own_rules(
    found: KubeProxyFound, observed: ObservedMode, labelled: bool, reason: Reason | None
) -> None:
    where = stand(spec(HAND_BACK), node(labelled=labelled), found, observed)
    assert (where.reason, where.waits) == (reason, False)
    assert where.soon is (reason is Reason.READY_TO_HAND_BACK), "what is waited for comes at any moment"
    assert ("it is not" in where.message) is (where.soon and not found.running)


@pytest.mark.parametrize("told", [spec(IGNORE), spec(TAKE_OVER, None), spec(HAND_BACK, None)])
def test_otherwise_kube_proxy_has_no_part_in_it(told: NodeProxyModeSpec) -> None:
    assert stand(told, node(labelled=False), RUNS, THEIRS) == NOWHERE


LEAVING = Situation(
    now=100.0,
    complete=True,
    told=True,
    desired=Mode.NFTABLES,
    observed=ObservedMode.NFTABLES,
    unfinished=None,
    pending=False,
    full_at=INF,
    pending_at=0.0,
    look_at=140.0,
    switch_at=0.0,
    leaves=True,
    leave_at=90.0,
)


def test_the_engine_keeps_a_node_up_to_date_until_it_is_handed_back_and_then_lets_it_be() -> None:
    assert decide(LEAVING) == Leave()
    assert decide(_with(leave_at=101.0)) == Wait(101.0)
    assert decide(_with(pending=True)) == Sync(Mode.NFTABLES, full=False)
    assert decide(_with(full_at=100.0)) == Sync(Mode.NFTABLES, full=True)
    assert decide(_with(observed=ObservedMode.IPVS)) == Switch(Mode.NFTABLES)
    assert decide(_with(unfinished=Mode.NFTABLES)) == Switch(Mode.NFTABLES)
    assert decide(_with(observed=THEIRS, full_at=0.0, pending=True)) == Wait(INF)
    assert decide(_with(leaves=False)) == Wait(140.0)


def _with(**changes: object) -> Situation:
    return structs.replace(LEAVING, **changes)


def port(name: str, vip: str, *endpoints: str) -> ServicePort:
    address = bytes(int(part) for part in vip.split("."))
    return ServicePort(
        ServicePortName("default", name, "http", Protocol.TCP, Family.IPV4),
        Frontend(address, Protocol.TCP, 80),
        tuple(Endpoint(bytes(int(part) for part in each.split(".")), 8080) for each in endpoints),
    )


WEB, EMPTY = port("web", "10.96.0.10", "10.244.0.1", "10.244.0.2"), port("empty", "10.96.0.11")
STATE = ServiceState({each.name: each for each in (WEB, EMPTY)})


def test_virtual_servers_are_complete_with_all_real_servers_and_masquerading() -> None:
    one, both = {WEB.cluster_ip: WEB.endpoints[:1]}, {WEB.cluster_ip: WEB.endpoints}
    assert complete.of_virtual_servers(STATE, {}, {4}) == "virtual server of default/web:http"
    assert complete.of_virtual_servers(STATE, one, {4}) == "virtual server of default/web:http"
    assert complete.of_virtual_servers(STATE, both, {16}) == "rules in KUBE-POSTROUTING of IPV4"
    assert complete.of_virtual_servers(STATE, both, {4}) == ""


def test_chains_are_known_by_kube_proxys_hash_of_the_service_port() -> None:
    chain = f"KUBE-SVC-{complete.chain_hash(WEB)}"
    assert complete.of_chains(STATE, {(16, chain)}) == "chain of default/web:http"
    assert complete.of_chains(STATE, {(4, chain)}) == ""


def test_the_hash_is_that_of_a_real_kube_proxy() -> None:
    """KUBE-SVC-NPX46M4PTMTKRN6Y is default/kubernetes:https in every cluster."""
    kubernetes = WEB.name._replace(service="kubernetes", port="https")
    assert complete.chain_hash(ServicePort(kubernetes, WEB.cluster_ip, ())) == "NPX46M4PTMTKRN6Y"


def test_elements_are_complete_with_every_cluster_ip() -> None:
    assert complete.of_elements(STATE, set()) == "element of default/web:http in map service-ips"
    assert complete.of_elements(STATE, {WEB.cluster_ip}) == ""
