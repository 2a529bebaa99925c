"""Which Events are due between two statuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from proxymode_agent.kube.events import EventType
from proxymode_agent.node.events import NodeEvent, deprecation_event, transitions
from proxymode_api.common import Condition, ConditionStatus
from proxymode_api.modes import Mode, ObservedMode
from proxymode_api.nodeproxymode import (
    LastSwitch,
    NodeProxyModeStatus,
    Phase,
    Preflight,
    PreflightResult,
    SwitchOutcome,
    Verdict,
)
from proxymode_api.reasons.codes import Reason

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def switch(**changes: Any) -> LastSwitch:
    usual = LastSwitch(from_mode=ObservedMode.IPVS, to_mode=Mode.NFTABLES, started_at=NOW)
    return usual.model_copy(update=changes)


def done(outcome: SwitchOutcome, message: str = "") -> LastSwitch:
    return switch(
        started_at=NOW - timedelta(milliseconds=3),
        completed_at=NOW + timedelta(seconds=2),
        outcome=outcome,
        message=message,
        connections_found=10,
        connections_kept=9,
        connections_lost=1,
    )


def status(**changes: Any) -> NodeProxyModeStatus:
    return NodeProxyModeStatus().model_copy(update=changes)


def reasons(before: NodeProxyModeStatus, after: NodeProxyModeStatus) -> list[str]:
    return [event.reason for event in transitions(before, after)]


def test_a_switch_is_told_when_it_begins_and_when_it_ends() -> None:
    under_way, ended = status(last_switch=switch()), status(last_switch=done(SwitchOutcome.SUCCEEDED))
    assert reasons(status(), under_way) == ["SwitchStarted"]
    assert reasons(under_way, ended) == ["SwitchSucceeded"]
    assert reasons(ended, ended) == []


def test_the_end_of_a_switch_counts_what_drained() -> None:
    ended = done(SwitchOutcome.SUCCEEDED).model_copy(update={"connections_drained": 4, "connections_kept": 5})
    (event,) = transitions(status(last_switch=switch()), status(last_switch=ended))
    assert "Of 10 connections 5 were kept, 4 drained and 1 lost." in event.note


def test_a_switch_too_quick_to_be_seen_under_way_is_told_in_whole() -> None:
    assert reasons(status(), status(last_switch=done(SwitchOutcome.SUCCEEDED))) == ["SwitchStarted", "SwitchSucceeded"]


def test_how_many_connections_lived_on() -> None:
    events = transitions(status(), status(last_switch=done(SwitchOutcome.SUCCEEDED)))
    assert events[1].note == "From ipvs to nftables: done in 2.0 s. Of 10 connections 9 were kept and 1 lost."


@pytest.mark.parametrize("outcome", [SwitchOutcome.FAILED, SwitchOutcome.ROLLED_BACK])
def test_a_failed_switch_is_a_warning_with_the_reason(outcome: SwitchOutcome) -> None:
    event = transitions(status(last_switch=switch()), status(last_switch=done(outcome, "verify: EPERM")))[0]
    assert (event.type, event.reason) == (EventType.WARNING, "SwitchFailed")
    assert "verify: EPERM" in event.note


def test_a_block_is_told_once_for_each_set_of_checks() -> None:
    def blocked(*ids: str) -> NodeProxyModeStatus:
        results = [PreflightResult(id=name, verdict=Verdict.BLOCK, found="f", remedy="r") for name in ids]
        message = f"nftables is blocked by {' '.join(ids)}"
        condition = Condition(
            type="PreflightPassed",
            status=ConditionStatus.FALSE,
            reason="Blocked",
            message=message,
            last_transition_time=NOW,
        )
        preflight = Preflight(mode=Mode.NFTABLES, checked_at=NOW, results=results)
        return status(phase=Phase.BLOCKED, preflight=preflight, conditions=[condition])

    (event,) = transitions(status(), blocked("kernel-version"))
    assert event.reason == "Blocked"
    assert event.note == "nftables is blocked by kernel-version"
    assert reasons(blocked("kernel-version"), blocked("kernel-version")) == []
    assert reasons(blocked("kernel-version"), blocked("kernel-version", "nft-expressions")) == ["Blocked"]
    assert reasons(blocked("kernel-version"), status(phase=Phase.ACTIVE)) == []


def test_drift_is_told_when_the_condition_turns_true() -> None:
    def drifted(holds: bool, message: str = "") -> NodeProxyModeStatus:
        condition = Condition(
            type="Drifted",
            status=ConditionStatus.TRUE if holds else ConditionStatus.FALSE,
            reason="Repaired" if holds else "AsProgrammed",
            message=message,
            last_transition_time=NOW,
        )
        return status(conditions=[condition])

    (event,) = transitions(drifted(False), drifted(True, "table ip proxymode is gone"))
    assert event == NodeEvent(EventType.WARNING, Reason.DRIFT_REPAIRED, "RepairDataplane", "table ip proxymode is gone")
    assert reasons(drifted(True, "a table"), drifted(True, "a chain")) == [], "once until it was quiet for a while"
    assert reasons(drifted(True), drifted(False)) == []


def test_deprecation_is_told_once_a_day_as_upstream_does() -> None:
    deprecated = status(
        conditions=[
            Condition(
                type="DeprecatedMode",
                status=ConditionStatus.TRUE,
                reason="Deprecated",
                message="ipvs is deprecated.",
                last_transition_time=NOW,
            )
        ]
    )
    today = date(2026, 11, 21)
    event = deprecation_event(deprecated, None, today)
    assert event == NodeEvent(EventType.WARNING, Reason.IPVS_DEPRECATION, "ProxyModeCheck", "ipvs is deprecated.")
    assert deprecation_event(deprecated, today - timedelta(days=1), today) == event
    assert deprecation_event(deprecated, today, today) is None
    assert deprecation_event(status(), None, today) is None
    (condition,) = deprecated.conditions
    ready = condition.model_copy(update={"type": "Ready"})
    supported = condition.model_copy(update={"status": ConditionStatus.FALSE})
    assert deprecation_event(status(conditions=[ready, supported]), None, today) is None
