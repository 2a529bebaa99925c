"""How a fleet moves, as ProxyMode.spec.rollout says it: stages, budget, windows, gates and what stops a rollout."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from proxymode_api import rules
from proxymode_api.common import Duration, Model
from proxymode_api.gates import MOST_GATES, NAME_PATTERN, Gate
from proxymode_api.selector import LabelKey, LabelSelector  # noqa: TC001 - pydantic resolves annotations at run time

PERCENT_PATTERN: Final = r"^(100|[1-9][0-9]?)%$"
IntOrPercent = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=PERCENT_PATTERN)]
"""A number of nodes, or a percentage of the selected nodes such as `25%`."""


class Approval(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class Stage(Model):
    """One step of a rollout. Exactly one of selector, count and percent says how far the stage reaches.

    Stages are cumulative: a node belongs to the first stage that reaches it.
    """

    model_config = ConfigDict(json_schema_extra=rules.extra(rules.STAGE_REACH))

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=NAME_PATTERN,
        description="Name of the stage, unique in the list; lower-case letters, digits and dashes.",
        examples=["canary"],
    )
    selector: LabelSelector | None = Field(
        default=None, description="The selected nodes with these labels; empty: all of them."
    )
    count: int | None = Field(
        default=None, ge=1, le=1_000_000, description="So many nodes in all, earlier stages included.", examples=[1]
    )
    percent: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="So many percent of the selected nodes in all, earlier stages included, rounded up.",
        examples=[25],
    )
    soak: Duration = Field(
        default="0",
        description="How long the finished stage is watched before the next begins; 0: not at all.",
        examples=["30m"],
    )
    approval: Approval = Field(
        default=Approval.AUTOMATIC,
        description="Automatic: the stage begins by itself after the one before it. Manual: it waits until a person "
        "promotes it with kubectl proxymode promote.",
    )


class OnFailure(StrEnum):
    PAUSE = "Pause"
    ROLLBACK = "Rollback"


class BlockedPolicy(StrEnum):
    """What a node that cannot run the wanted mode means for the stage it belongs to."""

    SKIP = "Skip"
    STOP = "Stop"


class TopologyPolicy(StrEnum):
    """What the values of topologyKey, the domains, mean for the order within a stage."""

    SPREAD = "Spread"
    ONE_DOMAIN = "OneDomain"


class Window(Model):
    """Hours in which a rollout may start something."""

    schedule: str = Field(
        max_length=100,
        description="When the window opens, as in crontab(5): minute, hour, day, month and weekday, in the time of "
        "timeZone. A time that a change of clocks leaves out counts as much later as the clocks were put forward; one "
        "that comes twice counts the first time.",
        examples=["0 22 * * mon-fri"],
        json_schema_extra=rules.extra(rules.SCHEDULE),
    )
    duration: Duration = Field(
        description="How long it stays open; at most a week.",
        examples=["4h"],
        json_schema_extra=rules.extra(rules.DURATION, rules.NOT_ZERO, rules.AT_MOST_A_WEEK),
    )
    time_zone: str = Field(
        default="UTC",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="Name of a time zone in the IANA database.",
        examples=["Europe/Berlin"],
    )


class Rollout(Model):
    """How the fleet moves: in which stages, how many nodes at a time, and what stops it."""

    model_config = ConfigDict(json_schema_extra=rules.extra(rules.TOPOLOGY))

    stages: list[Stage] = Field(
        default_factory=lambda: [Stage(name="all", percent=100)],
        min_length=1,
        max_length=32,
        description="Steps in order; the last must reach every selected node (percent: 100 or an empty selector).",
        json_schema_extra=rules.extra(
            *rules.STAGES, *rules.STAGE_UNIQUE_REACH, list_type="map", list_map_keys=["name"]
        ),
    )
    max_unavailable: IntOrPercent = Field(
        default=1,
        description="Most nodes that may be switching or not ready at one time: a number from 1, or a percentage of "
        "the selected nodes, rounded down as a Deployment's is, but never to none.",
        examples=["10%"],
        json_schema_extra=rules.extra(rules.MAX_UNAVAILABLE),
    )
    topology_key: LabelKey | None = Field(
        default=None,
        description="Node label whose values are the domains that topologyPolicy is about.",
        examples=["topology.kubernetes.io/zone"],
    )
    topology_policy: TopologyPolicy = Field(
        default=TopologyPolicy.SPREAD,
        description="Spread: the order within a stage goes round the domains. OneDomain: nodes of one domain move at a "
        "time; the next domain of the stage begins when those of the one before are done.",
    )
    min_ready_seconds: int = Field(
        default=0,
        ge=0,
        le=86400,
        description="How long a switched node must be Ready before it counts as updated.",
    )
    progress_deadline: Duration = Field(
        default="10m",
        description="A node that has not switched this long after it was told to counts as failed; one whose turn "
        "comes and whose agent was not heard of for so long, as blocked.",
        json_schema_extra=rules.extra(rules.DURATION, rules.NOT_ZERO),
    )
    failure_threshold: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="So many failed nodes stop the rollout, until fewer are: they recover, are told to try again "
        "(kubectl proxymode retry) or are left out (kubectl proxymode skip).",
    )
    on_failure: OnFailure = Field(
        default=OnFailure.PAUSE,
        description="What happens when failureThreshold is reached. Pause: nothing new starts. Rollback: the nodes "
        "of this rollout go back to the mode that they had.",
    )
    on_blocked: BlockedPolicy = Field(
        default=BlockedPolicy.SKIP,
        description="What a node that cannot run the mode, or has no agent, means. Skip: the rollout goes round it. "
        "Stop: it stops its stage.",
    )
    windows: list[Window] = Field(
        default_factory=list,
        max_length=16,
        description="When nodes may be told to move: while one of these windows is open; none given: at any time. "
        "Outside of them nodes in mid-switch finish, soak goes on, and what makes good a failure is done all the same: "
        "rollback, kubectl proxymode retry and skip.",
    )
    gates: list[Gate] = Field(
        default_factory=list,
        max_length=MOST_GATES,
        description="Questions whose answers let the rollout go on: to Prometheus, or to a server of your own. They do "
        "not hold back an undo or a rollback.",
        json_schema_extra=rules.extra(rules.GATES, list_type="map", list_map_keys=["name"]),
    )
    paused: bool = Field(default=False, description="True: nothing new starts; nodes in mid-switch finish.")
