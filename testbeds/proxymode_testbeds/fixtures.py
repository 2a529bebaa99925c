"""pytest fixtures for tests with real packets: a small fleet, and traffic in it.

A conftest takes them by importing their names. Everything started through them has ended when the test ends.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Literal, Protocol

import pytest

from proxymode_testbeds.topology import Topology, build, make_fleet
from proxymode_testbeds.traffic.ask import ANSWER_SECONDS, Answer, ask
from proxymode_testbeds.traffic.processes import TrafficProcess, client_command, server_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class FleetMaker(Protocol):
    def __call__(self, *, nodes: int, pods: int, clients: int = 1, dual_stack: bool = False) -> Topology: ...


@pytest.fixture
def node_fleet() -> Iterator[FleetMaker]:
    """Makes a fleet as `make_fleet` describes it: `node_fleet(nodes=3, pods=2, dual_stack=True)`."""
    with contextlib.ExitStack() as stack:

        def make(*, nodes: int, pods: int, clients: int = 1, dual_stack: bool = False) -> Topology:
            fleet = make_fleet(nodes=nodes, pods=pods, clients=clients, dual_stack=dual_stack)
            return stack.enter_context(build(fleet))

        yield make


@pytest.fixture
def one_node(node_fleet: FleetMaker) -> Topology:
    """node1 with node1-pod1 to -pod3, and client1 outside."""
    return node_fleet(nodes=1, pods=3)


@pytest.fixture
def two_nodes(node_fleet: FleetMaker) -> Topology:
    """node1 and node2 with two pods each, and client1 outside, whose way to Services is node1."""
    return node_fleet(nodes=2, pods=2)


PATIENCE_SECONDS = 30.0
"""After which an answer is given up. On a busy or emulated machine what is slow is not lost; what is lost stays
away for good."""


class Traffic:
    """Starts servers and clients in a fleet's namespaces."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def serve(self, topology: Topology, pod: str, *, tcp: int | None = 8080, udp: int | None = 5353) -> TrafficProcess:
        """A backend that answers with the pod's name; returns when it listens."""
        server = self._start(topology, pod, server_command(pod, tcp=tcp, udp=udp))
        server.wait_for("ready")
        return server

    def serve_all(self, topology: Topology, *, tcp: int = 8080, udp: int = 5353) -> dict[str, TrafficProcess]:
        """A backend in every pod, by the pod's name."""
        servers = {
            pod.name: self._start(topology, pod.name, server_command(pod.name, tcp=tcp, udp=udp))
            for node in topology.fleet.nodes
            for pod in node.pods
        }
        for server in servers.values():
            server.wait_for("ready")
        return servers

    def talk(self, topology: Topology, name: str, address: str, **load: float | bool | None) -> TrafficProcess:
        """A client in the namespace of `name`; returns when its long-lived connections are established.

        `load` as for :func:`client_command`: tcp=80, established=20, new_rate=10, ...; its timeout is PATIENCE_SECONDS
        unless it says another.
        """
        client = self._start(topology, name, client_command(address, **{"timeout": PATIENCE_SECONDS, **load}))
        client.wait_for("ready")
        return client

    def talk_all(
        self, topology: Topology, clients: Iterable[tuple[str, str, dict[str, float]]]
    ) -> list[TrafficProcess]:
        """Several clients at once, as :meth:`talk` starts one: who, to which address, with which load."""
        running = [
            self._start(topology, name, client_command(address, **{"timeout": PATIENCE_SECONDS, **load}))
            for name, address, load in clients
        ]
        for client in running:
            client.wait_for("ready")
        return running

    def ask(
        self,
        topology: Topology,
        name: str,
        address: str,
        port: int,
        protocol: Literal["tcp", "udp"] = "tcp",
        *,
        timeout: float = ANSWER_SECONDS,
    ) -> Answer:
        """Who answers one question from the namespace of `name`, and whom it saw; raises as :func:`ask`."""
        return topology.call(name, ask, address, port, protocol, timeout=timeout)

    def _start(self, topology: Topology, name: str, command: list[str]) -> TrafficProcess:
        process = topology.popen(name, command, stdout=subprocess.PIPE)
        return self._stack.enter_context(TrafficProcess(process))


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """Backends and clients that end with the test, before its fleet does if the test asked for the fleet first."""
    with contextlib.ExitStack() as stack:
        yield Traffic(stack)
