"""The fleet by what is true of its nodes.

Solves: a decision asks dozens of questions about all nodes (how many are updated, who is in flight, who waits for
what), and from one decision to the next a few nodes differ. So each node's facts are taken once, when it differs, and
filed under everything that is true of it; a question then costs as much as its answer is long.
Deliberately knows no time, and not when a node has to be looked at again; that is `memory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from proxymode_api.modes import ObservedMode
from proxymode_api.reasons.codes import Reason
from proxymode_operator.rollout.assess import NodeState, assess
from proxymode_operator.rollout.stages import Candidate
from proxymode_operator.rollout.writes import prepared, told_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from proxymode_operator.rollout.assess import Assessment, Patience
    from proxymode_operator.rollout.model import Asked, Node, Template


class Trait(StrEnum):
    """What may be true of a node beside its state."""

    AT_TEMPLATE = "at template"
    IN_FLIGHT = "in flight"
    UNAVAILABLE = "unavailable"
    TELLABLE = "tellable"
    HOMEWARD = "homeward"
    TO_MARK = "to mark"
    TO_RETURN = "to return"
    SILENT = "silent"
    UNHEARD = "unheard"
    WAITED_FOR = "waited for"
    """It is pending, or given up, for a reason."""
    AILING = "ailing"
    """It is unavailable, and nobody has told it to move."""
    READY = "ready"
    """Its agent says so."""
    RUNS_IPVS = "runs ipvs"
    RUNS_NFTABLES = "runs nftables"
    UNSERVED = "unserved"
    """Nobody handles Services on it, neither an agent nor a kube-proxy."""
    TO_PREPARE = "to prepare"
    """It has no NodeProxyMode, or one that does not say what will come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """By what all nodes of a fleet are judged. `proxy_mode`, `revision`: of the rollout that is on record.
    `skip_blocked`: blocked nodes are passed over."""

    template: Template
    patience: Patience
    proxy_mode: str
    revision: int
    skip_blocked: bool


class Facts(NamedTuple):
    """Of one node. `told_at`: by this revision, None: it has not. `traits`: its state is among them."""

    node: Node
    found: Assessment
    told_at: datetime | None
    candidate: Candidate
    traits: frozenset[str]


_MODES = {
    ObservedMode.IPVS: Trait.RUNS_IPVS,
    ObservedMode.KUBE_PROXY_IPVS: Trait.RUNS_IPVS,
    ObservedMode.NFTABLES: Trait.RUNS_NFTABLES,
    ObservedMode.KUBE_PROXY_NFTABLES: Trait.RUNS_NFTABLES,
}
"""In its kernel, by our hand or kube-proxy's."""


def facts(node: Node, measure: Measure, now: datetime) -> Facts:
    """The node's, until it differs or its assessment is due."""
    found = assess(node, measure.template, measure.patience, now)
    told = told_at(node, measure.proxy_mode, measure.revision)
    left_out = found.state is NodeState.SKIPPED or (measure.skip_blocked and found.state is NodeState.BLOCKED)
    candidate = Candidate(
        told_at=told if found.at_template else None,
        runs_template=found.at_template,
        unsettled=found.in_flight and not found.at_template,
        passed_over=left_out and not found.at_template,
        stage=node.asked.intent.stage if node.asked is not None and not node.foreign else "",
        told_once=node.asked is not None and not node.foreign and node.asked.intent.turn is not None,
    )
    return Facts(node, found, told, candidate, frozenset(_traits(node, found, measure)))


def _traits(node: Node, found: Assessment, measure: Measure) -> Iterable[str]:
    asked, report = node.asked, node.report
    holds = (
        (Trait.AT_TEMPLATE, found.at_template),
        (Trait.IN_FLIGHT, found.in_flight),
        (Trait.UNAVAILABLE, found.unavailable),
        (Trait.TELLABLE, found.tellable),
        (Trait.HOMEWARD, found.homeward),
        (Trait.TO_MARK, found.to_mark and asked is not None and asked.intent.turn is not None),
        (Trait.TO_RETURN, found.to_return),
        (Trait.SILENT, found.silent),
        (Trait.UNHEARD, found.unheard),
        (Trait.WAITED_FOR, found.why != "" and (found.state is NodeState.PENDING or found.unheard)),
        (Trait.AILING, found.unavailable and not found.in_flight),
        (Trait.READY, report is not None and report.ready),
        (
            Trait.UNSERVED,
            report is not None and report.mode is ObservedMode.NONE and report.kube_proxy == Reason.ABSENT,
        ),
        (Trait.TO_PREPARE, not node.foreign and not _is_prepared(asked, measure)),
    )
    yield found.state
    yield from (trait for trait, is_so in holds if is_so)
    if report is not None and report.mode in _MODES:
        yield _MODES[report.mode]


def _is_prepared(asked: Asked | None, measure: Measure) -> bool:
    return asked is not None and prepared(asked.intent, measure.template, measure.proxy_mode) is asked.intent


class Census:
    """Good until the next one is taken from the same memory; in no particular order but where it says so.

    `told`: when this revision told each of the nodes that it has told. `order`: all nodes, as stages take them.
    `selected`: of stages with a selector, the nodes that meet it.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.states: dict[str, Assessment] = {}
        self.candidates: dict[str, Candidate] = {}
        self.told: dict[str, datetime] = {}
        self.order: Sequence[str] = ()
        self.selected: Mapping[str, frozenset[str]] = {}
        self._traits: dict[str, frozenset[str]] = {}
        self._having: dict[str, set[str]] = {what: set() for what in (*NodeState, *Trait)}

    def having(self, what: NodeState | Trait) -> AbstractSet[str]:
        """Nodes of which this is true."""
        return self._having[what]

    def among(self, names: Iterable[str], what: NodeState | Trait) -> set[str]:
        """Those of `names` of which this is true."""
        return self._having[what].intersection(names)

    def file(self, name: str, new: Facts) -> None:
        """In place of what was known of the node."""
        self.nodes[name], self.states[name], self.candidates[name] = new.node, new.found, new.candidate
        if new.told_at is not None:
            self.told[name] = new.told_at
        else:
            self.told.pop(name, None)
        self._refile(name, self._traits.get(name, frozenset()), new.traits)
        self._traits[name] = new.traits

    def drop(self, name: str) -> None:
        """The node is none of the fleet's any more."""
        for known in (self.nodes, self.states, self.candidates):
            del known[name]
        self.told.pop(name, None)
        self._refile(name, self._traits.pop(name), frozenset())

    def _refile(self, name: str, old: frozenset[str], new: frozenset[str]) -> None:
        for what in old - new:
            self._having[what].remove(name)
        for what in new - old:
            self._having[what].add(name)
