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
in a stage goes back in that stage, whatever has joined or left since. What was never told comes after all that was.

Deliberately knows no time and opens no stage: that is `progress`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice, zip_longest
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_api.rollout import TopologyPolicy
from proxymode_operator.rollout.selection import matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxymode_api.rollout import Rollout, Stage
    from proxymode_operator.rollout.model import Node

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Candidate(NamedTuple):
    """A node's facts that place it: when this revision told it, whether it runs the template as far as it was told,
    whether an earlier revision left it unsettled, whether it cannot run the template and is passed over; the stage that
    is on record on it; and whether any revision has told it."""

    told_at: datetime | None
    runs_template: bool
    unsettled: bool
    passed_over: bool
    stage: str
    told_once: bool = False


class Place(NamedTuple):
    """Rule 1 as a sort key: the told ones by time, then the unsettled, then the others, those passed over last."""

    untold: bool
    told_at: datetime
    settled: bool
    passed_over: bool
    rank: int


def place(candidate: Candidate, rank: int) -> Place:
    """`rank`: the node's place among all, whatever has happened to it (`Roster`)."""
    if candidate.told_at is not None:
        return Place(False, candidate.told_at, False, False, rank)
    return Place(True, _NEVER, not candidate.unsettled, candidate.passed_over, rank)


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


@dataclass(frozen=True, slots=True)
class Roster:
    """What of membership rests on who the nodes are and on no state of theirs. `ranks`: each node's place, by topology
    and age. `selected`: for each stage with a selector, the nodes that meet it."""

    ranks: Mapping[str, int]
    selected: Mapping[str, frozenset[str]]


def roster(nodes: Iterable[Node], stages: Iterable[Stage], topology: Topology) -> Roster:
    """The order of the nodes makes no difference."""
    by_age = sorted(nodes, key=attrgetter("created", "name"))
    domains: dict[str, list[str]] = {}
    for node in by_age:
        domains.setdefault(topology.domain(node), []).append(node.name)
    by_domain = [domains[domain] for domain in sorted(domains)]
    rounds = by_domain if topology.one_domain else zip_longest(*by_domain)
    names = (name for name in chain.from_iterable(rounds) if name is not None)
    return Roster(
        ranks={name: rank for rank, name in enumerate(names)},
        selected={
            stage.name: frozenset(node.name for node in by_age if matches(stage.selector, node.labels))
            for stage in stages
            if stage.selector is not None
        },
    )


def same_in_roster(before: Node | None, now: Node, stages: Iterable[Stage], topology: Topology) -> bool:
    """Whether the node's entries are what they were. Most labels are nobody's concern here: nodes that are taken over
    from kube-proxy get one each."""
    if before is None or before.created != now.created:
        return False
    if before.labels is now.labels or before.labels == now.labels:
        return True
    selectors = [stage.selector for stage in stages if stage.selector is not None]
    return topology.domain(before) == topology.domain(now) and all(
        matches(selector, before.labels) == matches(selector, now.labels) for selector in selectors
    )


def membership(
    stages: Sequence[Stage],
    complete: Mapping[str, datetime],
    order: Sequence[str],
    candidates: Mapping[str, Candidate],
    selected: Mapping[str, frozenset[str]],
) -> Mapping[str, tuple[str, ...]]:
    """Names of the nodes of every stage, in order (rules 2 and 3). `complete`: since when which stages are; `order`:
    all nodes by rule 1; `selected`: as the roster has it."""
    remaining, taken = order, 0
    result: dict[str, tuple[str, ...]] = {}
    last = stages[-1].name if stages else ""
    for stage in stages:
        since = complete.get(stage.name) if stage.name != last else None
        fitting: Iterable[str] = remaining
        if stage.selector is not None:
            meeting, room = selected[stage.name], len(remaining)
            fitting = (name for name in remaining if name in meeting)
        else:
            room = max(0, _limit(stage, len(order)) - taken)
            if since is not None:
                fitting = _ran_at(remaining, candidates, since, stage.name)
        members = tuple(islice(fitting, room))
        chosen = frozenset(members)
        remaining = [name for name in remaining if name not in chosen]
        taken += len(members)
        result[stage.name] = members
    return result


def recorded_membership(
    stages: Sequence[Stage], order: Sequence[str], candidates: Mapping[str, Candidate]
) -> Mapping[str, tuple[str, ...]]:
    """Names of the nodes of every stage, in order, by the stage in which each was told last. What was told in none of
    these stages comes with the first; what was never told is at the end of the last, so that a canary that is to go
    back waits for none of it."""
    result: dict[str, list[str]] = {stage.name: [] for stage in stages}
    for name in sorted(order, key=lambda name: not candidates[name].told_once):
        recorded = candidates[name].stage
        if not candidates[name].told_once:
            recorded = stages[-1].name
        result[recorded if recorded in result else stages[0].name].append(name)
    return {stage: tuple(nodes) for stage, nodes in result.items()}


def _ran_at(names: Iterable[str], candidates: Mapping[str, Candidate], when: datetime, stage: str) -> Iterator[str]:
    """Those that ran the template when the stage was completed. Having been told in it says so too, where somebody has
    set the clock back in between."""
    for name in names:
        known = candidates[name]
        early = known.told_at is None or known.told_at <= when
        if known.runs_template and (early or known.stage == stage):
            yield name


def _limit(stage: Stage, total: int) -> int:
    if stage.count is not None:
        return min(stage.count, total)
    return rounded_up(stage.percent or 0, total)
