"""What of a Service and its EndpointSlices takes traffic: kube-proxy's decisions, case by case."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_agent.kube.objects import ObjectKey, decode_endpoint_slice, decode_service
from proxymode_agent.services.addresses import network, packed
from proxymode_agent.services.build import health_check, service_ports
from proxymode_agent.services.labels import HEADLESS_LABEL, PROXY_NAME_LABEL, SERVICE_NAME_LABEL
from proxymode_agent.services.model import Family, HealthCheck, Protocol
from proxymode_agent.services.service import service_entry
from proxymode_agent.services.slices import Place, slice_entry, slice_service
from proxymode_api.annotations import IPVS_SCHEDULER_ANNOTATION

if TYPE_CHECKING:
    from proxymode_agent.services.model import ServicePort
    from proxymode_agent.services.service import ServiceEntry
    from proxymode_agent.services.slices import SliceEntry

KEY = ObjectKey("shop", "web")
NODE = "node-a"


def service(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    }
    return {"metadata": {"name": KEY.name, "namespace": KEY.namespace}, "spec": spec | changes}


def endpoint(address: str, node: str | None = None, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions, "nodeName": node}


def endpoint_slice(
    *endpoints: dict[str, Any], port: int = 8080, family: str = "IPv4", **changes: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "web-abc", "namespace": KEY.namespace, "labels": {SERVICE_NAME_LABEL: KEY.name}},
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    } | changes


def entry_of(service_object: dict[str, Any]) -> ServiceEntry:
    entry, problems = service_entry(decode_service(json.dumps(service_object)))
    assert entry is not None
    assert problems == ()
    return entry


def entries_of(*slices: dict[str, Any]) -> list[SliceEntry]:
    entries = []
    for one in slices:
        entry, problems = slice_entry(decode_endpoint_slice(json.dumps(one)), NODE)
        assert problems == ()
        if entry is not None:
            entries.append(entry)
    return entries


def ports_of(service_object: dict[str, Any], *slices: dict[str, Any]) -> tuple[ServicePort, ...]:
    return service_ports(KEY, entry_of(service_object), entries_of(*slices), zone="")


def built(service_object: dict[str, Any], *slices: dict[str, Any]) -> dict[str, list[str]]:
    """Frontend to endpoints, as text, of a Service and its slices."""
    return {
        f"{ipaddress.ip_address(port.cluster_ip.address)} {port.cluster_ip.protocol.name} {port.cluster_ip.port}": [
            str(endpoint) for endpoint in port.endpoints
        ]
        for port in ports_of(service_object, *slices)
    }


def texts(addresses: tuple[bytes, ...]) -> list[str]:
    return [str(ipaddress.ip_address(address)) for address in addresses]


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
        ({"ready": False, "terminating": True}, True),  # absent: serving
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_conditions_decide(conditions: dict[str, bool], takes_traffic: bool) -> None:
    found = built(service(), endpoint_slice(endpoint("10.1.0.1", None, **conditions)))
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


def test_flows_of_udp_may_go_on_with_endpoints_that_serve_and_get_no_new_ones() -> None:
    draining = endpoint("10.1.0.7", ready=False, serving=True, terminating=True)
    dead = endpoint("10.1.0.8", ready=False, serving=False, terminating=True)
    for_others = endpoint("10.1.0.2", ready=True) | {"hints": {"forZones": [{"name": "zone-b"}]}}
    mine = endpoint("10.1.0.1", ready=True) | {"hints": {"forZones": [{"name": "zone-a"}]}}
    for protocol, expected in (("UDP", ["10.1.0.2:8080", "10.1.0.7:8080"]), ("TCP", [])):
        port = {"name": "http", "port": 80, "protocol": protocol}
        slices = endpoint_slice(draining, dead, for_others, mine, ports=[port | {"port": 8080}])
        (found,) = service_ports(KEY, entry_of(service(ports=[port])), entries_of(slices), zone="zone-a")
        assert list(map(str, found.cluster_endpoints)) == ["10.1.0.1:8080"]
        assert list(map(str, found.lingering_endpoints)) == expected


def test_flows_of_udp_may_go_on_with_endpoints_elsewhere_under_policy_local() -> None:
    port = {"name": "dns", "port": 53, "protocol": "UDP"}
    slices = endpoint_slice(endpoint("10.1.0.1", "elsewhere"), ports=[port])
    (found,) = ports_of(service(ports=[port], internalTrafficPolicy="Local"), slices)
    assert found.endpoints == ()
    assert list(map(str, found.lingering_endpoints)) == ["10.1.0.1:53"]


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
    (port,) = ports_of(service(type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}]))
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


@pytest.mark.parametrize("label", [PROXY_NAME_LABEL, HEADLESS_LABEL])
def test_a_service_that_is_another_proxys_or_nobodys_by_label_is_not_ours(label: str) -> None:
    other = service()
    other["metadata"]["labels"] = {label: ""}
    assert service_entry(decode_service(json.dumps(other))) == (None, ())


@pytest.mark.parametrize(
    ("asked", "scheduler", "problem"),
    [
        (None, None, ""),
        ("sh", "sh", ""),
        ("Random", None, "metadata.annotations[proxymode.io/ipvs-scheduler] is 'Random', not one of rr, wrr, lc"),
    ],
)
def test_a_service_may_ask_for_an_ipvs_scheduler(asked: str | None, scheduler: str | None, problem: str) -> None:
    wanted = service()
    wanted["metadata"]["annotations"] = {"other": "annotation"} | ({IPVS_SCHEDULER_ANNOTATION: asked} if asked else {})
    entry, problems = service_entry(decode_service(json.dumps(wanted)))
    assert entry is not None
    (port,) = service_ports(KEY, entry, [], zone="")
    assert port.ipvs_scheduler == scheduler
    assert "".join(problems).startswith(problem)
    assert len(problems) == bool(problem)


def test_slices_of_names_and_empty_slices_give_no_endpoints() -> None:
    fqdn = endpoint_slice(endpoint("db.example.org"), family="FQDN")
    null = endpoint_slice(endpoints=None, ports=None)
    assert built(service(), fqdn, null) == {"10.96.0.10 TCP 80": []}


def test_a_slice_belongs_to_the_service_in_its_label() -> None:
    one = endpoint_slice()
    assert slice_service(ObjectKey("shop", "web-abc"), decode_endpoint_slice(json.dumps(one))) == KEY
    one["metadata"]["labels"][HEADLESS_LABEL] = ""
    assert slice_service(ObjectKey("shop", "web-abc"), decode_endpoint_slice(json.dumps(one))) is None
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
    entry, problems = slice_entry(decode_endpoint_slice(json.dumps(one)), NODE)
    assert entry is not None
    assert [texts(addresses) for _, addresses in entry.groups] == [["10.1.0.1"]]
    (problem,) = problems
    assert problem.startswith("endpoints.addresses has ")
    assert address in problem
    assert words in problem


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("010.1.00.001", "10.1.0.1"),
        ("10.010.0.0", "10.10.0.0"),
        ("::ffff:10.1.0.1", "10.1.0.1"),
        ("::ffff:10.01.0.001", "10.1.0.1"),
    ],
)
def test_old_spellings_of_addresses_mean_what_they_always_did(text: str, address: str) -> None:
    entry, problems = slice_entry(decode_endpoint_slice(json.dumps(endpoint_slice(endpoint(text)))), NODE)
    assert entry is not None
    assert problems == ()
    assert [texts(addresses) for _, addresses in entry.groups] == [[address]]


@pytest.mark.parametrize("text", ["0177.0.0.1", "127.000.0.01", "::ffff:127.0.0.1", "::ffff:169.254.0.1"])
def test_an_old_spelling_hides_nothing(text: str) -> None:
    entry, problems = slice_entry(decode_endpoint_slice(json.dumps(endpoint_slice(endpoint(text)))), NODE)
    special = packed(text, "", []) is None
    assert special is (text != "0177.0.0.1")  # decimal: 177.0.0.1
    assert entry is not None
    assert bool(problems) is special


def test_old_spellings_in_every_field_of_a_service() -> None:
    web = external(
        clusterIPs=["10.96.000.010"], externalIPs=["198.051.100.007"], loadBalancerSourceRanges=["203.0.113.000/025"]
    )
    web["status"]["loadBalancer"]["ingress"] = [{"ip": "192.0.2.001"}]
    (port,) = ports_of(web)
    assert texts((port.cluster_ip.address,)) == ["10.96.0.10"]
    assert texts(port.external_ips) == ["198.51.100.7"]
    assert texts(port.load_balancer_ips) == ["192.0.2.1"]
    assert list(map(str, port.source_ranges)) == ["203.0.113.0/25"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 010.0.0.1/08 ", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("00.0.0.0/00", "0.0.0.0/0"),
        ("2001:0db8::/032", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_networks(text: str, expected: str) -> None:
    assert str(network(text)) == expected


def test_bad_addresses_of_endpoints_without_traffic_are_nobodys_problem() -> None:
    one = endpoint_slice(endpoint("not-an-address", ready=False))
    assert slice_entry(decode_endpoint_slice(json.dumps(one)), NODE)[1] == ()


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
    one = endpoint_slice(endpoint("10.1.0.1"), ports=[port])
    entry, problems = slice_entry(decode_endpoint_slice(json.dumps(one)), NODE)
    assert entry is not None
    assert entry.ports == ()
    assert problems[0].startswith("ports[http].port is ")


def external(**changes: Any) -> dict[str, Any]:
    """A LoadBalancer Service with every kind of frontend."""
    web = service(
        type="LoadBalancer",
        ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        externalIPs=["198.51.100.7", "fd00:51::7"],
        loadBalancerSourceRanges=["203.0.113.0/24", " 10.0.0.1/8 "],
    )
    web["spec"] |= changes
    return web | {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"}]}}}


def test_external_frontends_are_those_of_the_family() -> None:
    four, six = ports_of(external(clusterIPs=["10.96.0.10", "fd00::10"]))
    assert texts(four.external_ips) == ["198.51.100.7"]
    assert texts(four.load_balancer_ips) == ["192.0.2.1", "192.0.2.2"]
    assert list(map(str, four.source_ranges)) == ["10.0.0.0/8", "203.0.113.0/24"]
    assert texts(six.external_ips) == ["fd00:51::7"]
    assert six.load_balancer_ips == ()
    assert six.source_ranges == ()


def test_source_ranges_of_the_other_family_restrict_nobody() -> None:
    (port,) = ports_of(external(loadBalancerSourceRanges=["2001:db8::/32"]))
    assert port.load_balancer_ips
    assert port.source_ranges == ()


def test_an_ingress_address_that_is_a_proxys_own_is_no_frontend() -> None:
    web = external()
    web["status"]["loadBalancer"]["ingress"] = [
        {"ip": "192.0.2.1", "ipMode": "Proxy"},
        {"hostname": "lb.example.org"},
        {"ip": "192.0.2.3", "ipMode": "VIP"},
    ]
    (port,) = ports_of(web)
    assert texts(port.load_balancer_ips) == ["192.0.2.3"]


def test_an_address_that_is_external_and_the_load_balancers_is_the_load_balancers() -> None:
    (port,) = ports_of(external(externalIPs=["192.0.2.1", "198.51.100.7"]))
    assert texts(port.external_ips) == ["198.51.100.7"]
    assert texts(port.load_balancer_ips) == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.parametrize(
    ("changes", "words", "left"),
    [
        ({"externalIPs": ["127.0.0.1", "198.51.100.7"]}, "spec.externalIPs has 127.0.0.1", 1),
        ({"externalIPs": ["x"]}, "spec.externalIPs has 'x'", 0),
        ({"loadBalancerSourceRanges": ["10.0.0.0/33"]}, "spec.loadBalancerSourceRanges has '10.0.0.0/33'", 2),
        ({"healthCheckNodePort": 70000, "externalTrafficPolicy": "Local"}, "spec.healthCheckNodePort is 70000", 2),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds is 0",
            2,
        ),
    ],
)
def test_a_bad_external_field_is_left_out_and_reported(changes: dict[str, Any], words: str, left: int) -> None:
    entry, problems = service_entry(decode_service(json.dumps(external(**changes))))
    assert entry is not None
    assert problems[0].startswith(words)
    assert len(problems) == 1
    assert len(entry.external.ips) == left


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, None),
        ({"sessionAffinity": "None"}, None),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}}, 10),
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}}, None),
    ],
)
def test_session_affinity(changes: dict[str, Any], seconds: int | None) -> None:
    (port,) = ports_of(service(**changes))
    assert port.affinity_seconds == seconds


HERE_AND_THERE = endpoint_slice(
    endpoint("10.1.0.1", NODE),
    endpoint("10.2.0.1", "node-b"),
    endpoint("10.3.0.1"),
)


@pytest.mark.parametrize(
    ("changes", "external_local", "cluster", "local"),
    [
        ({}, False, ["10.1.0.1:8080", "10.2.0.1:8080", "10.3.0.1:8080"], []),
        ({"internalTrafficPolicy": "Local"}, False, [], ["10.1.0.1:8080"]),
        # Nothing external: the policy means nothing.
        (
            {"externalTrafficPolicy": "Local"},
            False,
            ["10.1.0.1:8080", "10.2.0.1:8080", "10.3.0.1:8080"],
            [],
        ),
        (
            {"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7"]},
            True,
            ["10.1.0.1:8080", "10.2.0.1:8080", "10.3.0.1:8080"],
            ["10.1.0.1:8080"],
        ),
        # Of the type that would have them, but without any: neither NodePort nor address is assigned yet.
        (
            {"externalTrafficPolicy": "Local", "type": "LoadBalancer"},
            False,
            ["10.1.0.1:8080", "10.2.0.1:8080", "10.3.0.1:8080"],
            [],
        ),
    ],
)
def test_policies_choose_which_endpoints_are_kept(
    changes: dict[str, Any], external_local: bool, cluster: list[str], local: list[str]
) -> None:
    (port,) = ports_of(service(**changes), HERE_AND_THERE)
    assert port.external_local == external_local
    assert list(map(str, port.cluster_endpoints)) == cluster
    assert list(map(str, port.local_endpoints)) == local


def test_endpoints_that_may_be_on_this_node_may_reach_themselves() -> None:
    (port,) = ports_of(service(), HERE_AND_THERE)
    assert texts(port.hairpin) == ["10.1.0.1", "10.3.0.1"]
    (port,) = ports_of(service(internalTrafficPolicy="Local"), HERE_AND_THERE)
    assert texts(port.hairpin) == ["10.1.0.1"]


def test_an_address_in_two_slices_is_one_endpoint_in_whichever_order() -> None:
    gone = endpoint_slice(endpoint("10.1.0.1", "node-b", ready=False, serving=True, terminating=True))
    ready = endpoint_slice(endpoint("10.1.0.1", NODE))
    for slices in ((gone, ready), (ready, gone)):
        (port,) = ports_of(service(internalTrafficPolicy="Local"), *slices)
        assert list(map(str, port.local_endpoints)) == ["10.1.0.1:8080"]


def test_a_pod_that_is_not_ready_yet_hides_the_one_that_had_its_address() -> None:
    former = endpoint("10.1.0.1", ready=False, serving=True, terminating=True)
    other = endpoint("10.1.0.2", ready=False, serving=True, terminating=True)
    starting = endpoint("10.1.0.1", ready=False)
    for slices in (
        (endpoint_slice(former, other, starting),),
        (endpoint_slice(starting, former, other),),
        (endpoint_slice(former, other), endpoint_slice(starting)),
        (endpoint_slice(starting), endpoint_slice(former, other)),
    ):
        assert built(service(), *slices)["10.96.0.10 TCP 80"] == ["10.1.0.2:8080"]
    assert built(service(), endpoint_slice(former, starting))["10.96.0.10 TCP 80"] == []
    ready = endpoint("10.1.0.1", ready=True)
    assert built(service(), endpoint_slice(ready, starting))["10.96.0.10 TCP 80"] == ["10.1.0.1:8080"]


def test_without_a_node_name_nothing_is_here() -> None:
    entry, _ = slice_entry(decode_endpoint_slice(json.dumps(HERE_AND_THERE)), None)
    assert entry is not None
    assert {placement.place for placement, _ in entry.groups} == {Place.ELSEWHERE, Place.UNKNOWN}


def checked(*slices: dict[str, Any], **changes: Any) -> HealthCheck | None:
    return health_check(
        entry_of(external(**({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000} | changes))),
        entries_of(*slices),
    )


def test_load_balancers_are_told_how_many_pods_of_this_node_are_ready() -> None:
    leaving = endpoint("10.1.0.9", NODE, ready=False, serving=True, terminating=True)
    assert checked(HERE_AND_THERE, endpoint_slice(leaving)) == HealthCheck(32000, 1)
    assert checked(endpoint_slice(leaving)) == HealthCheck(32000, 0)
    # Another port of the same pod, and the pod's other address, are the same pod.
    assert checked(
        HERE_AND_THERE,
        endpoint_slice(endpoint("10.1.0.1", NODE), endpoint("10.1.0.2", NODE), port=9090),
        endpoint_slice(endpoint("fd00:1::1", NODE), family="IPv6"),
    ) == HealthCheck(32000, 2)


@pytest.mark.parametrize(
    "changes",
    [{"externalTrafficPolicy": "Cluster"}, {"type": "NodePort"}, {"healthCheckNodePort": 0}],
)
def test_load_balancers_do_not_ask_where_every_node_serves(changes: dict[str, Any]) -> None:
    assert checked(HERE_AND_THERE, **changes) is None
