"""Which node belongs to which stage.

Stages are cumulative: a node belongs to the first stage that reaches it. The rules, all without stored state:

1. Order. Nodes that this revision has told come first, in the order they were told; then the others, spread over the
   values of topologyKey (the oldest node of every value, then the second oldest of every value, …), or with OneDomain
   value after value; age before name.
   Of these, nodes that an earlier revision left unsettled come first, since they hold the budget until they are told
   anew; blocked nodes, where they are skipped, come last, so that a canary stage of one node is one that can move.
   The order depends on nothing that changes during a rollout but tellings and blocks: two runs agree, and each
   revision begins with the same nodes.
2. A selector takes every node with its labels that no earlier stage took; `count` and `percent` (rounded up) take
   nodes in order until so many are in this stage and earlier ones together.
3. A stage that is complete takes by `count` or `percent` only nodes that ran the template when it was completed. So
   neither a node that joins nor one that leaves pulls another into a finished stage or pushes a told one out of the
   stage it was told in; nodes that join belong to the first stage that is not complete and reaches them, after
   completion to the last.

An undo in reverse goes by the stages that are on record on the nodes, rather than by rule 2 turned round: what was told
in a stage goes back in that stage, whatever has joined or left since.

Deliberately knows no time and opens no stage: that is `progress`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from proxymode_api.rollout import TopologyPolicy
from proxymode_operator.rollout.selection import matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from proxymode_api.rollout import Rollout, Stage
    from proxymode_operator.rollout.model import Node


class Candidate(NamedTuple):
    """A node and the facts that place it: when this revision told it, whether it runs the template as far as it was
    told, whether an earlier revision left it unsettled, whether it cannot run the template and is passed over."""

    node: Node
    told_at: datetime | None
    runs_template: bool
    unsettled: bool
    passed_over: bool


@dataclass(frozen=True, slots=True)
class Topology:
    """`key`: the label whose values are the domains, None: all is one. `one_domain`: they move one after another."""

    key: str | None = None
    one_domain: bool = False

    def domain(self, node: Node) -> str:
        """The node's; that of nodes without the label is the empty one."""
        return node.labels.get(self.key, "") if self.key else ""


def topology_of(rollout: Rollout) -> Topology:
    """As the spec has it."""
    return Topology(rollout.topology_key, rollout.topology_policy is TopologyPolicy.ONE_DOMAIN)


def rounded_up(percent: int, total: int) -> int:
    """So many percent of `total`, rounded up."""
    return -(-percent * total // 100)


def ordered(candidates: Iterable[Candidate], topology: Topology) -> list[Candidate]:
    """Rule 1."""
    by_age = sorted(candidates, key=attrgetter("node.created", "node.name"))
    domains: dict[str, list[Candidate]] = {}
    for candidate in by_age:
        domains.setdefault(topology.domain(candidate.node), []).append(candidate)
    by_domain = [domains[domain] for domain in sorted(domains)]
    ranks = by_domain if topology.one_domain else zip_longest(*by_domain)
    placed = [candidate for rank in ranks for candidate in rank if candidate is not None]
    untold = [c for c in placed if c.told_at is None]
    told = sorted((c for c in placed if c.told_at is not None), key=_told_at)
    return told + sorted(untold, key=lambda c: (not c.unsettled, c.passed_over))


def _told_at(candidate: Candidate) -> datetime:
    assert candidate.told_at is not None
    return candidate.told_at


def membership(
    stages: Sequence[Stage], complete: Mapping[str, datetime], candidates: Iterable[Candidate], topology: Topology
) -> Mapping[str, tuple[str, ...]]:
    """Names of the nodes of every stage, in order (rules 2 and 3). `complete`: since when which stages are."""
    remaining = ordered(candidates, topology)
    total = len(remaining)
    taken = 0
    result: dict[str, tuple[str, ...]] = {}
    last = stages[-1].name if stages else ""
    for stage in stages:
        if stage.selector is not None:
            chosen = [matches(stage.selector, candidate.node.labels) for candidate in remaining]
        else:
            since = complete.get(stage.name) if stage.name != last else None
            room = _limit(stage, total) - taken
            chosen = _first(room, [since is None or _ran_at(each, since, stage.name) for each in remaining])
        members = [candidate.node.name for candidate, takes in zip(remaining, chosen, strict=True) if takes]
        rest = [candidate for candidate, takes in zip(remaining, chosen, strict=True) if not takes]
        taken += len(members)
        remaining = rest
        result[stage.name] = tuple(members)
    return result


def _first(room: int, fitting: Sequence[bool]) -> list[bool]:
    """The first of those that fit, as long as there is room."""
    counted = accumulate(fitting)
    return [fits and count <= room for fits, count in zip(fitting, counted, strict=True)]


def recorded_membership(
    stages: Sequence[Stage], candidates: Iterable[Candidate], topology: Topology
) -> Mapping[str, tuple[str, ...]]:
    """Names of the nodes of every stage, in order, by the stage in which each was told last, or was to be told. What
    belongs to none of these stages comes with the first."""
    result: dict[str, list[str]] = {stage.name: [] for stage in stages}
    for candidate in ordered(candidates, topology):
        asked = candidate.node.asked
        recorded = asked.intent.stage if asked is not None and not candidate.node.foreign else ""
        result[recorded if recorded in result else stages[0].name].append(candidate.node.name)
    return {name: tuple(nodes) for name, nodes in result.items()}


def _ran_at(candidate: Candidate, when: datetime, stage: str) -> bool:
    """Whether it ran the template when the stage was completed. Having been told in it says so too, where somebody has
    set the clock back in between."""
    if candidate.told_at is None or candidate.told_at <= when:
        return candidate.runs_template
    asked = candidate.node.asked
    return candidate.runs_template and asked is not None and asked.intent.stage == stage


def _limit(stage: Stage, total: int) -> int:
    if stage.count is not None:
        return min(stage.count, total)
    return rounded_up(stage.percent or 0, total)
