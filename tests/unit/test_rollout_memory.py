"""A memory of the decision before makes no difference to what is known of a fleet, whatever has happened in between.

That it makes none to what is decided is shown by the random life of `test_rollout_invariants`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_api.common import Mode
from proxymode_api.proxymode_status import RolloutOrder
from proxymode_api.rollout import Stage
from proxymode_api.selector import LabelSelector
from proxymode_api.stages import stages_in_force
from proxymode_operator.rollout.assess import NodeState, Patience
from proxymode_operator.rollout.census import Census, Measure, Trait
from proxymode_operator.rollout.memory import Memory
from proxymode_operator.rollout.planner import template_of
from proxymode_operator.rollout.stages import Topology
from rollout_world import World, percent_stages

EVENTS = (
    "decide",
    "agents",
    "one agent",
    "an agent dies",
    "an agent returns",
    "a node is cordoned",
    "a node joins",
    "a node leaves",
    "all nodes leave",
    "a node comes back under its name",
    "a node is relabelled",
    "a node is skipped",
    "the mode changes",
    "the stages change",
    "blocked ones are passed over",
    "a minute passes",
    "an hour passes",
    "the clock is set back",
)
ZONED = [Stage(name="zone", selector=LabelSelector(match_labels={"zone": "b"})), *percent_stages(40, 100)]


class Watched:
    """A world, and a memory that has seen all of its life."""

    def __init__(self, count: int) -> None:
        self.world = World.of(0, stages=percent_stages(10, 100), max_unavailable=3, progress_deadline="60s")
        for index in range(count):
            self.world.join(zone="abc"[index % 3])
        self.memory = Memory()
        self.skip_blocked = False
        self.topology = Topology("zone")

    def happens(self, event: str, which: int) -> None:
        world = self.world
        if not world.nodes:
            world.join("n0", zone="a")
        name = sorted(world.nodes)[which % len(world.nodes)]
        match event:
            case "decide":
                world.decide()
            case "agents":
                world.agents_step()
            case "one agent":
                world.agent_step(name)
            case "an agent dies" | "an agent returns":
                world.agents[name].dead = event == "an agent dies"
            case "a node is cordoned":
                world.set_node(name, ready=True, cordoned=not world.nodes[name].cordoned)
            case "a node joins":
                world.join(f"j{which}", zone="abcd"[which % 4])
            case "a node leaves":
                world.leave(name)
            case "all nodes leave":
                for each in list(world.nodes):
                    world.leave(each)
            case "a node comes back under its name":
                world.leave(name)
                world.join(name, zone="a")
            case "a node is relabelled":
                world.label(name, zone="abcd"[which % 4])
            case "a node is skipped":
                world.skip(name, "broken NIC" if which % 2 else "")
            case "the mode changes":
                world.edit(mode=Mode.IPVS if which % 2 else Mode.NFTABLES)
            case "the stages change":
                world.edit(rollout__stages=ZONED if which % 2 else percent_stages(25, 100))
                self.topology = Topology("zone", one_domain=which % 3 == 0)
            case "blocked ones are passed over":
                self.skip_blocked = not self.skip_blocked
            case "a minute passes":
                world.pass_time(60)
            case "an hour passes":
                world.pass_time(3600)
            case "the clock is set back":
                world.now -= timedelta(seconds=100)

    def known(self, memory: Memory) -> dict[str, Any]:
        """Everything that a census says."""
        world, proxy_mode = self.world, self.world.proxy_mode
        patience = Patience(
            min_ready=timedelta(seconds=3),
            deadline=timedelta(seconds=60),
            began=proxy_mode.status.started_at or world.now,
        )
        measure = Measure(
            template=template_of(proxy_mode),
            patience=patience,
            proxy_mode="fleet",
            revision=proxy_mode.status.revision,
            skip_blocked=self.skip_blocked,
        )
        stages = stages_in_force(proxy_mode.spec.rollout.stages, RolloutOrder.FORWARD)
        census = memory.census(tuple(world.nodes.values()), measure, stages, self.topology, world.now)
        return said(census) | {"due": memory.due}


def said(census: Census) -> dict[str, Any]:
    having = {what: set(census.having(what)) for what in (*NodeState, *Trait)}
    facts = (census.nodes, census.states, census.candidates, census.told, census.selected)
    return {"having": having, "facts": [dict(each) for each in facts], "order": list(census.order)}


@given(count=st.integers(1, 15), events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 40)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_what_is_known_after_any_sequence_of_events_is_what_is_known_from_scratch(
    count: int, events: list[tuple[str, int]]
) -> None:
    watched = Watched(count)
    for event, which in [*events, ("decide", 0)]:
        watched.happens(event, which)
        assert watched.known(watched.memory) == watched.known(Memory()), event
    census = watched.known(watched.memory)["having"]
    assert sum(len(census[state]) for state in NodeState) == len(watched.world.nodes)


def test_only_nodes_that_differ_are_looked_at_anew() -> None:
    watched = Watched(6)
    before = watched.known(watched.memory)["facts"][1]
    watched.world.set_node("n3", ready=True, cordoned=True)
    after = watched.known(watched.memory)["facts"][1]
    assert [name for name in before if before[name] is not after[name]] == ["n3"]
