"""One node of a fleet whose Services a test programs by hand: what the engine does in an agent."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, TypeVar
from typing import Protocol as Interface

import pytest

from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane
from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    PodNetworks,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from proxymode_testbeds.topology import Topology

ANSWER_SECONDS = 20.0  # a deadline under emulation, not an estimate
T = TypeVar("T")

VIP, VIP6 = "10.96.0.10", "fd96::10"


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def service(
    vip: str,
    port: int,
    backends: Collection[str],
    *,
    target: int = 8080,
    protocol: Protocol = Protocol.TCP,
    node_port: int | None = None,
    name: str = "web",
    **fields: Any,
) -> ServicePort:
    """A Service port of one family, with these addresses as endpoints, any of which may be on the node; `fields` are
    ServicePort's."""
    family = Family(len(packed(vip)))
    return ServicePort(
        ServicePortName("default", name, f"{protocol.name.lower()}-{port}", protocol, family),
        Frontend(packed(vip), protocol, port),
        tuple(sorted(Endpoint(packed(backend), target) for backend in backends)),
        node_port,
        hairpin=tuple(sorted(map(packed, backends))),
        **fields,
    )


def state(*ports: ServicePort) -> ServiceState:
    return ServiceState({port.name: port for port in ports})


class ServiceNode:
    """Calls things in the network namespace of `node1`. `options` are DataplaneConfig's, beside the fleet's own."""

    def __init__(self, stack: contextlib.ExitStack, topology: Topology, options: dict[str, Any]) -> None:
        self._stack = stack
        self.topology = topology
        self.name = "node1"
        self.options = options

    @property
    def config(self) -> DataplaneConfig:
        fleet = self.topology.fleet
        defaults: dict[str, Any] = {
            "pods": PodNetworks(tuple(cidr for node in fleet.nodes for cidr in node.pod_cidrs)),
            "node_ips": tuple(address.packed for address in fleet.node(self.name).addresses),
        }
        return DataplaneConfig(**(defaults | self.options))

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self.topology.call(self.name, function, *args)

    def sh(self, script: str) -> str:
        """What a shell script in the node's namespace prints."""
        return self.topology.run(self.name, ["sh", "-ec", script]).stdout

    def ipvs(self) -> IpvsDataplane:
        """A new one, closed when the test ends."""
        return self._stack.enter_context(contextlib.closing(self.call(IpvsDataplane, self.config)))

    def pods(self, version: int = 4) -> list[str]:
        """The addresses of all pods of the fleet."""
        return [
            str(address)
            for node in self.topology.fleet.nodes
            for pod in node.pods
            for address in pod.addresses
            if address.version == version
        ]

    def address(self, version: int = 4) -> str:
        addresses = self.topology.fleet.node(self.name).addresses
        return next(str(address) for address in addresses if address.version == version)

    def snapshot(self) -> list[str]:
        """Everything in the node's kernel that a Service dataplane may touch, to compare: order does not count.

        What the kernel does for a link by itself, its state and routes, comes some time after the link; a scheduler's
        sysctls come with its module, whoever else asked for that.
        """
        lines = self.sh(
            "ipvsadm -Sn; { ip -br address | awk '{$2 = \"\"; print}'; ip route show table all; "
            "ip -6 route show table all; } | "
            "sed -E 's,fe80::[^ ]*/64,,' | grep -vE 'fe80::|multicast|dev (veth|eth)[^ ]* .*proto kernel'; "
            "sysctl -a 2>/dev/null | grep -E '^net.ipv4.(vs|ip_forward|conf.all.arp_)' | grep -v '_expiration ' || true"
        ).splitlines()
        words = self.sh("nft list ruleset").replace(",", " ").split()
        return sorted(" ".join(sorted(line.split())) for line in lines) + sorted(words)


def connect(address: str, port: int) -> socket.socket:
    """A connection from a port that no other of the namespace has: see docs/behaviour.md, "from one port"."""
    return socket.create_connection((address, port), ANSWER_SECONDS, ("", 0))


class Idle:
    """Connections that say nothing until they are asked: those that only conntrack and IPVS remember."""

    def __init__(self, node: ServiceNode) -> None:
        self._node = node
        self._open: list[tuple[str, socket.socket]] = []

    def open(self, number: int) -> None:
        """So many more, each from everywhere: outside, the node, a pod, a pod that may meet itself, by NodePort."""
        node = self._node
        for name, address, port in (
            ("client1", VIP, 80),
            ("node1", VIP, 80),
            ("node1", VIP6, 80),
            ("node1-pod3", VIP6, 80),
            ("node1-pod1", VIP, 80),
            ("client1", node.address(4), 30080),
            ("node1-pod3", node.address(6), 30080),
        ):
            for _ in range(number):
                connection = node.topology.call(name, connect, address, port)
                self._open.append((f"{name} to {address} port {port}", connection))
        assert self.broken() == []

    @property
    def number(self) -> int:
        return len(self._open)

    def broken(self) -> list[str]:
        """Asks each connection once; those that do not answer, and why. They are not asked again."""
        found: list[str] = []
        alive: list[tuple[str, socket.socket]] = []
        for name, connection in self._open:
            try:
                connection.sendall(b"?\n")
                answer = connection.recv(1024)
                if not answer:
                    raise ConnectionResetError("closed")
                alive.append((name, connection))
            except OSError as error:
                found.append(f"{name}: {error}")
                connection.close()
        self._open = alive
        return found

    def close(self) -> None:
        for _, connection in self._open:
            connection.close()


class NodeMaker(Interface):
    def __call__(self, topology: Topology, **options: Any) -> ServiceNode: ...


@pytest.fixture
def service_node() -> Iterator[NodeMaker]:
    """Makes a ServiceNode: `service_node(one_node, masquerade_all=True)`."""
    with contextlib.ExitStack() as stack:

        def make(topology: Topology, **options: Any) -> ServiceNode:
            return ServiceNode(stack, topology, options)

        yield make
