"""What a spec means on a node: which mode is refused, and when it is not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from proxymode_agent.kube.objects import Node, NodeSpec, ObjectMeta
from proxymode_agent.node.assess import Assessment, assess
from proxymode_agent.preflight.model import Facts
from proxymode_api.modes import Mode, ObservedMode
from proxymode_api.nodeproxymode import NodeProxyModeSpec, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OLD = Facts(kernel="5.10.0")
NEW = Facts(kernel="6.1.0")


def assessed(facts: Facts, **spec: Any) -> Assessment:
    return assess(NodeProxyModeSpec.model_validate(spec), 1, None, facts, NOW)


def test_a_mode_that_a_check_blocks_is_refused_unless_the_node_runs_it() -> None:
    found = assessed(OLD, mode="nftables")
    assert [result.id for result in found.refused(ObservedMode.IPVS)] == ["kernel-version"]
    assert [result.id for result in found.refused(ObservedMode.KUBE_PROXY_NFTABLES)] == ["kernel-version"]
    assert found.refused(ObservedMode.NFTABLES) == ()
    assert found.stopped


def test_a_blocked_target_does_not_refuse_the_mode() -> None:
    found = assessed(OLD, mode="ipvs", targetMode="nftables")
    assert found.refused(ObservedMode.NONE) == ()
    assert found.stopped


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({}, None),
        ({"mode": "ipvs"}, Mode.IPVS),
        ({"targetMode": "nftables"}, Mode.NFTABLES),
        ({"mode": "ipvs", "targetMode": "nftables"}, Mode.NFTABLES),
    ],
)
def test_preflight_is_about_where_the_node_is_to_go(spec: dict[str, str], mode: Mode | None) -> None:
    preflight = assessed(NEW, **spec).preflight
    assert (preflight.mode if preflight else None) is mode


@pytest.mark.parametrize(("facts", "blocked"), [(OLD, ["kernel-version"]), (NEW, [])])
def test_what_blocks_nftables_is_known_also_where_nobody_asks_for_it(facts: Facts, blocked: list[str]) -> None:
    found = assessed(facts, mode="ipvs")
    assert [result.id for result in found.nftables_blocked] == blocked
    assert not found.stopped


def test_options_that_cannot_be_followed_leave_no_configuration_but_are_checked_all_the_same() -> None:
    found = assessed(NEW, mode="nftables", detectLocal={"mode": "NodeCIDR"})
    assert found.config is None
    assert "NodeCIDR" in found.options_error
    assert found.preflight is not None


def test_the_nodes_own_pod_networks_are_checked() -> None:
    node = Node(metadata=ObjectMeta(name="node-a"), spec=NodeSpec(pod_cidrs=["10.244.3.0/24"]))
    spec = NodeProxyModeSpec.model_validate({"mode": "nftables", "detectLocal": {"clusterCIDRs": ["192.168.0.0/16"]}})
    preflight = assess(spec, 1, node, NEW, NOW).preflight
    assert preflight is not None
    (found,) = [result for result in preflight.results if result.id == "pod-networks"]
    assert found.verdict is Verdict.WARN
    assert "10.244.3.0/24" in found.found


def test_an_answer_is_about_one_question() -> None:
    found = assessed(NEW, mode="nftables")
    assert found.is_about(found.spec, 1, None)
    assert not found.is_about(found.spec, 2, None)
    assert not found.is_about(NodeProxyModeSpec(mode=Mode.IPVS), 1, None)
