"""Which nodes get the label of the agents, which lose it, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from proxymode_api.common import DataplaneOptions, KubeProxyOptions
from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode
from proxymode_api.nodeproxymode import Phase
from proxymode_api.reasons.codes import Reason
from proxymode_operator.rollout.model import Asked, Intent, Node, Report
from proxymode_operator.takeover.membership import DaemonSetName, Labelling, daemon_sets, labellings

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NAME = DaemonSetName("kube-system", "kube-proxy")
KEPT_OFF = {NAME: True}


def node(
    policy: KubeProxyPolicy = KubeProxyPolicy.TAKE_OVER,
    *,
    mode: Mode | None = Mode.NFTABLES,
    runs: ObservedMode = ObservedMode.KUBE_PROXY_IPVS,
    reason: str = "",
    labelled: bool = False,
    generation: int = 2,
    **fields: Any,
) -> Node:
    options = DataplaneOptions(kube_proxy=KubeProxyOptions(policy=policy))
    report = Report(
        observed_generation=generation,
        mode=runs,
        phase=Phase.ACTIVE,
        ready=True,
        ready_since=NOW,
        heartbeat=NOW,
        heard_at=NOW,
        known_since=NOW,
        preflight_mode=mode,
        blockers=(),
        kube_proxy=reason,
    )
    intent = Intent(mode=mode, target_mode=mode, options=options)
    given: dict[str, Any] = {
        "name": "n",
        "uid": "u",
        "labels": {SERVICE_PROXY_LABEL: SERVICE_PROXY_AGENT} if labelled else {},
        "created": NOW,
        "ready": True,
        "cordoned": False,
        "asked": Asked(uid="a", resource_version="1", generation=2, intent=intent),
        "report": report,
    }
    return Node(**given | fields)


def test_a_node_gets_the_label_when_it_was_told_and_its_agent_is_ready() -> None:
    ready = node(reason=Reason.READY_TO_TAKE_OVER)
    assert labellings([ready], KEPT_OFF) == (Labelling("n", "u", labelled=True),)


@pytest.mark.parametrize(
    "waits",
    [
        node(reason=Reason.RUNNING),
        node(reason=Reason.READY_TO_TAKE_OVER, mode=None),
        node(reason=Reason.READY_TO_TAKE_OVER, generation=1),
        node(reason=Reason.READY_TO_TAKE_OVER, labelled=True),
        node(reason=Reason.READY_TO_TAKE_OVER, foreign=True),
        node(reason=Reason.READY_TO_TAKE_OVER, report=None),
        node(reason=Reason.READY_TO_TAKE_OVER, asked=None),
        node(KubeProxyPolicy.IGNORE, reason=Reason.READY_TO_TAKE_OVER),
    ],
)
def test_no_other_node_does(waits: Node) -> None:
    assert labellings([waits], KEPT_OFF) == ()


@pytest.mark.parametrize("kept_off", [{}, {NAME: False}, {DaemonSetName("other", "kube-proxy"): True}])
def test_without_a_daemon_set_that_respects_it_no_label_is_set(kept_off: dict[DaemonSetName, bool]) -> None:
    assert labellings([node(reason=Reason.READY_TO_TAKE_OVER)], kept_off) == ()


def test_a_label_that_somebody_took_from_a_node_of_ours_comes_back() -> None:
    assert labellings([node(runs=ObservedMode.NFTABLES)], KEPT_OFF) == (Labelling("n", "u", labelled=True),)


def test_a_node_loses_the_label_when_its_agent_is_ready_for_kube_proxy() -> None:
    back = node(KubeProxyPolicy.HAND_BACK, runs=ObservedMode.NFTABLES, reason=Reason.READY_TO_HAND_BACK, labelled=True)
    assert labellings([back], {}) == (Labelling("n", "u", labelled=False),)
    early = node(KubeProxyPolicy.HAND_BACK, runs=ObservedMode.IPVS, labelled=True)
    assert labellings([early], {}) == ()
    done = node(KubeProxyPolicy.HAND_BACK, reason=Reason.READY_TO_HAND_BACK)
    assert labellings([done], {}) == ()


def test_a_daemon_set_is_kept_off_as_long_as_a_node_is_taken_over_or_still_labelled() -> None:
    taken, prepared = node(), node(mode=None)
    waiting = node(KubeProxyPolicy.HAND_BACK, labelled=True)
    returned, ignored = node(KubeProxyPolicy.HAND_BACK), node(KubeProxyPolicy.IGNORE, labelled=True)
    assert daemon_sets([taken]) == {NAME: True}
    assert daemon_sets([prepared]) == {NAME: False}
    assert daemon_sets([returned, taken]) == {NAME: True}
    assert daemon_sets([returned, waiting]) == {NAME: True}
    assert daemon_sets([returned, returned]) == {NAME: False}
    assert daemon_sets([ignored]) == {}
