"""The planner's words: a node as it sees it, the fleet of one ProxyMode, and what it decides.

Solves: one vocabulary of frozen values between the cache (which makes them from API objects), the planner (which
decides over them) and the writer (which turns decisions into requests). Deliberately holds no rule of the rollout and
no JSON but that of `Turn`, the operator's own note on a NodeProxyMode.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - pydantic resolves annotations at run time
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from pydantic import Field, ValidationError

from proxymode_api.common import ConnectionPolicy, DataplaneOptions, Mode, Model
from proxymode_api.modes import KUBE_PROXY_MODES, KubeProxyPolicy, ObservedMode
from proxymode_api.nodeproxymode import NodeProxyModeSpec, Phase
from proxymode_api.switch import DRAIN_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_api.deprecation import Minor
    from proxymode_api.proxymode import ProxyMode
    from proxymode_api.proxymode_status import ProxyModeStatus
    from proxymode_api.reasons.codes import Reason
    from proxymode_operator.rollout.gates import Measurement, Question

TURN_ANNOTATION: Final = "proxymode.io/turn"


_KNOWN_OPTIONS: Final[WeakValueDictionary[str, DataplaneOptions]] = WeakValueDictionary()


def dataplane_options(source: DataplaneOptions) -> DataplaneOptions:
    """The options alone, of a spec that inherits them; comparable with those of any other spec. Equal ones are one
    object: thousands of nodes have the same, and are compared at each decision."""
    found = DataplaneOptions.model_construct(**{name: getattr(source, name) for name in DataplaneOptions.model_fields})
    return _KNOWN_OPTIONS.setdefault(found.model_dump_json(), found)


def same_options(one: DataplaneOptions, other: DataplaneOptions) -> bool:
    """Whether they are equal, at once where they are one object (pydantic looks at every field)."""
    return one is other or one == other


@dataclass(frozen=True, slots=True)
class Template:
    """What one revision brings to every node: the mode and the dataplane's options."""

    mode: Mode
    options: DataplaneOptions

    @property
    def hash(self) -> str:
        """16 hex digits. Only what differs from the API's defaults counts, so that a newer operator, which knows
        more options, computes the same hash for an unchanged object and starts no rollout."""
        chosen = self.options.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        text = json.dumps({"mode": self.mode.value, "options": chosen}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Turn(Model):
    """The operator's note on a NodeProxyMode about the last time it was told something that moves the dataplane.

    Kept in the annotation `proxymode.io/turn`, because the planner needs after a restart what no spec field says: when
    progressDeadline began, from which generation on a report is about this turn, what a rollback returns to, and that
    the switch has failed once: while an agent tries again its status does not say so any more.
    """

    at: datetime = Field(description="When the node was told.")
    retried_at: datetime | None = Field(default=None, description="When it was told last to try again.")
    generation: int = Field(description="metadata.generation that the telling made.")
    before_mode: Mode | None = Field(default=None, description="What it ran before; none: nothing to return to.")
    before_options: DataplaneOptions = Field(default_factory=DataplaneOptions, description="With which options.")
    failed: bool = Field(default=False, description="Its agent has said that the switch failed, and may be retrying.")

    @property
    def tried_at(self) -> datetime:
        """From when on progressDeadline counts."""
        return self.retried_at or self.at

    def dumps(self) -> str:
        """The annotation's value."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=True)

    @staticmethod
    def loads(text: str | None) -> Turn | None:
        """Reads the annotation; None when absent or when somebody made it unreadable."""
        if text is None:
            return None
        try:
            return Turn.model_validate_json(text)
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Everything that the operator writes on one NodeProxyMode."""

    mode: Mode | None = None
    target_mode: Mode | None = None
    options: DataplaneOptions = field(default_factory=DataplaneOptions)
    connections: ConnectionPolicy = ConnectionPolicy.HANDOVER
    drain_timeout: str = DRAIN_TIMEOUT
    proxy_mode: str = ""
    revision: int = 0
    stage: str = ""
    attempt: int = 0
    turn: Turn | None = None

    def runs(self, template: Template) -> bool:
        """Whether a node that follows this intent runs the template."""
        return self.mode is template.mode and same_options(self.options, template.options)

    def arrived(self, observed: ObservedMode) -> bool:
        """Whether a node where this was observed has come where it was told to go."""
        if self.options.kube_proxy.policy is KubeProxyPolicy.HAND_BACK:
            return observed in KUBE_PROXY_MODES
        return self.mode is not None and observed.value == self.mode.value

    def spec(self) -> NodeProxyModeSpec:
        """As the API's spec."""
        return NodeProxyModeSpec(
            mode=self.mode,
            target_mode=self.target_mode,
            connections=self.connections,
            drain_timeout=self.drain_timeout,
            proxy_mode=self.proxy_mode,
            revision=self.revision,
            stage=self.stage,
            attempt=self.attempt,
            **{name: getattr(self.options, name) for name in DataplaneOptions.model_fields},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A NodeProxyMode as stored: the intent, and what identifies this version of it.

    `skip`: why a person wants rollouts to go round the node; empty: nobody does.
    """

    uid: str
    resource_version: str
    generation: int
    intent: Intent
    skip: str = ""

    @property
    def way_back(self) -> Template | None:
        """What the node ran before it was last told; None where nothing is known, or nothing else."""
        turn = self.intent.turn
        if turn is None or turn.before_mode is None:
            return None
        before = Template(turn.before_mode, turn.before_options)
        return None if self.intent.runs(before) else before

    @property
    def turn_generation(self) -> int:
        """From this generation on the agent's report is about what the node was last told."""
        return self.intent.turn.generation if self.intent.turn else self.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The agent's status, as far as the rollout cares.

    `ready_since`: when Ready last changed, or a switch ended in which it stayed True; never later than that was heard
    of. `ready_told`: the same as the node's clock has it.
    `heartbeat`: when the agent wrote it, by its node's clock. `heard_at`: the same by the operator's clock, which alone
    says whether the agent is silent; after the operator's start it is `heartbeat` until the agent writes again.
    `known_since`: since when this operator listens to the agent; before that its node's clock is all that is known.
    `warnings`: ids of the checks that warn, of the same preflight as `blockers`. `switch_seconds`: what the last switch
    took, None: there was none that succeeded.
    """

    observed_generation: int
    mode: ObservedMode
    phase: Phase
    ready: bool
    ready_since: datetime | None
    ready_told: datetime | None = None
    heartbeat: datetime
    heard_at: datetime
    known_since: datetime
    preflight_mode: Mode | None
    blockers: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    switch_seconds: float | None = None
    kube_proxy: str = ""
    """Reason of the condition KubeProxyPresent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node and its NodeProxyMode, as the planner sees them.

    `asked` is None without a NodeProxyMode, `report` is None until an agent has reported. `foreign` says that the
    NodeProxyMode of this name belongs to an earlier Node: the garbage collector removes it, nobody else touches it.
    """

    name: str
    uid: str
    labels: Mapping[str, str]
    created: datetime
    ready: bool = True
    cordoned: bool = False
    asked: Asked | None = None
    report: Report | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One ProxyMode and the nodes that it decides about.

    `overridden` maps the nodes that it selects too but does not decide about to the ProxyMode that does. `answers`:
    what its gates have answered last. `obstacle`: why nodes cannot be taken over from kube-proxy; empty: none is known.
    """

    proxy_mode: ProxyMode
    nodes: tuple[Node, ...]
    overridden: Mapping[str, str] = field(default_factory=dict)
    cluster: Minor | None = None
    answers: tuple[Measurement, ...] = ()
    obstacle: str = ""


class WriteKind(StrEnum):
    """Why a NodeProxyMode is written."""

    PREPARE = "prepare"
    """Created, or told what will come: the dataplane does not move."""
    PLACE = "place"
    """Told that it belongs to another stage than before, and nothing else: the dataplane does not move."""
    TURN = "turn"
    """Told to run this revision: the dataplane moves."""
    RETURN = "return"
    """Told to go back to what it ran before this revision: the dataplane moves."""
    RETRY = "retry"
    """Told to try again what failed: the dataplane moves."""
    MARK = "mark"
    """A failed switch is noted, in the annotation only."""
    RELEASE = "release"
    """No ProxyMode decides any more: the node keeps what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One NodeProxyMode to apply. `base` is the version that the decision rests on; None: create it."""

    node: str
    node_uid: str
    kind: WriteKind
    intent: Intent
    base: Asked | None


class NoticeType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An Event to post about the ProxyMode (events.k8s.io/v1: reason, action, note)."""

    reason: Reason
    action: str
    note: str
    type: NoticeType = NoticeType.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An annotation of the ProxyMode that has no work left and goes, and what to say about it."""

    annotation: str
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What to do now, in this order: store the status, post the Events about its change, write the NodeProxyModes, drop
    the annotations that were heard and post what came of them.

    `wake_at` is when something can change without an event: a soak that ends, a deadline that passes. `questions`:
    gates to ask meanwhile; whoever asks one that is being asked already may let it be.
    """

    status: ProxyModeStatus
    writes: tuple[Write, ...] = ()
    notices: tuple[Notice, ...] = ()
    heard: tuple[Heard, ...] = ()
    questions: tuple[Question, ...] = ()
    wake_at: datetime | None = None
