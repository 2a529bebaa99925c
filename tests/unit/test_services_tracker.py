"""The tracker: whatever the order of events, the state is that of a fresh build, and `changed` names what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.kube.objects import (
    EndpointConditions,
    EndpointHints,
    EndpointSlice,
    Hint,
    ObjectKey,
    ObjectMeta,
    Service,
    ServicePortSpec,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from proxymode_agent.services.labels import SERVICE_NAME_LABEL
from proxymode_agent.services.model import HealthCheck, ServiceName
from proxymode_agent.services.tracker import ServiceTracker

if TYPE_CHECKING:
    from proxymode_agent.services.tracker import Update

NODE = "node-a"
NAMES = ("a", "b", "c")
SLICES = ("s1", "s2", "s3", "s4")
PORT_NAMES = ("", "http", "dns")

services = st.builds(
    lambda spec: Service(metadata=ObjectMeta(name="x"), spec=spec),
    st.builds(
        ServiceSpec,
        type=st.sampled_from(["ClusterIP", "NodePort", "ExternalName", "LoadBalancer"]),
        internal_traffic_policy=st.sampled_from([None, "Cluster", "Local"]),
        external_traffic_policy=st.sampled_from(["", "Cluster", "Local"]),
        external_ips=st.sampled_from([None, ["192.0.2.1"], ["bad"]]),
        health_check_node_port=st.sampled_from([0, 32000]),
        cluster_ips=st.sampled_from([None, ["None"], ["10.96.0.1"], ["10.96.0.2", "fd00::2"], ["fd00::3"]]),
        ports=st.none()
        | st.lists(
            st.builds(
                ServicePortSpec,
                port=st.sampled_from([80, 443]),
                name=st.sampled_from(PORT_NAMES),
                protocol=st.sampled_from(["TCP", "UDP", "NONE"]),
                node_port=st.sampled_from([0, 30080]),
            ),
            max_size=2,
            unique_by=lambda port: (port.name, port.protocol),
        ),
    ),
)


def hints(*names: str) -> st.SearchStrategy[list[Hint] | None]:
    return st.none() | st.lists(st.builds(Hint, st.sampled_from(names)), max_size=2)


conditions = st.builds(
    EndpointConditions,
    ready=st.none() | st.booleans(),
    serving=st.none() | st.booleans(),
    terminating=st.none() | st.booleans(),
)
slices = st.builds(
    EndpointSlice,
    metadata=st.builds(
        ObjectMeta,
        name=st.just("x"),
        labels=st.none() | st.fixed_dictionaries({SERVICE_NAME_LABEL: st.sampled_from(NAMES)}),
    ),
    address_type=st.sampled_from(["IPv4", "IPv6", "FQDN"]),
    endpoints=st.lists(
        st.builds(
            SliceEndpoint,
            addresses=st.sampled_from([["10.1.0.1"], ["10.1.0.2"], ["fd00::1"], ["bad"], []]),
            conditions=conditions,
            node_name=st.none() | st.sampled_from([NODE, "node-b"]),
            hints=st.none() | st.builds(EndpointHints, for_zones=hints("a", "b"), for_nodes=hints(NODE, "node-b")),
        ),
        max_size=3,
    ),
    ports=st.none()
    | st.lists(
        st.builds(
            SlicePort,
            name=st.none() | st.sampled_from(PORT_NAMES),
            protocol=st.none() | st.sampled_from(["TCP", "UDP"]),
            port=st.none() | st.sampled_from([8080, 8081]),
        ),
        max_size=2,
    ),
)
service_events = st.tuples(st.just("service"), st.sampled_from(NAMES), st.none() | services)
slice_events = st.tuples(st.just("slice"), st.sampled_from(SLICES), st.none() | slices)
zone_events = st.tuples(st.just("zone"), st.sampled_from(["", "a", "b"]), st.none())
takes = st.tuples(st.just("take"), st.just(""), st.none())
sequences = st.lists(service_events | slice_events | zone_events | takes, max_size=30)


def feed(tracker: ServiceTracker, kind: str, name: str, value: Service | EndpointSlice | None) -> None:
    key = ObjectKey("ns", name)
    match kind, value:
        case "service", None:
            tracker.drop_service(key)
        case "slice", None:
            tracker.drop_slice(key)
        case _, Service():
            tracker.set_service(key, value)
        case _, EndpointSlice():
            tracker.set_slice(key, value)


def fresh(final: dict[tuple[str, str], Service | EndpointSlice], zone: str) -> Update:
    tracker = ServiceTracker(NODE)
    tracker.set_zone(zone)
    for (kind, name), value in sorted(final.items(), key=lambda item: item[0]):
        feed(tracker, kind, name, value)
    return tracker.take()


@given(sequences)
def test_any_order_of_events_ends_as_a_fresh_build_and_names_what_changed(
    sequence: list[tuple[str, str, Service | EndpointSlice | None]],
) -> None:
    tracker = ServiceTracker(NODE)
    final: dict[tuple[str, str], Service | EndpointSlice] = {}
    zone = ""
    before = tracker.take().state
    for kind, name, value in [*sequence, ("take", "", None)]:
        if kind == "zone":
            zone = name
            tracker.set_zone(zone)
            continue
        if kind != "take":
            feed(tracker, kind, name, value)
            final.pop((kind, name), None)
            if value is not None:
                final[kind, name] = value
            continue
        snapshot = dict(before.ports)
        update = tracker.take()
        assert not tracker.dirty
        assert dict(before.ports) == snapshot, "a state that was handed out must never change"
        differing = {
            port
            for port in before.ports.keys() | update.state.ports.keys()
            if before.ports.get(port) != update.state.ports.get(port)
        }
        assert update.changed == differing
        expected = fresh(final, zone)
        assert update.state == expected.state
        assert update.health_checks == expected.health_checks
        assert update.none_here == expected.none_here
        before = update.state


def web() -> Service:
    return Service(
        metadata=ObjectMeta(name="a"), spec=ServiceSpec(cluster_ips=["10.96.0.1"], ports=[ServicePortSpec(port=80)])
    )


def pods(*addresses: str) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="s1", labels={SERVICE_NAME_LABEL: "a"}),
        address_type="IPv4",
        endpoints=[SliceEndpoint(addresses=[address]) for address in addresses],
        ports=[SlicePort(port=8080)],
    )


def test_a_change_that_means_nothing_is_no_change() -> None:
    tracker = ServiceTracker()
    tracker.set_service(ObjectKey("ns", "a"), web())
    tracker.set_slice(ObjectKey("ns", "s1"), pods("10.1.0.1", "10.1.0.2"))
    before = tracker.take()
    assert len(before.changed) == 1
    tracker.set_slice(ObjectKey("ns", "s1"), pods("10.1.0.2", "10.1.0.1"))  # another order
    relabelled = msgspec.structs.replace(web(), metadata=ObjectMeta(name="a", labels={"team": "shop"}))
    tracker.set_service(ObjectKey("ns", "a"), relabelled)
    after = tracker.take()
    assert after.changed == frozenset()
    assert after.state is before.state


def test_problems_are_reported_once_and_the_rest_is_programmed() -> None:
    tracker = ServiceTracker()
    key = ObjectKey("ns", "s1")
    tracker.set_service(ObjectKey("ns", "a"), web())
    tracker.set_slice(key, pods("10.1.0.1", "127.0.0.1"))
    update = tracker.take()
    (problem,) = update.problems
    assert (problem.kind, str(problem.key)) == ("EndpointSlice", "ns/s1")
    assert "127.0.0.1" in problem.text
    (port,) = update.state.ports.values()
    assert [str(endpoint) for endpoint in port.endpoints] == ["10.1.0.1:8080"]
    tracker.set_slice(key, pods("10.1.0.2", "127.0.0.1"))
    assert tracker.take().problems == ()
    tracker.set_slice(key, pods("224.0.0.1", "127.0.0.1"))
    (problem,) = tracker.take().problems
    assert "224.0.0.1" in problem.text
    assert "127.0.0.1" not in problem.text


def test_an_object_that_was_mended_or_made_anew_is_reported_again() -> None:
    tracker = ServiceTracker()
    key = ObjectKey("ns", "s1")
    tracker.set_slice(key, pods("127.0.0.1"))
    assert len(tracker.take().problems) == 1
    tracker.set_slice(key, pods("10.1.0.1"))
    tracker.set_slice(key, pods("127.0.0.1"))
    assert len(tracker.take().problems) == 1
    tracker.drop_slice(key)
    tracker.set_slice(key, pods("127.0.0.1"))
    assert len(tracker.take().problems) == 1


def test_what_nobody_takes_is_kept_once_an_object_and_as_it_is_now() -> None:
    tracker = ServiceTracker()
    key = ObjectKey("ns", "s1")
    for number in range(1, 100):
        tracker.set_slice(key, pods(f"127.0.0.{number}", "224.0.0.1"))
        tracker.set_slice(key, pods("10.1.0.1"))
        tracker.set_slice(key, pods("224.0.0.1"))
    tracker.set_slice(key, pods("224.0.0.1", "127.0.0.200"))
    (problem,) = tracker.take().problems
    assert [address in problem.text for address in ("224.0.0.1", "127.0.0.200", "127.0.0.99")] == [True, True, False]
    tracker.set_slice(key, pods("127.0.0.7"))
    tracker.drop_slice(key)
    tracker.take()
    assert not tracker.dirty
    assert tracker.take().problems == ()


def test_many_problems_of_one_object_are_one_report_of_bounded_length() -> None:
    tracker = ServiceTracker()
    tracker.set_slice(ObjectKey("ns", "s1"), pods(*(f"127.0.0.{number}" for number in range(1, 101))))
    (problem,) = tracker.take().problems
    assert problem.text.count("loopback") == 5
    assert problem.text.endswith("; and 95 more")


def test_a_zone_concerns_only_services_that_are_spread_by_zone() -> None:
    tracker = ServiceTracker(NODE)
    tracker.set_service(ObjectKey("ns", "a"), web())
    tracker.set_slice(ObjectKey("ns", "s1"), pods("10.1.0.1", "10.1.0.2"))
    tracker.take()
    tracker.set_zone("a")
    assert not tracker.dirty
    spread = [
        SliceEndpoint(addresses=[address], hints=EndpointHints(for_zones=[Hint(zone)]))
        for address, zone in (("10.1.0.1", "a"), ("10.1.0.2", "b"))
    ]
    tracker.set_slice(ObjectKey("ns", "s1"), msgspec.structs.replace(pods(), endpoints=spread))
    for zone, expected in (("a", "10.1.0.1:8080"), ("b", "10.1.0.2:8080")):
        tracker.set_zone(zone)
        (port,) = tracker.take().state.ports.values()
        assert list(map(str, port.endpoints)) == [expected]


def test_ports_that_policy_local_leaves_without_an_endpoint_here_are_counted() -> None:
    """The cases of kube-proxy's TestNoEndpointsMetric."""
    tracker = ServiceTracker(NODE)
    key = ObjectKey("ns", "a")
    both = {"internal_traffic_policy": "Local", "external_traffic_policy": "Local", "type": "NodePort"}
    spec = msgspec.structs.replace(web().spec, ports=[ServicePortSpec(port=80, node_port=30080)])
    counts = []
    for policies, slice_ in (
        (both, pods("10.1.0.1")),
        (both | {"external_traffic_policy": "Cluster"}, pods("10.1.0.1")),
        (both | {"internal_traffic_policy": "Cluster"}, pods("10.1.0.1")),
        (both, None),
        ({}, pods("10.1.0.1")),
        (both, msgspec.structs.replace(pods(), endpoints=[SliceEndpoint(["10.1.0.1"], node_name=NODE)])),
        (both, pods("10.1.0.1")),
    ):
        tracker.set_service(key, Service(ObjectMeta(name="a"), msgspec.structs.replace(spec, **policies)))
        if slice_ is None:
            tracker.drop_slice(ObjectKey("ns", "s1"))
        else:
            tracker.set_slice(ObjectKey("ns", "s1"), slice_)
        counts.append(tracker.take().none_here)
    tracker.drop_service(key)
    counts.append(tracker.take().none_here)
    assert counts == [(1, 1), (1, 0), (0, 1), (0, 0), (0, 0), (0, 0), (1, 1), (0, 0)]


def test_health_checks_follow_the_pods_of_this_node() -> None:
    tracker = ServiceTracker(NODE)
    local = ServiceSpec(
        type="LoadBalancer",
        cluster_ips=["10.96.0.1"],
        ports=[ServicePortSpec(port=80)],
        external_traffic_policy="Local",
        health_check_node_port=32000,
    )
    name = ServiceName("ns", "a")
    tracker.set_service(ObjectKey("ns", "a"), msgspec.structs.replace(web(), spec=local))
    first = tracker.take().health_checks
    assert first == {name: HealthCheck(32000, 0)}
    one = SliceEndpoint(addresses=["10.1.0.1"], node_name=NODE)
    tracker.set_slice(ObjectKey("ns", "s1"), msgspec.structs.replace(pods("10.1.0.2"), endpoints=[one]))
    assert tracker.take().health_checks == {name: HealthCheck(32000, 1)}
    assert first == {name: HealthCheck(32000, 0)}, "what was handed out must never change"
    tracker.set_service(ObjectKey("ns", "a"), web())
    assert tracker.take().health_checks == {}
