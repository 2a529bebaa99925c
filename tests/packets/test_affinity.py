"""Session affinity over time: how long a client stays with its endpoint, and what changes it.

Many Services at once, for each client and Service is a draw of its own: that all of sixteen draw among four endpoints
what they drew before happens by chance once in 4 thousand million times.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from packet_network import Names
from packet_node import NodeUnderTest
from packet_table import FAMILIES, Answered, Options, Server
from packet_wire import Question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packet_node import DataplaneFactory
    from packet_wire import Wire
    from proxymode_testbeds.topology import Topology

SERVICES: Final = 16
PODS: Final = ("local1", "local2", "remote1", "remote2")
LONG_SECONDS: Final = 600
ATTEMPTS: Final = 5

Chosen = dict[tuple[str, str], Server]


def sticky(number: int, seconds: int, pods: tuple[str, ...] = PODS) -> dict[str, Any]:
    return {
        "spec": {
            "clusterIPs": [f"10.96.9.{number}", f"fd96::9{number:02x}"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
            "ports": [{"name": "http", "port": 80}],
        },
        "endpoints": [{"pods": list(pods), "ports": {"http": 8080}}],
    }


def services(seconds: int, pods: tuple[str, ...] = PODS) -> dict[str, dict[str, Any]]:
    return {f"web{number}": sticky(number, seconds, pods) for number in range(1, SERVICES + 1)}


class Client(NamedTuple):
    """`pod`, asking the sticky Services."""

    wire: Wire
    names: tuple[Names, ...]

    def choices(self, wanted: dict[str, dict[str, Any]]) -> Chosen:
        """Which endpoint each Service gives, in each family; fails if one gives several."""
        outcome = Answered(frozenset(Server(pod, 8080) for pod in PODS), sticky=True)
        asked = {}
        for names in self.names:
            names.learn(wanted)
            for name in wanted:
                asked[names.family, name] = Question(names.sender("pod"), names.address(name), 80, "tcp", outcome)
        chosen: Chosen = {}
        for key, seen in zip(asked, self.wire.ask(asked.values()), strict=True):
            servers = {observed.server for observed in seen}
            assert len(servers) == 1, f"{key} changed between {servers}"
            [server] = servers
            assert server is not None, f"{key}: {seen[-1]}"
            chosen[key] = server
        return chosen


def a_timeout(node: NodeUnderTest, client: Client) -> int:
    """As short as this machine can keep affinity up by asking everything in turn; in seconds."""
    wanted = services(LONG_SECONDS)
    node.program(wanted)
    began = time.monotonic()
    client.choices(wanted)
    node.program({})
    return max(2, math.ceil(8 * (time.monotonic() - began)))


@pytest.fixture
def client(topology: Topology, wire: Wire) -> Client:
    return Client(wire, tuple(Names(topology, family) for family in FAMILIES))


@pytest.fixture
def node(topology: Topology, factory: DataplaneFactory) -> Iterator[NodeUnderTest]:
    made = NodeUnderTest(topology, factory, Options())
    yield made
    made.close()


def test_who_goes_on_asking_stays(node: NodeUnderTest, client: Client) -> None:
    seconds = a_timeout(node, client)
    wanted = services(seconds)
    node.program(wanted)
    for _ in range(ATTEMPTS):
        first = client.choices(wanted)
        began = before = time.monotonic()
        while before < began + 2 * seconds:
            again = client.choices(wanted)
            asked, before = time.monotonic() - before, time.monotonic()
            if asked > seconds / 2:
                break  # somebody may have been silent for too long: of no worth, whatever the answers
            assert again == first
        else:
            assert len(set(first.values())) > 1
            return
    pytest.fail(f"{ATTEMPTS} times this machine did not get all questions asked within {seconds / 2} s")


def test_who_is_silent_for_longer_chooses_anew(node: NodeUnderTest, client: Client) -> None:
    seconds = a_timeout(node, client)
    wanted = services(seconds)
    node.program(wanted)
    before = client.choices(wanted)
    time.sleep(seconds + 1.0)  # the time under test itself
    after = client.choices(wanted)
    for family in FAMILIES:
        assert {key: server for key, server in after.items() if key[0] == family} != {
            key: server for key, server in before.items() if key[0] == family
        }


def test_changes_elsewhere_and_restarts_disturb_nobody(node: NodeUnderTest, client: Client) -> None:
    wanted = services(LONG_SECONDS)
    node.program(wanted)
    before = client.choices(wanted)
    other = {"other": sticky(200, LONG_SECONDS)}
    node.program(wanted | other)
    assert client.choices(wanted) == before
    node.program(wanted)
    assert client.choices(wanted) == before
    assert node.restart().written == 0
    assert client.choices(wanted) == before
    more = services(LONG_SECONDS, (*PODS, "local3"))
    node.program(more)
    assert client.choices(wanted) == before
    assert node.restart().written == 0
    node.program(wanted)
    assert client.choices(wanted) == before


def test_only_who_was_on_a_removed_endpoint_moves(node: NodeUnderTest, client: Client) -> None:
    wanted = services(LONG_SECONDS)
    node.program(wanted)
    before = client.choices(wanted)
    gone = Server("remote1", 8080)
    node.program(services(LONG_SECONDS, tuple(pod for pod in PODS if pod != gone.name)))
    after = client.choices(wanted)
    assert gone not in after.values()
    assert {key: server for key, server in before.items() if server != gone} == {
        key: after[key] for key, server in before.items() if server != gone
    }
    node.program(wanted)
    assert client.choices(wanted) == after, "who has moved stays there when the endpoint is back"
