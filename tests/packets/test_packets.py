"""Every case of cases/: the Services are programmed, packets sent, in IPv4 and IPv6, and answers compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packet_network import NODE, Names
from packet_node import NodeUnderTest
from packet_table import wrong
from packet_wire import Question

if TYPE_CHECKING:
    from packet_node import DataplaneFactory
    from packet_table import Case
    from packet_wire import Wire
    from proxymode_testbeds.topology import Topology


def test_packets_go_where_the_table_says(topology: Topology, wire: Wire, factory: DataplaneFactory, case: Case) -> None:
    node = NodeUnderTest(topology, factory, case.options)
    names = [Names(topology, family) for family in case.families]
    failures: list[str] = []
    try:
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
    finally:
        node.close()
    assert not failures, "\n" + "\n".join(failures)
