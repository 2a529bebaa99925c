"""What the agent counts: from what is there before anything happened to how long a change took to reach the kernel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from proxymode_agent.dataplane.base import SyncResult
from proxymode_agent.engine.programming import Programming
from proxymode_agent.kube.objects import decode_endpoint_slice
from proxymode_agent.metrics import Metrics
from proxymode_agent.metrics_kubeproxy import _PROGRAMMING_BUCKETS
from proxymode_agent.switch.record import Connections, Outcome, SwitchRecord
from proxymode_api.deprecation import Minor, deprecation
from proxymode_api.modes import Mode, ObservedMode

START = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def record(connections: Connections | None) -> SwitchRecord:
    return SwitchRecord(ObservedMode.IPVS, Mode.NFTABLES, START, START, Outcome.SUCCEEDED, "", (), connections)


def test_what_alerts_count_is_there_before_it_happens() -> None:
    metrics = Metrics()
    assert value(metrics, "proxymode_agent_syncs_total", kind="full", result="failure") == 0
    assert value(metrics, "proxymode_agent_switch_connections_total", outcome="lost") == 0
    assert value(metrics, "proxymode_agent_switch_duration_seconds_count", to="nftables", result="failure") == 0
    assert value(metrics, "proxymode_agent_drift_repairs_total") == 0


def test_a_sync_counts_under_our_names_and_kube_proxys() -> None:
    metrics = Metrics()
    metrics.synced(SyncResult(3, 1, 2, ()), "full", 0.5, 1000.0)
    metrics.synced(SyncResult(1, 1, 2, ()), "incremental", 0.25, 1001.0)
    for name in ("proxymode_agent_last_successful_sync", "kubeproxy_sync_proxy_rules_last"):
        assert value(metrics, f"{name}_timestamp_seconds") == 1001
    assert value(metrics, "kubeproxy_sync_proxy_rules_duration_seconds_sum") == 0.75
    assert value(metrics, "kubeproxy_sync_full_proxy_rules_duration_seconds_sum") == 0.5
    assert value(metrics, "kubeproxy_sync_partial_proxy_rules_duration_seconds_sum") == 0.25


def test_buckets_of_network_programming_are_kube_proxys() -> None:
    """0, 0.25, 0.5; every second to a minute; every 5 s to 115; every half minute to 5 minutes."""
    assert len(_PROGRAMMING_BUCKETS) == 1 + 2 + 59 + 12 + 7
    assert list(_PROGRAMMING_BUCKETS) == sorted(set(_PROGRAMMING_BUCKETS))
    assert (_PROGRAMMING_BUCKETS[61], _PROGRAMMING_BUCKETS[62], _PROGRAMMING_BUCKETS[-1]) == (59, 60, 300)


def test_connections_of_switches_add_up() -> None:
    metrics = Metrics()
    metrics.switched(record(Connections(found=10, kept=7)))
    metrics.switched(record(None))
    metrics.switched(record(Connections(found=5, kept=5)))
    assert value(metrics, "proxymode_agent_switch_connections_total", outcome="kept") == 12
    assert value(metrics, "proxymode_agent_switch_connections_total", outcome="lost") == 3


@pytest.mark.parametrize(("cluster", "off", "removed"), [(36, 4, 7), (39, 1, 4), (40, 0, 3), (43, -3, 0)])
def test_minors_until_a_mode_is_given_up(cluster: int, off: int, removed: int) -> None:
    metrics = Metrics()
    metrics.deprecated(deprecation(Mode.IPVS, Minor(1, cluster)))
    name = "proxymode_agent_deprecation_minors"
    assert value(metrics, name, mode="ipvs", step="off-by-default") == off
    assert value(metrics, name, mode="ipvs", step="removed") == removed
    metrics.deprecated(None)
    assert b"proxymode_agent_deprecation_minors{" not in generate_latest(metrics.registry)


def test_a_cluster_of_unknown_version_has_no_date() -> None:
    metrics = Metrics()
    metrics.deprecated(deprecation(Mode.IPVS, None))
    assert b"proxymode_agent_deprecation_minors{" not in generate_latest(metrics.registry)


def test_latency_is_from_the_note_on_the_slice_to_the_end_of_the_sync() -> None:
    programming = Programming(START)
    programming.changed("2026-01-01T00:00:01Z")
    programming.changed("2026-01-01T00:00:02.5Z")
    programming.take()
    programming.changed("2026-01-01T00:00:03Z")
    assert programming.written(after(4)) == [3.0, 1.5]
    assert programming.written(after(5)) == []
    programming.take()
    assert programming.written(after(5)) == [2.0]


def test_a_sync_that_fails_makes_its_changes_late() -> None:
    programming = Programming(START)
    programming.changed("2026-01-01T00:00:01Z")
    programming.take()
    programming.take()  # of the next try
    assert programming.written(after(9)) == [8.0]


@pytest.mark.parametrize("note", [None, "", "yesterday", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z"])
def test_what_was_noted_before_the_start_or_not_at_all_does_not_count(note: str | None) -> None:
    programming = Programming(START)
    programming.changed(note)
    programming.take()
    assert programming.written(after(60)) == []


def test_a_clock_that_is_behind_does_not_make_a_latency_negative() -> None:
    programming = Programming(START)
    programming.changed("2026-01-01T00:00:10Z")
    programming.take()
    assert programming.written(after(9)) == [0.0]


def test_changes_while_nothing_is_programmed_are_not_late_afterwards() -> None:
    programming = Programming(START)
    programming.changed("2026-01-01T00:00:01Z")
    programming.forget()
    programming.take()
    assert programming.written(after(3600)) == []


def test_the_note_is_read_from_the_slice_and_other_annotations_are_not() -> None:
    note = b'"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:01Z"'
    found = decode_endpoint_slice(
        b'{"metadata":{"name":"a","annotations":{"other":"x",' + note + b'}},"addressType":"IPv4","endpoints":null}'
    )
    assert found.metadata.annotations is not None
    assert found.metadata.annotations.last_change_trigger_time == "2026-01-01T00:00:01Z"
