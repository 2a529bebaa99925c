"""UDP clients that send from one port, while the endpoints behind a Service come and go: the end-to-end tests of
Kubernetes (test/e2e/network/conntrack.go) and more of their kind.

What conntrack remembers of such a client must never lead to a pod that is gone, nor away from one that is there.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from packet_network import NODE, Names
from packet_node import NodeUnderTest
from packet_table import FAMILIES, Answered, Options, Refusal, Server, wrong
from packet_wire import Question
from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packet_node import DataplaneFactory
    from packet_table import Outcome
    from packet_wire import Wire
    from proxymode_testbeds.topology import Topology

REJECTED, DROPPED = Refusal.REJECTED, Refusal.DROPPED
UNREADY: Final = {"ready": False, "serving": False, "terminating": False}
DRAINING: Final = {"ready": False, "serving": True, "terminating": True}
ENDED: Final = {"ready": False, "serving": False, "terminating": True}
SPEC: Final = {
    "type": "NodePort",
    "clusterIPs": ["10.96.6.10", "fd96::610"],
    "externalIPs": ["198.51.100.60", "2001:db8:51::60"],
    "ports": [{"port": 80, "protocol": "UDP", "nodePort": 30080}],
}
INTERNAL_LOCAL: Final = {"internalTrafficPolicy": "Local"}
EXTERNAL_LOCAL: Final = {"externalTrafficPolicy": "Local"}

ports_used = count(61000)  # beyond those that the wire uses each once


class Step(NamedTuple):
    """Endpoints, and what the client then hears, always from one port of its; `in_ipvs` where that mode differs."""

    pods: tuple[str | dict[str, Any], ...]
    outcome: Outcome
    port: int = 8080
    in_ipvs: Outcome | None = None


def by(pod: str, *, masq: bool = False, port: int = 8080) -> Answered:
    servers = frozenset([Server(pod, port)])
    return Answered(servers, servers if masq else frozenset())


def cycle(*, masq: bool) -> tuple[Step, ...]:
    """A pod comes, is joined by another one, and goes."""
    return (
        Step((), REJECTED),
        Step(("local1",), by("local1", masq=masq)),
        Step(("local1", "remote1"), by("local1", masq=masq)),
        Step(("remote1",), by("remote1", masq=masq)),
        Step((), REJECTED),
        Step(("local2",), by("local2", masq=masq)),
    )


SCENARIOS: Final[dict[str, tuple[str, dict[str, str], tuple[Step, ...]]]] = {
    "the pods of a ClusterIP cycle": ("pod -> web:80", {}, cycle(masq=False)),
    "the pods of a ClusterIP cycle, the client is on the host's network": ("node -> web:80", {}, cycle(masq=True)),
    "the pods of a NodePort cycle": ("client -> node:30080", {}, cycle(masq=True)),
    "the pods of a NodePort cycle, the client is a pod": ("pod -> node:30080", {}, cycle(masq=True)),
    "the pods of an external IP cycle": ("client -> web.external:80", {}, cycle(masq=True)),
    "the pods of internalTrafficPolicy Local cycle": (
        "pod -> web:80",
        INTERNAL_LOCAL,
        (
            Step(("local1",), by("local1")),
            Step(("local1", "remote1"), by("local1")),
            Step(("remote1",), DROPPED),
            Step(("local2", "remote1"), by("local2")),
            Step((), REJECTED),
            Step(("local3",), by("local3")),
        ),
    ),
    "the pods of externalTrafficPolicy Local cycle": (
        "client -> node:30080",
        EXTERNAL_LOCAL,
        (
            Step(("local1", "remote1"), by("local1")),
            Step(("remote1",), DROPPED),
            Step(("local2", "remote1"), by("local2")),
            Step((), REJECTED),
            Step(("local3",), by("local3")),
        ),
    ),
    "the first pod is not ready at first": (
        "pod -> web:80",
        {},
        (
            Step((), REJECTED),
            Step(({"pod": "local1", "conditions": UNREADY},), REJECTED),
            Step(("local1",), by("local1")),
        ),
    ),
    "the target port changes": (
        "client -> node:30080",
        {},
        (
            Step(("local1",), by("local1", masq=True)),
            Step(("local1",), by("local1", masq=True, port=8443), port=8443),
            Step(("local1",), by("local1", masq=True)),
        ),
    ),
    "a pod stops being ready, and is again": (
        "pod -> web:80",
        {},
        (
            Step(("local1",), by("local1")),
            Step(({"pod": "local1", "conditions": UNREADY}, "remote1"), by("remote1")),
            Step(("local1", {"pod": "remote1", "conditions": UNREADY}), by("local1")),
        ),
    ),
    "a pod ends": (
        "pod -> web:80",
        {},
        (
            Step(("local1",), by("local1")),
            Step(({"pod": "local1", "conditions": DRAINING}, "remote1"), by("local1"), in_ipvs=by("remote1")),
            Step(({"pod": "local1", "conditions": ENDED}, "remote1"), by("remote1")),
        ),
    ),
}


@pytest.fixture(scope="module")
def node(topology: Topology, factory: DataplaneFactory) -> Iterator[NodeUnderTest]:
    made = NodeUnderTest(topology, factory, Options())
    yield made
    made.close()


@pytest.mark.parametrize(("flow", "policies", "steps"), SCENARIOS.values(), ids=SCENARIOS)
def test_a_client_that_sends_from_one_port_hears_of_pods_that_are_there(
    topology: Topology,
    wire: Wire,
    node: NodeUnderTest,
    factory: DataplaneFactory,
    flow: str,
    policies: dict[str, str],
    steps: tuple[Step, ...],
) -> None:
    sender, _, destination = flow.partition(" -> ")
    name, _, port = destination.rpartition(":")
    source_ports = {family: next(ports_used) for family in FAMILIES}
    names = [Names(topology, family) for family in FAMILIES]
    for number, step in enumerate(steps):
        outcome = step.in_ipvs if factory is IpvsDataplane and step.in_ipvs is not None else step.outcome
        services = {"web": {"spec": SPEC | policies, "endpoints": [_slice(step.pods, step.port)]}}
        assert node.program(services).refused == ()
        questions = []
        for of_family in names:
            of_family.learn(services)
            questions.append(
                Question(
                    of_family.sender(sender),
                    of_family.address(name),
                    int(port),
                    "udp",
                    outcome,
                    source_ports[of_family.family],
                )
            )
        for of_family, seen in zip(names, wire.ask(questions), strict=True):
            found = wrong(outcome, seen, of_family.own(sender), NODE[of_family.family])
            assert found is None, f"step {number}, {of_family.family}: {found}, should be {outcome}"


def _slice(pods: tuple[str | dict[str, Any], ...], port: int) -> dict[str, Any]:
    return {"pods": list(pods), "ports": {"": f"{port}/udp"}}


@pytest.mark.parametrize("octets", [2000, 8000])
def test_a_datagram_longer_than_a_packet_gets_there_and_is_answered_alike(
    topology: Topology, wire: Wire, node: NodeUnderTest, factory: DataplaneFactory, octets: int
) -> None:
    """The end-to-end test "should be able to handle large requests: udp"; in ipvs mode not from the node itself."""
    services = {"web": {"spec": SPEC, "endpoints": [_slice(("local1",), 8080)]}}
    assert node.program(services).refused == ()
    flows = {
        ("pod", "web", 80): by("local1"),
        ("node", "web", 80): by("local1", masq=True),
        ("local1", "web", 80): by("local1", masq=True),
        ("client", "node", 30080): by("local1", masq=True),
        ("client", "web.external", 80): by("local1", masq=True),
    }
    if factory is IpvsDataplane:
        del flows["node", "web", 80]
    for family in FAMILIES:
        names = Names(topology, family)
        names.learn(services)
        questions = [
            Question(names.sender(sender), names.address(address), port, "udp", outcome, octets=octets)
            for (sender, address, port), outcome in flows.items()
        ]
        for flow, outcome, seen in zip(flows, flows.values(), wire.ask(questions), strict=True):
            found = wrong(outcome, seen, names.own(flow[0]), NODE[family])
            assert found is None, f"{family}: {flow}: {found}, should be {outcome}"
