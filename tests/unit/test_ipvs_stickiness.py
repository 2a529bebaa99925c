"""Clients and their endpoints, from IPVS's templates to Service ports and back."""

from __future__ import annotations

from msgspec.structs import replace

from proxymode_agent.dataplane.affinity import Remembered
from proxymode_agent.dataplane.ipvs.stickiness import frontends, missing, remembered
from proxymode_agent.dataplane.ipvs.templates import Template
from proxymode_agent.services.model import (
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)

VIP, EXTERNAL, NODE, CLIENT, OTHER = (bytes((10, 0, 0, last)) for last in (1, 2, 3, 4, 5))
FIRST, SECOND = Endpoint(bytes((10, 1, 0, 1)), 8080), Endpoint(bytes((10, 1, 0, 2)), 8080)
CLUSTER_IP = Frontend(VIP, Protocol.TCP, 80)
ON_NODE = Frontend(NODE, Protocol.TCP, 30080)
STICKY = ServicePort(
    ServicePortName("ns", "web", "", Protocol.TCP, Family.IPV4),
    CLUSTER_IP,
    (FIRST, SECOND),
    node_port=30080,
    external_ips=(EXTERNAL,),
    affinity_seconds=600,
)
LOOSE = replace(
    STICKY, name=STICKY.name._replace(service="loose"), cluster_ip=CLUSTER_IP._replace(port=81), affinity_seconds=None
)
STATE = ServiceState({port.name: port for port in (STICKY, LOOSE)})
NAMES = frontends(STATE, [NODE, bytes(15) + b"\1"])


def test_every_frontend_of_a_port_with_affinity_and_of_its_family() -> None:
    found = frontends(STATE, [NODE, bytes(15) + b"\1"])
    assert found == dict.fromkeys((CLUSTER_IP, CLUSTER_IP._replace(address=EXTERNAL), ON_NODE), STICKY.name)


def test_what_any_virtual_server_of_a_port_knows_is_the_ports() -> None:
    stranger = Template(LOOSE.cluster_ip, CLIENT, FIRST)
    known = remembered(NAMES, [Template(CLUSTER_IP, CLIENT, FIRST), Template(ON_NODE, OTHER, SECOND), stranger])
    assert set(known) == {Remembered(STICKY.name, CLIENT, FIRST), Remembered(STICKY.name, OTHER, SECOND)}
    again = remembered(NAMES, [Template(CLUSTER_IP, CLIENT, FIRST), Template(ON_NODE, CLIENT, SECOND)])
    assert again == [Remembered(STICKY.name, CLIENT, SECOND)]


def test_each_virtual_server_is_told_of_clients_that_it_does_not_know() -> None:
    known = [Remembered(STICKY.name, CLIENT, FIRST)]
    there = [Template(CLUSTER_IP, CLIENT, SECOND)]
    found = missing(STATE, NAMES, known, there)
    others = (ON_NODE, CLUSTER_IP._replace(address=EXTERNAL))
    assert {seconds: set(some) for seconds, some in found.items()} == {
        600: {Template(frontend, CLIENT, FIRST) for frontend in others}
    }


def test_nobody_is_led_to_an_endpoint_that_is_gone_or_of_a_port_without_affinity() -> None:
    gone = Remembered(STICKY.name, CLIENT, Endpoint(FIRST.address, 9))
    loose = Remembered(LOOSE.name, CLIENT, FIRST)
    unknown = Remembered(STICKY.name._replace(service="unknown"), CLIENT, FIRST)
    assert not any(missing(STATE, NAMES, [gone, loose, unknown], []).values())
