"""What administrators see: nft lists everything that any case of the table programs, and can read its own words again.

By the machine's nft and by the newest one, that of Debian sid: versions differ in what they can print, and one that
cannot ends with an assertion or prints bytes.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any

from packet_network import MACHINES, Names
from packet_node import NodeUnderTest
from packet_table import FAMILIES, Answered
from packet_wire import Question
from proxymode_agent.services.addresses import packed
from proxymode_testbeds import netns, nft

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packet_node import DataplaneFactory
    from packet_table import Case
    from packet_wire import Wire
    from proxymode_testbeds.topology import Topology

OUT_OF_REGISTERS = "netlink_gen_expr: Assertion `dreg < ctx->reg_low' failed"
"""How nft 1.0.6 dies of every rule with which packets update a map by a key of an IPv6 address and more. It prints them
as later versions do, and those take them back."""


def test_nft_lists_every_kind_of_element(
    topology: Topology, wire: Wire, factory: DataplaneFactory, table: tuple[Case, ...]
) -> None:
    commands = [["nft"], nft.newest()]
    failures: list[str] = []
    for case in table:
        node = NodeUnderTest(topology, factory, case.options)
        try:
            node.program(case.steps[0].services)
            _let_clients_leave_traces(topology, wire, case)
            for command in commands:
                found = _failures(topology, command, _cluster_ips(case))
                failures += [f"{nft.version(command)}: {case.title}: {failure}" for failure in found]
        finally:
            node.close()
    assert not failures, "\n" + "\n".join(failures)


def _failures(topology: Topology, command: list[str], addresses: list[str]) -> Iterator[str]:
    """What is wrong with the lists that this nft prints of node1; `addresses` are to be in them."""
    node = topology.netns("node1")
    elsewhere = topology.netns(MACHINES["blocked"])  # nothing of ours is there
    listed = netns.run(node, [*command, "list", "ruleset"], check=False)
    as_json = netns.run(node, [*command, "-j", "list", "ruleset"], check=False)
    read = netns.run(elsewhere, [*command, "--check", "--file", "-"], input=listed.stdout, check=False)
    if OUT_OF_REGISTERS in read.stderr and nft.version(command).startswith("nftables v1.0.6 "):
        text = _without_updates(listed.stdout)
        read = netns.run(elsewhere, [*command, "--check", "--file", "-"], input=text, check=False)
    for name, done in {"list": listed, "-j list": as_json}.items():
        if done.returncode != 0:
            yield f"nft {name} ends with {done.returncode}: {_brief(done.stderr)}"
    if listed.stderr:
        yield f"nft list says {_brief(listed.stderr)}"
    if read.returncode != 0 or read.stderr:
        yield f"nft --check ends with {read.returncode}: {_brief(read.stderr)}"
    if not listed.stdout.replace("\n", "").replace("\t", "").isprintable():
        yield "nft list prints bytes that are no text"
    if as_json.returncode == 0 and not json.loads(as_json.stdout)["nftables"]:
        yield "nft -j list prints nothing"
    missing = [address for address in addresses if address not in listed.stdout]
    if missing:
        yield f"nft list does not show {', '.join(missing)}"


def _without_updates(listed: str) -> str:
    """What is listed, but for the rules of the IPv6 table with which packets change a map."""
    before, table, ip6 = listed.partition("table ip6 proxymode {\n")
    return before + table + re.sub(r"^.*(update|delete) @.*\n", "", ip6, flags=re.MULTILINE)


def _let_clients_leave_traces(topology: Topology, wire: Wire, case: Case) -> None:
    """Sends what the case sends to sticky Services, so that their maps have elements that the kernel made."""
    questions = []
    for family in FAMILIES:
        names = Names(topology, family)
        names.learn(case.steps[0].services)
        for flow, outcome in case.steps[0].flows.items():
            if isinstance(outcome, Answered) and outcome.sticky:
                to = names.address(flow.address)
                questions.append(Question(names.sender(flow.source), to, flow.port, flow.protocol, outcome))
    wire.ask(questions)


def _cluster_ips(case: Case) -> list[str]:
    services: list[Mapping[str, Any]] = [
        service
        for service in case.steps[0].services.values()
        if not service.get("labels") and service["spec"].get("type") != "ExternalName"
    ]
    specs = [service["spec"] for service in services]
    written = [address for spec in specs for address in spec.get("clusterIPs") or [spec["clusterIP"]]]
    addresses = [packed(address, "", []) for address in written]
    return [str(ipaddress.ip_address(address)) for address in addresses if address is not None]


def _brief(text: str) -> str:
    return " / ".join(text.strip().splitlines()[:4]) or "(nothing on stderr)"
