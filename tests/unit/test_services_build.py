"""What of a Service and its EndpointSlices takes traffic: kube-proxy's decisions, case by case."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from proxymode_agent.kube.objects import ObjectKey, decode_endpoint_slice, decode_service
from proxymode_agent.services.build import (
    PROXY_NAME_LABEL,
    SERVICE_NAME_LABEL,
    service_entry,
    service_ports,
    slice_entry,
    slice_service,
)
from proxymode_agent.services.model import Family, Protocol

KEY = ObjectKey("shop", "web")


def service(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    }
    return {"metadata": {"name": KEY.name, "namespace": KEY.namespace}, "spec": spec | changes}


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


def endpoint_slice(
    *endpoints: dict[str, Any], port: int = 8080, family: str = "IPv4", **changes: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "web-abc", "namespace": KEY.namespace, "labels": {SERVICE_NAME_LABEL: KEY.name}},
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    } | changes


def built(service_object: dict[str, Any], *slices: dict[str, Any]) -> dict[str, list[str]]:
    """Frontend to endpoints, as text, of a Service and its slices."""
    entry, problems = service_entry(decode_service(json.dumps(service_object)))
    assert entry is not None
    assert problems == ()
    entries = []
    for one in slices:
        slice_one, problems = slice_entry(decode_endpoint_slice(json.dumps(one)))
        assert problems == ()
        if slice_one is not None:
            entries.append(slice_one)
    return {
        f"{ipaddress.ip_address(port.cluster_ip.address)} {port.cluster_ip.protocol.name} {port.cluster_ip.port}": [
            str(endpoint) for endpoint in port.endpoints
        ]
        for port in service_ports(KEY, entry, entries)
    }


def test_endpoints_of_several_slices_are_joined_and_sorted() -> None:
    assert built(
        service(),
        endpoint_slice(endpoint("10.1.0.9", ready=True), endpoint("10.1.0.2", ready=True)),
        endpoint_slice(endpoint("10.1.0.5", ready=True), endpoint("10.1.0.2", ready=True)),
    ) == {"10.96.0.10 TCP 80": ["10.1.0.2:8080", "10.1.0.5:8080", "10.1.0.9:8080"]}


@pytest.mark.parametrize(
    ("conditions", "takes_traffic"),
    [
        ({}, True),  # absent: to be taken for ready
        ({"ready": True}, True),
        ({"ready": False}, False),
        ({"ready": True, "serving": False, "terminating": True}, True),  # publishNotReadyAddresses says ready
        ({"ready": False, "serving": True, "terminating": False}, False),
    ],
)
def test_ready_decides(conditions: dict[str, bool], takes_traffic: bool) -> None:
    found = built(service(), endpoint_slice(endpoint("10.1.0.1", **conditions)))
    assert found["10.96.0.10 TCP 80"] == (["10.1.0.1:8080"] if takes_traffic else [])


def test_serving_and_terminating_endpoints_serve_only_while_none_is_ready() -> None:
    draining = endpoint("10.1.0.7", ready=False, serving=True, terminating=True)
    dead = endpoint("10.1.0.8", ready=False, serving=False, terminating=True)
    unready = endpoint("10.1.0.9", ready=False, serving=True, terminating=False)
    assert built(service(), endpoint_slice(draining, dead, unready))["10.96.0.10 TCP 80"] == ["10.1.0.7:8080"]
    ready = endpoint("10.1.0.1", ready=True)
    assert built(service(), endpoint_slice(draining, dead, unready), endpoint_slice(ready))["10.96.0.10 TCP 80"] == [
        "10.1.0.1:8080"
    ]


def test_a_named_target_port_may_differ_from_slice_to_slice() -> None:
    assert built(
        service(),
        endpoint_slice(endpoint("10.1.0.1"), port=8080),
        endpoint_slice(endpoint("10.1.0.2"), port=9090),
    )["10.96.0.10 TCP 80"] == ["10.1.0.1:8080", "10.1.0.2:9090"]


def test_ports_are_matched_by_name_and_protocol() -> None:
    dns = service(
        ports=[
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            {"name": "metrics", "port": 9153},
        ]
    )
    pods = endpoint_slice(
        endpoint("10.1.0.1"),
        ports=[
            {"name": "dns", "port": 5353, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 5354, "protocol": "TCP"},
            {"name": "other", "port": 1, "protocol": "TCP"},
        ],
    )
    assert built(dns, pods) == {
        "10.96.0.10 UDP 53": ["10.1.0.1:5353"],
        "10.96.0.10 TCP 53": ["10.1.0.1:5354"],
        "10.96.0.10 TCP 9153": [],
    }


def test_an_unnamed_port_and_absent_protocol_are_the_single_tcp_port() -> None:
    assert built(service(ports=[{"port": 80}]), endpoint_slice(endpoint("10.1.0.1"), ports=[{"port": 8080}])) == {
        "10.96.0.10 TCP 80": ["10.1.0.1:8080"]
    }


def test_each_family_has_its_own_endpoints() -> None:
    dual = service(clusterIPs=["10.96.0.10", "fd00::10"])
    assert built(dual, endpoint_slice(endpoint("10.1.0.1")), endpoint_slice(endpoint("fd00:1::1"), family="IPv6")) == {
        "10.96.0.10 TCP 80": ["10.1.0.1:8080"],
        "fd00::10 TCP 80": ["[fd00:1::1]:8080"],
    }


def test_node_port_and_name_are_kept() -> None:
    entry, _ = service_entry(
        decode_service(json.dumps(service(type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}])))
    )
    assert entry is not None
    (port,) = service_ports(KEY, entry, ())
    assert port.node_port == 30080
    assert port.name == ("shop", "web", "http", Protocol.TCP, Family.IPV4)
    assert str(port.name) == "shop/web:http"


@pytest.mark.parametrize(
    "changes",
    [
        {"clusterIP": "None", "clusterIPs": ["None"]},
        {"type": "ExternalName", "clusterIP": "", "clusterIPs": None, "externalName": "example.org"},
        {"clusterIP": "", "clusterIPs": None},
        {"ports": None},
    ],
    ids=["headless", "external name", "not allocated yet", "no ports"],
)
def test_not_ours(changes: dict[str, Any]) -> None:
    assert service_entry(decode_service(json.dumps(service(**changes)))) == (None, ())


def test_a_service_given_to_another_proxy_is_not_ours() -> None:
    other = service()
    other["metadata"]["labels"] = {PROXY_NAME_LABEL: "other"}
    assert service_entry(decode_service(json.dumps(other))) == (None, ())


def test_slices_of_names_and_empty_slices_give_no_endpoints() -> None:
    fqdn = endpoint_slice(endpoint("db.example.org"), family="FQDN")
    null = endpoint_slice(endpoints=None, ports=None)
    assert built(service(), fqdn, null) == {"10.96.0.10 TCP 80": []}


def test_a_slice_belongs_to_the_service_in_its_label() -> None:
    one = endpoint_slice()
    assert slice_service(ObjectKey("shop", "web-abc"), decode_endpoint_slice(json.dumps(one))) == KEY
    del one["metadata"]["labels"]
    assert slice_service(ObjectKey("shop", "web-abc"), decode_endpoint_slice(json.dumps(one))) is None


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.1.0.300", "not an IP address"),
        ("127.0.0.1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("224.0.0.5", "multicast"),
        ("fd00::1", "not IPv4"),
    ],
)
def test_an_address_that_must_not_be_a_destination_is_left_out_and_reported(address: str, words: str) -> None:
    one = endpoint_slice(endpoint(address), endpoint("10.1.0.1"))
    entry, problems = slice_entry(decode_endpoint_slice(json.dumps(one)))
    assert entry is not None
    assert [str(ipaddress.ip_address(ready)) for ready in entry.ready] == ["10.1.0.1"]
    (problem,) = problems
    assert problem.startswith("endpoints[0].addresses has ")
    assert address in problem
    assert words in problem


def test_bad_addresses_of_endpoints_without_traffic_are_nobodys_problem() -> None:
    one = endpoint_slice(endpoint("not-an-address", ready=False))
    assert slice_entry(decode_endpoint_slice(json.dumps(one)))[1] == ()


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ({"name": "http", "port": 80, "protocol": "QUIC"}, "spec.ports[http].protocol is 'QUIC'"),
        ({"name": "http", "port": 0}, "spec.ports[http].port is 0"),
        ({"name": "http", "port": 80, "nodePort": 70000}, "spec.ports[http].nodePort is 70000"),
    ],
)
def test_a_bad_service_port_is_left_out_and_reported(port: dict[str, Any], words: str) -> None:
    good = {"name": "ok", "port": 81}
    entry, problems = service_entry(decode_service(json.dumps(service(ports=[port, good]))))
    assert entry is not None
    assert [kept.name for kept in entry.ports] == ["ok"]
    assert words in problems[0]


@pytest.mark.parametrize("port", [{"name": "http"}, {"name": "http", "port": 0}, {"name": "http", "port": 65536}])
def test_a_slice_port_without_a_usable_number_is_left_out_and_reported(port: dict[str, Any]) -> None:
    entry, problems = slice_entry(decode_endpoint_slice(json.dumps(endpoint_slice(endpoint("10.1.0.1"), ports=[port]))))
    assert entry is not None
    assert entry.ports == ()
    assert problems[0].startswith("ports[http].port is ")
