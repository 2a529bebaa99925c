"""What kube-proxy left in a network namespace is found and removed, and nothing else is."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import pytest

from proxymode_agent.takeover import Found, Remains
from proxymode_api.modes import ObservedMode
from proxymode_testbeds.kubeproxy import ProxyMode, Service, Variant, script
from proxymode_testbeds.topology import build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxymode_testbeds.topology import Topology

T = TypeVar("T")

NODE = "node1"
NOTHING = Found(ObservedMode.NONE, rules=False, device=False)
SERVICES = (
    Service("default/web:http", "10.96.0.10", 80, (("10.244.1.2", 8080), ("10.244.1.3", 8080)), node_port=30080),
    Service("default/dns", "10.96.0.11", 53, (("10.244.1.2", 5353),), "udp"),
    Service("default/empty", "10.96.0.12", 81, ()),
    Service("default/web:http", "fd96::10", 80, (("fd10:244:1::2", 8080), ("fd10:244:1::3", 8080)), node_port=30080),
)
KUBELET = """
iptables-{0} -t filter -N KUBE-FIREWALL
iptables-{0} -t filter -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP
iptables-{0} -t filter -I OUTPUT -j KUBE-FIREWALL
iptables-{0} -t mangle -N KUBE-KUBELET-CANARY
iptables-{0} -t mangle -N KUBE-IPTABLES-HINT
"""
STRANGER = """
iptables-{0} -t nat -N CNI-HOSTPORT
iptables-{0} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT
iptables-{0} -t nat -A CNI-HOSTPORT -p tcp --dport 8081 -j DNAT --to-destination 10.244.1.9:80
iptables-{0} -t filter -A FORWARD -s 192.0.2.0/24 -j DROP
"""


class Node:
    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def sh(self, text: str) -> str:
        return self._topology.run(NODE, ["sh", "-e"], input=text).stdout

    def kube_proxy(self, mode: ProxyMode, variant: Variant = Variant.NFT) -> None:
        self.sh(script(mode, SERVICES, node_ips=["192.168.1.1"], cluster_cidrs=["10.244.0.0/16"], variant=variant))

    def saved(self, variant: Variant) -> list[str]:
        """All chains that are not built in and all rules of this iptables, without counters."""
        text = self.sh(f"iptables-{variant}-save; ip6tables-{variant}-save")
        lines = [line.split(" [")[0] for line in text.splitlines()]
        return [line for line in lines if line.startswith("-A") or (line.startswith(":") and line.endswith("-"))]

    def send(self, address: str) -> None:
        """A datagram from the node to itself; the kernel says EPERM where OUTPUT drops it."""

        def call() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", (address, 9))

        self._topology.call(NODE, call)

    def with_remains(self, function: Callable[[Remains], T]) -> T:
        def call() -> T:
            with closing(Remains()) as remains:
                return function(remains)

        return self._topology.call(NODE, call)

    def look(self) -> Found:
        return self.with_remains(Remains.look)

    def remove(self) -> None:
        self.with_remains(Remains.remove)


@pytest.fixture
def node() -> Iterator[Node]:
    with build(make_fleet(nodes=1, pods=0)) as topology:
        yield Node(topology)


def test_a_node_without_kube_proxy_has_nothing_of_it(node: Node) -> None:
    assert node.look() == NOTHING
    node.remove()
    assert node.sh("nft list ruleset") == ""


@pytest.mark.parametrize("variant", Variant)
@pytest.mark.parametrize("forward", ["ACCEPT", "DROP"])
def test_of_mode_iptables_all_goes_and_everybody_elses_rules_stay(node: Node, variant: Variant, forward: str) -> None:
    node.sh(KUBELET.format(variant) + STRANGER.format(variant) + f"iptables-{variant} -P FORWARD {forward}")
    before = node.saved(variant)
    assert node.look() == NOTHING
    node.kube_proxy(ProxyMode.IPTABLES, variant)
    synced = node.saved(variant)
    assert any("KUBE-SVC-" in line for line in synced)
    node.kube_proxy(ProxyMode.IPTABLES, variant)
    assert sorted(node.saved(variant)) == sorted(synced)
    assert node.look() == Found(ObservedMode.KUBE_PROXY_IPTABLES, rules=True, device=False)
    node.remove()
    after = node.saved(variant)
    if forward == "DROP":
        kept = [line for line in after if "KUBE-FORWARD" in line]
        assert len([line for line in kept if line.startswith("-A KUBE-FORWARD") and "ACCEPT" in line]) == 2
        assert "-A FORWARD -m comment --comment kubernetes -j KUBE-FORWARD" in kept
        after = [line for line in after if "KUBE-FORWARD" not in line]
    assert sorted(after) == sorted(before)
    assert node.look() == NOTHING


@pytest.mark.parametrize("variant", Variant)
def test_a_chain_that_somebody_elses_chain_leads_to_stays(node: Node, variant: Variant) -> None:
    node.kube_proxy(ProxyMode.IPTABLES, variant)
    node.sh(STRANGER.format(variant) + f"iptables-{variant} -t nat -A CNI-HOSTPORT -s 192.0.2.0/24 -j KUBE-MARK-MASQ")
    node.remove()
    kube = [line for line in node.saved(variant) if "KUBE" in line]
    assert sorted(kube) == [
        "-A CNI-HOSTPORT -s 192.0.2.0/24 -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        ":KUBE-MARK-MASQ -",
    ]


def test_of_mode_nftables_the_tables_go(node: Node) -> None:
    node.sh("nft add table ip mine; nft add chain ip mine his")
    before = node.sh("nft list ruleset")
    node.kube_proxy(ProxyMode.NFTABLES)
    assert node.look() == Found(ObservedMode.KUBE_PROXY_NFTABLES, rules=True, device=False)
    node.remove()
    assert node.sh("nft list ruleset") == before
    assert node.look() == NOTHING


def test_ipsets_of_kube_proxy_go_also_those_that_a_rule_held_a_moment_before(node: Node) -> None:
    node.sh(
        "ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6\n"
        "ipset create KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6\n"
        "ipset create KUBE-SRC-OFSOMEBODY hash:ip; ipset create mine hash:ip\n"
        "iptables-nft -t nat -N KUBE-SERVICES; iptables-nft -t nat -A PREROUTING -j KUBE-SERVICES\n"
        "iptables-nft -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT"
    )
    assert node.look().rules
    node.remove()
    assert sorted(node.sh("ipset list -n").split()) == ["KUBE-SRC-OFSOMEBODY", "mine"]


def test_an_ipset_that_stays_in_use_is_an_error_that_names_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxymode_agent.takeover.ipsets._BUSY_SECONDS", 0.1)
    node.sh(
        "ipset create KUBE-CLUSTER-IP hash:ip,port\n"
        "iptables-nft -t nat -A PREROUTING -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT"
    )
    with pytest.raises(Exception, match="KUBE-CLUSTER-IP is in use"):
        node.remove()


def test_a_legacy_table_that_was_written_back_does_what_its_rules_say(node: Node) -> None:
    node.kube_proxy(ProxyMode.IPTABLES, Variant.LEGACY)
    node.sh(
        "iptables-legacy -N MINE; iptables-legacy -A MINE -d 127.0.0.7 -j DROP; iptables-legacy -A OUTPUT -j MINE\n"
        "ip link set lo up"
    )
    node.remove()
    with pytest.raises(PermissionError):
        node.send("127.0.0.7")
    node.send("127.0.0.8")
