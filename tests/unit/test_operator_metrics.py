"""What the operator tells of a fleet: silent agents, and the word of the STATUS column."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from proxymode_api.proxymode_status import FleetStatus
from proxymode_operator.cache import Cache
from proxymode_operator.kubeapi import Kind
from proxymode_operator.metrics import REGISTRY
from test_operator_cache import node, npm, pm, report
from test_operator_reconcile import Bench


def test_agents_are_silent_from_three_minutes_after_their_last_word() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    cache = Cache(lambda _: None, lambda: now)
    for name in ("n1", "n2", "n3", "n4"):
        cache.put(Kind.NODE, node(name))
    assert cache.silent() == 0, "nobody has asked anything of them"
    cache.put(Kind.NODE_PROXY_MODE, npm("n1", status=report("2026-01-01T00:00:00Z")))
    cache.put(Kind.NODE_PROXY_MODE, npm("n2", status=report("2026-01-01T00:00:00Z")))
    cache.put(Kind.NODE_PROXY_MODE, npm("n3"))
    cache.put(Kind.NODE_PROXY_MODE, npm("n4", owner="uid-of-an-earlier-node"))
    assert cache.silent() == 1, "n3 has never reported; n4's is about a Node that is gone"
    now += timedelta(minutes=2)
    cache.put(Kind.NODE_PROXY_MODE, npm("n2", status=report("2026-01-01T00:02:00Z")))
    now += timedelta(minutes=1)
    assert cache.silent() == 2
    now += timedelta(minutes=2)
    assert cache.silent() == 3


def status(name: str, word: FleetStatus) -> float | None:
    return REGISTRY.get_sample_value("proxymode_operator_rollout_status", {"proxymode": name, "status": word.value})


def test_the_status_is_the_word_that_is_stored_and_gone_with_the_proxy_mode() -> None:
    bench = Bench()
    bench.reconcile()
    assert {word: status("fleet", word) for word in FleetStatus} == {
        word: float(word is FleetStatus.PROGRESSING) for word in FleetStatus
    }
    bench.cache.delete(Kind.PROXY_MODE, pm("fleet"))
    bench.reconcile()
    assert [status("fleet", word) for word in FleetStatus] == [None] * len(FleetStatus)
