"""The network that the table's names stand for: node1, which has the dataplane under test, and who is around it.

    local1 … local4, pod   pods of node1; `pod` is never an endpoint
    remote1 … remote3      pods of node2, which has no Service dataplane: what its pods send to Services goes to node1
    node                   a process of node1 that uses its second address, so that masquerading can be told
    client, blocked        machines outside of the cluster, whose way to Services is node1
    balancer               a machine outside to which node1 routes whatever it leaves alone: it has all Service
                           addresses, answers on port 80 and never refuses, so nothing slips through unnoticed

All answers pass node1, also those of remote pods to who was not masqueraded: node2 has routes for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from packet_objects import Place
from packet_table import TableError
from proxymode_testbeds.topology import ClientSpec, Topology, build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxymode_testbeds.topology import NodeSpec, PodSpec

PODS: Final = {
    **{f"local{n}": f"node1-pod{n}" for n in range(1, 5)},
    "pod": "node1-pod5",
    **{f"remote{n}": f"node2-pod{n}" for n in range(1, 4)},
}
MACHINES: Final = {"node": "node1", "client": "client1", "blocked": "client2", "balancer": "client3"}
POD_CIDRS: Final = ("10.244.0.0/16", "fd44::/32")
NODE_POD_CIDRS: Final = ("10.244.1.0/24", "fd44:0:0:1::/64")
SERVICE_CIDRS: Final = ("10.96.0.0/16", "fd96::/112")
_OUTSIDE: Final = ("198.51.100.0/24", "203.0.113.0/24", "2001:db8:51::/64", "2001:db8:113::/64")
SECOND: Final = {"IPv4": "192.168.50.11", "IPv6": "fd50::11"}
_PRIMARY: Final = {"IPv4": "192.168.50.1", "IPv6": "fd50::1"}
_GATEWAY: Final = {"IPv4": "10.244.1.1", "IPv6": "fd44:0:0:1::1"}
_LOOPBACK: Final = {"IPv4": "127.0.0.1", "IPv6": "::1"}
_ON_THE_NODE: Final = {"IPv4": "203.0.113.66", "IPv6": "2001:db8:113::66"}  # for load balancers that SNAT to their own
NODE: Final = {family: frozenset((_PRIMARY[family], SECOND[family], _GATEWAY[family])) for family in _PRIMARY}
POD_INTERFACE: Final = "veth4"  # the node's end of the link of `pod`
_NEVER_REFUSES: Final = """
    table inet silent {
        chain out {
            type filter hook output priority filter;
            tcp flags rst drop
            icmp type destination-unreachable drop
            icmpv6 type destination-unreachable drop
        }
    }
    """


class Sender(NamedTuple):
    """Who sends: a machine or pod of the fleet, and the address it is bound to (None: the kernel's choice)."""

    name: str
    bound: str | None


@contextlib.contextmanager
def network() -> Iterator[Topology]:
    """The fleet, up, with the routes and addresses that the table needs beside the usual ones."""
    fleet = make_fleet(nodes=2, pods=5, clients=3, dual_stack=True)
    clients = tuple(ClientSpec(client.name, client.addresses, "node1") for client in fleet.clients)
    cidrs = tuple(map(ipaddress.ip_network, SERVICE_CIDRS + _OUTSIDE))
    with build(dataclasses.replace(fleet, clients=clients, service_cidrs=cidrs)) as topology:
        balancer = _addresses(fleet.clients[2])
        _ip(topology, "node1", [f"address add {SECOND['IPv4']}/24 dev eth0"])
        # Deprecated (RFC 4862), so that the kernel does not choose it for masquerading.
        _ip(topology, "node1", [f"address add {SECOND['IPv6']}/64 dev eth0 nodad preferred_lft 0"])
        for family, address in _ON_THE_NODE.items():
            suffix = " nodad preferred_lft 0" if family == "IPv6" else ""
            _ip(topology, "node1", [f"address add {address} dev eth0{suffix}"])
        _ip(topology, "node1", [f"route add {cidr} via {balancer[_family(str(cidr))]}" for cidr in cidrs])
        _ip(topology, "client3", [f"route replace local {cidr} dev lo" for cidr in cidrs])
        topology.run("client3", ["nft", "-f", "-"], input=_NEVER_REFUSES)
        for other in ("client3", "node2"):
            _ip(topology, other, [f"route replace {cidr} via {_primary(cidr)}" for cidr in NODE_POD_CIDRS])
        _ip(topology, "node2", [f"route add {cidr} via {_primary(str(cidr))}" for cidr in cidrs])
        back = [str(address) for client in fleet.clients[:2] for address in client.addresses]
        _ip(topology, "node2", [f"route add {address} via {_primary(address)}" for address in back])
        for part in fleet.parts():
            # Every refusal is to arrive: the kernel sends one ICMP error a second to an address.
            topology.run(part.name, ["sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"])
        yield topology


def places(topology: Topology) -> dict[str, Place]:
    """What can be an endpoint, by its name in the table: pods, the node itself (a pod on the host's network), and the
    balancer (an endpoint outside of the cluster)."""
    found = {
        "node": Place("node1", _PRIMARY),
        "balancer": Place(None, _addresses(topology.fleet.clients[2])),
    }
    for node in topology.fleet.nodes:
        by_name = {pod.name: pod for pod in node.pods}
        for name, of_fleet in PODS.items():
            if of_fleet in by_name:
                found[name] = Place(node.name, _addresses(by_name[of_fleet]))
    return found


class Names:
    """What the table's names mean in one address family, given the Services. Raises TableError for a name that means
    nothing. A Service that was deleted keeps its addresses."""

    def __init__(self, topology: Topology, family: str) -> None:
        self.family = family
        self._pods = {name: places(topology)[name].addresses[family] for name in PODS}
        self._machines = {
            name: _addresses(part)[family]
            for name, of_fleet in MACHINES.items()
            for part in topology.fleet.parts()
            if part.name == of_fleet
        }
        self._services: dict[str, Mapping[str, Any]] = {}

    def learn(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        """The Services as they are now."""
        self._services.update(services)

    def address(self, name: str) -> str:
        """The destination address of that name."""
        if "," in name:
            return self._one(name, name.split(","))
        fixed = {
            "node.second": SECOND[self.family],
            "node.pods": _GATEWAY[self.family],
            "localhost": _LOOPBACK[self.family],
        }
        for known in (fixed, self._machines, self._pods):
            if name in known:
                return known[name]
        service, _, kind = name.partition(".")
        if service not in self._services:
            raise TableError(f"{name!r}: no such Service, pod or machine")
        spec = self._services[service]["spec"]
        ingress = self._services[service].get("status", {}).get("loadBalancer", {}).get("ingress", [])
        sources = {
            "": spec.get("clusterIPs", []),
            "external": spec.get("externalIPs", []),
            "lb": [point["ip"] for point in ingress if "ip" in point],
        }
        word = kind.rstrip("23")
        if word not in sources:
            raise TableError(f"{name!r}: a Service has .external and .lb addresses, .lb2 is the second one")
        return self._one(name, sources[word], int(kind[len(word) :] or 1))

    def sender(self, name: str) -> Sender:
        """Who sends under that name: `node@web.lb` is a process of the node bound to that address."""
        who, _, bound = name.partition("@")
        if bound:
            return Sender(MACHINES[who], self.address(bound))
        if who == "node":
            return Sender("node1", SECOND[self.family])
        if who not in PODS | MACHINES:
            raise TableError(f"{name!r} sends nothing: no such pod or machine")
        return Sender((PODS | MACHINES)[who], None)

    def own(self, name: str) -> frozenset[str]:
        """The addresses that an answerer sees of who sends under that name, if nobody masquerades."""
        bound = self.sender(name).bound
        return frozenset((bound or (self._pods | self._machines)[name],))

    def _one(self, name: str, candidates: list[str], number: int = 1) -> str:
        of_family = [text for text in candidates if (":" in text) is (self.family == "IPv6")]
        if len(of_family) < number:
            raise TableError(f"{name!r}: has no such {self.family} address")
        return of_family[number - 1]


def _addresses(part: NodeSpec | PodSpec | ClientSpec) -> dict[str, str]:
    return {f"IPv{address.version}": str(address) for address in part.addresses}


def _primary(text: str) -> str:
    return _PRIMARY[_family(text)]


def _family(text: str) -> str:
    return "IPv6" if ":" in text else "IPv4"


def _ip(topology: Topology, name: str, lines: list[str]) -> None:
    topology.run(name, ["ip", "-batch", "-"], input="".join(f"{line}\n" for line in lines))
