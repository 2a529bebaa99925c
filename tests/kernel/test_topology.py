"""The fleet's network carries packets as a cluster's does, traffic is measured truly, and nothing stays behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxymode_testbeds import netns
from proxymode_testbeds.topology import Topology, build, make_fleet
from proxymode_testbeds.topology.build import no_newcomers
from proxymode_testbeds.traffic.ask import Answer

if TYPE_CHECKING:
    from proxymode_testbeds.fixtures import FleetMaker, Traffic

DEADLINE_SECONDS = 60.0


def test_pods_reach_pods_of_other_nodes_under_their_own_address(node_fleet: FleetMaker, traffic: Traffic) -> None:
    topology = node_fleet(nodes=2, pods=1, dual_stack=True)
    traffic.serve(topology, "node2-pod1")
    caller, target = (topology.fleet.nodes[index].pods[0] for index in (0, 1))
    for source, address in zip(caller.addresses, target.addresses, strict=True):
        expected = Answer("node2-pod1", str(source))
        assert traffic.ask(topology, caller.name, str(address), 8080, "tcp") == expected
        assert traffic.ask(topology, caller.name, str(address), 5353, "udp") == expected


def test_nodes_reach_their_own_and_other_nodes_pods(two_nodes: Topology, traffic: Traffic) -> None:
    traffic.serve(two_nodes, "node2-pod1")
    address = two_nodes.fleet.nodes[1].pods[0].address
    assert traffic.ask(two_nodes, "node1", address, 8080).server == "node2-pod1"
    assert traffic.ask(two_nodes, "node2", address, 8080).server == "node2-pod1"


def test_a_client_outside_sends_service_traffic_to_its_node(two_nodes: Topology, traffic: Traffic) -> None:
    """A Service made by hand on node1, with a backend on node2: DNAT and masquerade, as any dataplane does it."""
    traffic.serve(two_nodes, "node2-pod1")
    node, pod = two_nodes.fleet.nodes[0], two_nodes.fleet.nodes[1].pods[0]
    script = f"""
        table ip service {{
            chain in {{
                type nat hook prerouting priority dstnat;
                ip daddr 10.96.0.10 tcp dport 80 dnat to {pod.address}:8080
            }}
            chain out {{
                type nat hook postrouting priority srcnat;
                ct status dnat masquerade
            }}
        }}
        """
    two_nodes.run("node1", ["nft", "-f", "-"], input=script)
    assert traffic.ask(two_nodes, "client1", "10.96.0.10", 80) == Answer("node2-pod1", node.address)


def test_a_stopped_backend_is_seen_as_lost_and_refused(one_node: Topology, traffic: Traffic) -> None:
    backend, caller = one_node.fleet.nodes[0].pods[:2]
    server = traffic.serve(one_node, backend.name)
    client = traffic.talk(one_node, caller.name, backend.address, tcp=8080, established=5, new_rate=10, interval=0.05)
    server.stop()
    client.wait_for("second", lambda counters: counters["lost"] == 5 and counters["failed"] > 0)
    result = client.stop()
    assert result["established"] == 5
    assert result["alive"] == 0
    assert result["lost"] == 5
    assert set(result["lost_reasons"]) <= {"eof", "reset"}
    assert set(result["failed_reasons"]) <= {"refused", "eof", "reset"}
    assert set(result["backends"]["established"]) == {backend.name}


def test_dropped_packets_are_seen_as_stalls_and_timeouts(one_node: Topology, traffic: Traffic) -> None:
    backend, caller = one_node.fleet.nodes[0].pods[:2]
    traffic.serve(one_node, backend.name)
    client = traffic.talk(
        one_node,
        caller.name,
        backend.address,
        tcp=8080,
        udp=5353,
        established=5,
        new_rate=10,
        udp_rate=10,
        timeout=2,
    )
    client.wait_for("second", lambda counters: counters["udp_answered"] > 0)
    rule = "table inet deaf { chain in { type filter hook input priority 0; policy drop; }\n}\n"
    one_node.run(backend.name, ["nft", "-f", "-"], input=rule)
    client.wait_for("second", lambda counters: counters["lost"] == 5 and counters["udp_lost"] > 0)
    result = client.stop()
    assert result["lost_reasons"] == {"stall": 5}
    assert set(result["failed_reasons"]) == {"timeout"}
    assert set(result["udp_lost_reasons"]) == {"timeout"}
    assert result["new"] == result["backends"]["new"][backend.name] + result["failed"]
    assert result["udp_sent"] == result["udp_answered"] + result["udp_lost"]


def test_a_lost_connection_is_reopened_if_asked(one_node: Topology, traffic: Traffic) -> None:
    backend, caller = one_node.fleet.nodes[0].pods[:2]
    server = traffic.serve(one_node, backend.name)
    client = traffic.talk(one_node, caller.name, backend.address, tcp=8080, established=3, reopen=True)
    server.stop()
    traffic.serve(one_node, backend.name)
    client.wait_for("second", lambda counters: counters["lost"] == 3 and counters["alive"] == 3)
    result = client.stop()
    assert (result["established"], result["lost"], result["reopened"]) == (3, 3, 3)


def test_nothing_stays_behind() -> None:
    with build(make_fleet(nodes=2, pods=1)) as topology:
        names = [topology.netns(part.name) for part in topology.fleet.parts()]
        sleeper = topology.popen("node1", ["sleep", "1000"])
    assert sleeper.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    assert not [name for name in names if (netns.FOLDER / name).exists()]


def test_what_a_killed_run_left_behind_goes_with_the_next(node_fleet: FleetMaker) -> None:
    command = [sys.executable, "-m", "proxymode_testbeds.topology", "--nodes", "1", "--pods", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        names: dict[str, str] = json.loads(holder.stdout.readline())
        sleeper = netns.popen(names["node1-pod1"], ["sleep", "1000"])
        with no_newcomers():
            holder.kill()
            holder.wait()
            assert all((netns.FOLDER / name).exists() for name in names.values())

    node_fleet(nodes=1, pods=1)

    assert sleeper.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    assert not [name for name in names.values() if (netns.FOLDER / name).exists()]


def test_a_living_neighbour_is_left_alone(one_node: Topology, node_fleet: FleetMaker, traffic: Traffic) -> None:
    backend = one_node.fleet.nodes[0].pods[0]
    traffic.serve(one_node, backend.name)
    node_fleet(nodes=1, pods=1)
    assert traffic.ask(one_node, "node1", backend.address, 8080).server == backend.name


def test_a_failed_command_says_what_it_said(one_node: Topology) -> None:
    with pytest.raises(netns.CommandError, match=r"exit status 3.*stderr: no such thing"):
        one_node.run("node1", ["sh", "-c", "echo no such thing >&2; exit 3"])
