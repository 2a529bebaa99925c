"""The agent as a process in ipvs mode, and its change of mode from one start to the next."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from proxymode_testbeds.agentbed import (
    NODE_PORT,
    WEB,
    WEB6,
    agent,
    api,
    apply,
    eventually,
    kubeconfig,
    node,
    relay,
    ruleset,
    set_up_cluster,
    slices,
)

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]

BACKENDS = {"node1-pod1", "node1-pod2"}


def dataplane(node: Topology) -> dict[str, str]:
    """All that either mode may leave in node1."""
    return {
        "nf_tables": ruleset(node),
        "ip_vs": virtual_servers(node.run("node1", ["cat", "/proc/net/ip_vs"]).stdout),
        "links": node.run("node1", ["ip", "-oneline", "link", "show", "type", "dummy"]).stdout,
        "addresses": node.run("node1", ["ip", "-brief", "address"]).stdout,
        "rules": node.run("node1", ["ip", "rule"]).stdout,
    }


def virtual_servers(listing: str) -> str:
    """Each real server behind its virtual server, without connection counts. Sorted: the kernel has them in the order
    in which they were made."""
    found: list[str] = []
    service = ""
    for line in listing.splitlines()[3:]:
        if "->" not in line:
            service = line.strip()
        found.append(service if "->" not in line else f"{service} {' '.join(line.split()[:4])}")
    return "\n".join(sorted(found))


def nameless(found: dict[str, str]) -> dict[str, str]:
    """Without handles, interface numbers and MAC addresses, which are new for everything that was made anew."""
    new = re.compile(r" # handle \d+|^\d+: |link/ether \S+", re.MULTILINE)
    return {what: new.sub("", text) for what, text in found.items()}


def _runs(agent: Agent, mode: str) -> bool:
    return agent.mode() == mode


async def test_ipvs_mode_from_start_to_clean_up_and_another_mode_at_the_next_start(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    """One story, since in an emulated guest every start of a process takes its time."""
    await set_up_cluster(api, node, traffic, "node1-pod1", "node1-pod2")
    before = dataplane(node)
    agent.start(mode="ipvs")
    for caller in ("node1-pod3", "node1-pod1", "node1", "client1"):
        assert traffic.ask(node, caller, WEB, 80).server in BACKENDS
    assert traffic.ask(node, "client1", WEB6, 80).server in BACKENDS
    assert traffic.ask(node, "client1", WEB, 53, "udp").server in BACKENDS
    assert traffic.ask(node, "client1", node.fleet.nodes[0].address, NODE_PORT).server in BACKENDS
    assert agent.metric("services") == 4
    programmed = dataplane(node)

    assert agent.stop() == 0
    assert dataplane(node) == programmed
    assert traffic.ask(node, "client1", WEB, 80).server in BACKENDS
    agent.start(mode="ipvs")
    assert agent.metric("sync_written_objects_total") == 0
    assert dataplane(node) == programmed

    load = traffic.talk(node, "client1", WEB, tcp=80, established=0, new_rate=5)
    for mode in ("nftables", "ipvs"):
        assert agent.stop() == 0
        agent.start(mode=mode)
        eventually(partial(_runs, agent, mode), agent)
        assert traffic.ask(node, "client1", WEB, 80).server in BACKENDS
    result = load.stop()
    assert result["new"] > 0
    assert result["failed"] == 0, result
    assert nameless(dataplane(node)) == nameless(programmed), "there and back leaves nothing behind"
    await apply(api, *slices(node, "node1-pod3"))
    eventually(lambda: traffic.ask(node, "client1", WEB, 80).server == "node1-pod3", agent)

    assert agent.stop() == 0
    agent.clean_up()
    assert dataplane(node) == before
