"""The agent as a process puts back what others take, long before it would read the kernel back by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxymode_testbeds.agentbed import (
    WEB,
    agent,
    api,
    eventually,
    kubeconfig,
    node,
    relay,
    ruleset,
    set_up_cluster,
)

if TYPE_CHECKING:
    from proxymode_testbeds.agentbed import Agent
    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.fixtures import Traffic
    from proxymode_testbeds.topology import Topology

__all__ = ["agent", "api", "kubeconfig", "node", "relay"]


async def test_what_others_take_is_put_back_without_a_periodic_read_back(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start("--sync-period=1h")
    programmed = _regardless_of_handles(ruleset(node))
    thefts = (
        ["delete", "table", "ip", "proxymode"],
        ["flush", "table", "ip6", "proxymode"],
        ["delete", "element", "ip", "proxymode", "cluster-ips", "{", WEB, "}"],
        ["add", "chain", "ip", "proxymode", "theirs"],
    )
    for repairs, theft in enumerate(thefts, 1):
        node.run("node1", ["nft", *theft])
        eventually(lambda repairs=repairs: agent.metric("drift_repairs_total") == repairs, agent)  # type: ignore[misc]
        assert _regardless_of_handles(ruleset(node)) == programmed
        assert traffic.ask(node, "client1", WEB, 80).server == "node1-pod1"
    assert "drift repaired" in agent.log()


async def test_what_others_write_to_their_own_tables_makes_no_work(
    api: ApiServer, node: Topology, agent: Agent, traffic: Traffic
) -> None:
    await set_up_cluster(api, node, traffic, "node1-pod1")
    agent.start("--sync-period=1h")
    written = agent.metric("sync_written_objects_total")
    node.run("node1", ["nft", "add", "table", "ip", "theirs"])
    seen = agent.metric("drift_looks_total")
    eventually(lambda: agent.metric("drift_looks_total") >= seen + 2, agent)
    assert agent.metric("sync_written_objects_total") == written
    assert agent.metric("drift_repairs_total") == 0


def _regardless_of_handles(listing: str) -> list[str]:
    """The words, sorted: the kernel lists elements in any order, and what was made anew has new handles."""
    return sorted(re.sub(r"# handle \d+", "", listing).replace(",", " ").split())
