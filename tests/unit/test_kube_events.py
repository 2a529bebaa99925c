"""Events as the API takes them and `kubectl describe` finds them."""

from __future__ import annotations

from datetime import UTC, datetime

from proxymode_agent.kube.events import EventType, Regarding, event_object

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_an_event_about_a_node_is_in_the_default_namespace_and_fits_the_api() -> None:
    about = Regarding("v1", "Node", "", "node-a", "uid-1")
    body = event_object(
        about, EventType.NORMAL, "SwitchStarted", "SwitchMode", "n" * 2000, node="node-a", now=NOW, token="0123"
    )
    assert about.events_path == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert body["metadata"] == {"name": "node-a.0123", "namespace": "default"}
    assert body["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "uid-1"}
    assert body["eventTime"] == "2026-11-21T12:00:00.000000Z"
    assert len(body["note"].encode()) == 1024
    assert body["note"].endswith("…")


def test_an_event_about_an_object_is_beside_it() -> None:
    about = Regarding("v1", "Service", "shop", "web", "uid-1")
    body = event_object(
        about, EventType.WARNING, "UnusableField", "ReadObject", "why", node="n" * 200, now=NOW, token="0"
    )
    assert about.events_path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert body["metadata"]["namespace"] == body["regarding"]["namespace"] == "shop"
    assert body["note"] == "why"
    assert len(body["reportingInstance"]) == 128
