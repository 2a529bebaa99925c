"""The ipvs mode as a Dataplane: incremental, restartable, repairing, and no harm to what is not its own."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs import sysctls
from proxymode_agent.services.model import Protocol, ServiceState
from proxymode_api.modes import IpvsScheduler
from service_node import VIP, VIP6, connect, service, state

if TYPE_CHECKING:
    from proxymode_testbeds.fixtures import FleetMaker, Traffic
    from proxymode_testbeds.topology import Topology
    from service_node import NodeMaker, ServiceNode

DEADLINE_SECONDS = 200.0


def mixed(node: ServiceNode) -> ServiceState:
    v4, v6 = node.pods(4), node.pods(6)
    return state(
        service(VIP, 80, v4, node_port=30080),
        service(VIP, 53, v4[:1], target=5353, protocol=Protocol.UDP),
        service(VIP6, 80, v6, node_port=30080),
        service("10.96.0.11", 81, (), node_port=30081, name="empty"),
        service("10.96.0.12", 82, v4[1:], name="other"),
    )


def test_a_restart_reads_back_and_writes_nothing(service_node: NodeMaker, node_fleet: FleetMaker) -> None:
    node = service_node(node_fleet(nodes=1, pods=2, dual_stack=True))
    first = node.ipvs()
    assert node.call(first.sync, mixed(node)).written > 0
    before = node.snapshot()
    assert node.call(first.sync, mixed(node)).written == 0
    first.close()
    again = node.call(node.ipvs().sync, mixed(node))
    assert (again.written, again.services, again.endpoints, again.refused) == (0, 5, 6, ())
    assert node.snapshot() == before


def test_no_route_that_the_kernel_makes_late_comes_before_ours(service_node: NodeMaker, node_fleet: FleetMaker) -> None:
    """The kernel routes a new IPv6 address in a work queue, some time after it has taken the address."""
    node = service_node(node_fleet(nodes=1, pods=1, dual_stack=True))
    ports = [service(f"fd96::1:{number:x}", 80, node.pods(6), name=f"n{number}") for number in range(300)]
    for some in (ports[:1], ports):
        node.call(node.ipvs().sync, state(*some))
        assert node.sh("ip -6 route show table local dev kube-ipvs0") == ""
        assert node.call(node.ipvs().sync, state(*some)).written == 0


def test_only_what_changed_is_written_and_a_fresh_start_agrees(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node)
    dataplane = node.ipvs()
    pods = node.pods()
    ports = dict(mixed_v4(node).ports)
    node.call(dataplane.sync, ServiceState(ports))
    web = service(VIP, 80, pods, node_port=30080)
    steps = [
        replace(web, cluster_endpoints=web.endpoints[:1]),
        replace(web, cluster_endpoints=()),
        replace(web, cluster_endpoints=web.endpoints[1:], node_port=None),
        replace(web, node_port=30090),
        service("10.96.7.7", 7777, pods[:2], name="new"),
    ]
    for port in steps:
        ports[port.name] = port
        assert node.call(dataplane.sync, ServiceState(ports), frozenset({port.name})).written > 0
    for name in (web.name, service("10.96.0.12", 82, (), name="other").name):
        del ports[name]
        assert node.call(dataplane.sync, ServiceState(ports), frozenset({name})).written > 0
    assert node.call(dataplane.sync, ServiceState(ports), frozenset({web.name})).written == 0
    node.call(dataplane.sync, ServiceState(ports))  # removes real servers that have drained
    kept = node.snapshot()
    assert node.call(node.ipvs().sync, ServiceState(ports)).written == 0
    node.call(dataplane.remove)
    node.call(dataplane.sync, ServiceState(ports))
    assert node.snapshot() == kept


def mixed_v4(node: ServiceNode) -> ServiceState:
    return ServiceState({name: port for name, port in mixed(node).ports.items() if name.family == 4})


def test_endpoints_come_and_go_under_new_connections_without_a_failure(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve_all(one_node)
    node = service_node(one_node)
    pods = node.pods()
    dataplane = node.ipvs()
    full = service(VIP, 80, pods)
    node.call(dataplane.sync, state(full))
    client = traffic.talk(one_node, "client1", VIP, tcp=80, new_rate=40, established=3)
    for turn in range(30):
        part = replace(full, cluster_endpoints=tuple(e for i, e in enumerate(full.endpoints) if i != turn % 3))
        node.call(dataplane.sync, state(part), frozenset({part.name}))
        client.wait_for("second")
        if turn % 3 == 2:
            node.call(dataplane.sync, state(part))
    result = client.stop()
    assert result["new"] > 100
    assert (result["failed"], result["failed_reasons"]) == (0, {})
    assert result["lost"] == 0
    assert set(result["backends"]["new"]) == {"node1-pod1", "node1-pod2", "node1-pod3"}


def test_a_leaving_endpoint_keeps_its_connections_and_is_swept_when_they_ended(
    service_node: NodeMaker, one_node: Topology, traffic: Traffic
) -> None:
    traffic.serve_all(one_node)
    node = service_node(one_node)
    dataplane = node.ipvs()
    both = service(VIP, 80, node.pods()[:2])
    node.call(dataplane.sync, state(both))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(one_node.call("node1-pod3", connect, VIP, 80)) for _ in range(4)]

        def answers() -> list[bytes]:
            for connection in connections:
                connection.sendall(b"?\n")
            return [connection.recv(1024).split()[0] for connection in connections]

        first = answers()
        assert set(first) == {b"node1-pod1", b"node1-pod2"}
        one = replace(both, cluster_endpoints=both.endpoints[1:])
        node.call(dataplane.sync, state(one), frozenset({one.name}))
        assert node.call(dataplane.sync, state(one)).written == 0
        assert "10.244.1.11:8080 -m -w 0" in node.sh("ipvsadm -Sn")
        assert answers() == first
        for connection in connections:
            # A reset, which IPVS remembers for ten seconds; an orderly end for two minutes, whatever its timeouts.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    node.call(dataplane.sync, state(both), frozenset({both.name}))
    assert "10.244.1.11:8080 -m -w 1" in node.sh("ipvsadm -Sn")
    node.call(dataplane.sync, state(one), frozenset({one.name}))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while "10.244.1.11" in node.sh("ipvsadm -Sn"):
        assert time.monotonic() < deadline, node.sh("ipvsadm -Ln; cat /proc/net/ip_vs_conn")
        node.call(dataplane.sync, state(one))
        time.sleep(0.5)


def test_what_somebody_else_deleted_is_put_back(
    service_node: NodeMaker, node_fleet: FleetMaker, traffic: Traffic
) -> None:
    topology = node_fleet(nodes=1, pods=2, dual_stack=True)
    traffic.serve_all(topology)
    node = service_node(topology)
    dataplane = node.ipvs()
    node.call(dataplane.sync, mixed(node))
    before = node.snapshot()
    for damage in (
        f"ipvsadm -D -t {VIP}:80",
        f"ipvsadm -d -t {VIP}:80 -r {node.pods()[0]}:8080",
        f"ipvsadm -E -t {VIP}:80 -s lc",
        "ipvsadm -C",
        f"ip address del {VIP}/32 dev kube-ipvs0",
        f"ip route del local {VIP} dev lo table local",
        f"ip -6 route del local {VIP6} dev lo table local",
        f"ip -6 route add local {VIP6} dev lo table local proto 201 metric 5 src {node.address(6)}"
        f"; ip -6 address del {VIP6}/128 dev kube-ipvs0",
        "ip link del kube-ipvs0",
        "nft flush map ip proxymode-ipvs frontends",
        f"nft delete element ip proxymode-ipvs frontends '{{ {VIP} . tcp . 80 }}';"
        f"nft add element ip proxymode-ipvs frontends '{{ {VIP} . tcp . 80 : drop }}'",
        "nft flush chain ip proxymode-ipvs refuse",
        "nft delete chain ip6 proxymode-ipvs nat-postrouting",
        "nft add element ip proxymode-ipvs internal '{ 10.96.3.3 . tcp . 3 }'",
        "nft flush ruleset",
    ):
        node.sh(damage)
        assert node.call(dataplane.sync, mixed(node)).written > 0, damage
        assert node.snapshot() == before, damage
        assert node.call(dataplane.sync, mixed(node)).written == 0, damage
    assert traffic.ask(topology, "client1", VIP, 80).server in {"node1-pod1", "node1-pod2"}


def test_damage_that_an_incremental_sync_meets_is_repaired_as_a_whole(
    service_node: NodeMaker, one_node: Topology
) -> None:
    node = service_node(one_node)
    dataplane = node.ipvs()
    web, other = service(VIP, 80, node.pods()), service("10.96.0.12", 82, node.pods(), name="other")
    node.call(dataplane.sync, state(web, other))
    node.sh("ipvsadm -C")
    less = replace(web, cluster_endpoints=web.endpoints[:1])
    node.call(dataplane.sync, state(less, other), frozenset({less.name}))
    assert f"-a -t 10.96.0.12:82 -r {node.pods()[0]}:8080" in node.sh("ipvsadm -Sn")
    assert node.call(dataplane.sync, state(less, other)).written == 0


def test_remove_takes_everything_of_ours_and_nothing_else(service_node: NodeMaker, node_fleet: FleetMaker) -> None:
    node = service_node(node_fleet(nodes=1, pods=2, dual_stack=True))
    node.call(node.ipvs().sync, mixed(node))  # sysctls stay, so they count as before
    node.call(node.ipvs().remove)
    node.sh(
        "nft add table ip keep; nft add chain ip keep out '{ type nat hook postrouting priority 90; }';"
        "ipvsadm -A -t 192.168.50.1:22022 -s wrr; ipvsadm -a -t 192.168.50.1:22022 -r 10.244.1.11:22 -m;"
        "ipvsadm -A -f 7 -s rr; ipvsadm -A -u 203.0.113.5:99 -s rr;"
        "ip route add local 203.0.113.5/32 dev lo table local"
    )
    before = node.snapshot()
    dataplane = node.ipvs()
    assert node.call(dataplane.present) is False
    node.call(dataplane.sync, mixed(node))
    assert node.call(dataplane.present) is True
    dataplane.close()
    fresh = node.ipvs()
    node.call(fresh.remove)
    assert node.snapshot() == before
    assert node.call(fresh.present) is False
    node.call(fresh.remove)
    assert node.snapshot() == before


def test_remove_also_works_when_the_table_was_flushed(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node)
    node.call(node.ipvs().sync, state(service(VIP, 80, node.pods())))
    node.sh("nft flush ruleset")
    dataplane = node.ipvs()
    assert node.call(dataplane.present) is True
    node.call(dataplane.remove)
    assert node.sh("ipvsadm -Sn; ip -br link show type dummy") == ""


def test_excluded_networks_belong_to_somebody_else(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node)
    everything = state(service(VIP, 80, node.pods()), service("10.96.9.9", 99, node.pods(), name="theirs"))
    node.call(node.ipvs().sync, everything)
    careful = service_node(one_node, ipvs_exclude_cidrs=(ipaddress.ip_network("10.96.9.0/24"),))
    dataplane = careful.ipvs()
    node.call(dataplane.sync, state(service(VIP, 80, node.pods())))
    assert "-A -t 10.96.9.9:99" in node.sh("ipvsadm -Sn")
    node.call(dataplane.remove)
    assert node.sh("ipvsadm -Sn | grep -c ^-A").strip() == "1"
    assert "10.96.9.9/32" in node.sh("ip -br address show dev kube-ipvs0")


def test_in_the_place_of_a_scheduler_that_the_kernel_lacks_it_is_rr(
    service_node: NodeMaker, one_node: Topology
) -> None:
    node = service_node(one_node, ipvs_scheduler="nonesuch")
    dataplane = node.ipvs()
    web, other = service(VIP, 80, node.pods()), service("10.96.0.11", 81, node.pods(), name="other")
    result = node.call(dataplane.sync, state(web))
    assert result.refused == ()
    assert (
        result.instead
        == "the kernel has no IPVS scheduler nonesuch (module ip_vs_nonesuch): rr serves default/web:tcp-80"
    )
    assert f"-A -t {VIP}:80 -s rr" in node.sh("ipvsadm -Sn")
    assert node.call(node.ipvs().sync, state(web)).written == 0
    own = replace(other, ipvs_scheduler="wlc")
    result = node.call(dataplane.sync, state(web, own), frozenset({own.name}))
    assert "other" not in result.instead
    assert "-A -t 10.96.0.11:81 -s wlc" in node.sh("ipvsadm -Sn")
    lacking = replace(other, ipvs_scheduler="nowhere")
    result = node.call(dataplane.sync, state(replace(web, ipvs_scheduler="sh"), lacking))
    assert "scheduler nowhere (module ip_vs_nowhere): rr serves default/other:tcp-81" in result.instead
    assert "default/web" not in result.instead
    listing = node.sh("ipvsadm -Sn")
    assert f"-A -t {VIP}:80 -s sh -b sh-fallback" in listing
    assert "-A -t 10.96.0.11:81 -s rr" in listing


def test_every_scheduler_of_the_api_is_one_of_the_kernel_and_changes_in_place(
    service_node: NodeMaker, one_node: Topology
) -> None:
    for scheduler in IpvsScheduler:
        node = service_node(one_node, ipvs_scheduler=scheduler.value)
        web = service(VIP, 80, node.pods()[:1], affinity_seconds=600)
        node.call(node.ipvs().sync, state(web))
        assert f"-A -t {VIP}:80 -s {scheduler.value} -p 600" in node.sh("ipvsadm -Sn")
        assert node.call(node.ipvs().sync, state(web)).written == 0


def test_a_frontend_that_two_services_claim_goes_to_one_and_is_refused_to_the_other(
    service_node: NodeMaker, one_node: Topology
) -> None:
    node = service_node(one_node)
    first, second = (service(VIP, 80, node.pods(), name=name) for name in ("first", "second"))
    dataplane = node.ipvs()
    assert node.call(dataplane.sync, state(first)).refused == ()
    result = node.call(dataplane.sync, state(first, second), frozenset({second.name}))
    assert [name for name, _ in result.refused] == [second.name]
    assert str(first.name) in result.refused[0][1]


def test_a_thousand_services_are_all_there(service_node: NodeMaker, one_node: Topology) -> None:
    node = service_node(one_node)
    first = ipaddress.ip_address("10.96.16.0")
    ports = [service(str(first + number), 80, node.pods()[:2], name=f"n{number}") for number in range(1000)]
    dataplane = node.ipvs()
    result = node.call(dataplane.sync, state(*ports))
    assert (result.services, result.endpoints, result.refused) == (1000, 2000, ())
    assert node.sh("ipvsadm -Sn | grep -c -- '-a -t'").strip() == "2000"
    assert node.call(node.ipvs().sync, state(*ports)).written == 0
    node.call(dataplane.remove)
    assert node.sh("ipvsadm -Sn") == ""


def test_virtual_servers_in_other_network_namespaces_hide_none_of_ours(
    service_node: NodeMaker, one_node: Topology
) -> None:
    node = service_node(one_node)
    others = "for i in $(seq 200); do echo -A -t 10.200.0.$i:80 -s rr; done | ipvsadm -R"
    one_node.run("client1", ["sh", "-ec", others])
    first = ipaddress.ip_address("10.96.16.0")
    ports = [service(str(first + number), 80, node.pods()[:2], name=f"n{number}") for number in range(200)]
    node.call(node.ipvs().sync, state(*ports))
    assert int(node.sh("grep -c ^TCP /proc/net/ip_vs")) < 200, "the kernel's listing is whole: nothing is tried here"
    dataplane = node.ipvs()
    assert node.call(dataplane.sync, state(*ports)).written == 0
    node.call(dataplane.remove)
    assert node.sh("ipvsadm -Sn") == ""


def test_a_sysctl_that_cannot_be_set_is_named(
    service_node: NodeMaker, one_node: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = service_node(one_node)
    monkeypatch.setattr(sysctls, "wanted", lambda release, strict_arp: {"net/ipv4/vs/no_such": "1"})
    with pytest.raises(DataplaneError, match=r"sysctl net\.ipv4\.vs\.no_such must be 1 and cannot be set"):
        node.call(node.ipvs().sync, state(service(VIP, 80, node.pods())))
