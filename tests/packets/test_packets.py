"""Every case of cases/: the Services are programmed, packets sent, in IPv4 and IPv6, and answers compared."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from packet_network import NODE, Names
from packet_node import NodeUnderTest
from packet_table import wrong
from packet_wire import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from packet_node import DataplaneFactory
    from packet_table import Case, Options
    from packet_wire import Wire
    from proxymode_testbeds.topology import Topology


@pytest.fixture(scope="module")
def nodes(topology: Topology, factory: DataplaneFactory) -> Iterator[Nodes]:
    """The node under test. It changes from one case's Services to the next one's, as a cluster does, and begins anew
    only where it is told other options."""
    made = Nodes(partial(NodeUnderTest, topology, factory))
    yield made
    made.close()


class Nodes:
    """The one node that there is at a time, by its options."""

    def __init__(self, make: Callable[[Options], NodeUnderTest]) -> None:
        self._make = make
        self._node: NodeUnderTest | None = None
        self._options: Options | None = None

    def get(self, options: Options) -> NodeUnderTest:
        if self._node is None or self._options != options:
            self.close()
            self._node, self._options = self._make(options), options
        return self._node

    def close(self) -> None:
        """Takes everything away."""
        node, self._node = self._node, None
        if node is not None:
            node.close()


def test_packets_go_where_the_table_says(topology: Topology, wire: Wire, nodes: Nodes, case: Case) -> None:
    node = nodes.get(case.options)
    names = [Names(topology, family) for family in case.families]
    failures: list[str] = []
    for step in case.steps:
        assert node.program(step.services).refused == ()
        asked = []
        for name in names:
            name.learn(step.services)
            for flow, outcome in step.flows.items():
                to = name.address(flow.address)
                question = Question(name.sender(flow.source), to, flow.port, flow.protocol, outcome)
                asked.append((name, flow, outcome, question))
        seen = wire.ask(question for *_, question in asked)
        for (name, flow, outcome, _), observed in zip(asked, seen, strict=True):
            found = wrong(outcome, observed, name.own(flow.source), NODE[name.family])
            if found is not None:
                failures.append(f"{step.title}: {name.family}: {flow} is {found}, should be {outcome}")
        if node.restart().written:
            failures.append(f"{step.title}: a restart of the agent would write to the kernel")
    assert not failures, "\n" + "\n".join(failures)
