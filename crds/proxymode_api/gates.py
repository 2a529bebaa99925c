"""Gates of a rollout: questions whose answers let it go on, as ProxyMode.spec.rollout.gates and status.gates say them.

Solves: what is asked of whom, when, and what was answered. Deliberately asks nothing and judges nothing.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic resolves annotations at run time
from enum import StrEnum
from typing import Final

from pydantic import ConfigDict, Field

from proxymode_api import rules
from proxymode_api.common import Duration, Model

MOST_GATES: Final = 16
NAME_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class SecretKey(Model):
    """One entry of a Secret in the operator's namespace."""

    name: str = Field(
        default="proxymode-gates",
        min_length=1,
        max_length=253,
        description="Name of the Secret, in the namespace of the operator. As installed, the operator may read "
        "proxymode-gates and no other; its Role names those that it may.",
    )
    key: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[-._a-zA-Z0-9]+$",
        description="Key in the Secret's data.",
        examples=["prometheus-token"],
    )


class HttpTarget(Model):
    """An HTTP server that a gate asks. Certificates are always verified; redirects are not followed."""

    url: str = Field(
        max_length=1024,
        description="http or https, host, and a path where there is one; no user, query or fragment.",
        json_schema_extra=rules.extra(rules.GATE_URL),
    )
    ca: str = Field(
        default="",
        max_length=65536,
        description="Certificates, as PEM, of the authorities that the server's certificate may be from; empty: those "
        "of the operator's system. For https only.",
    )
    bearer_token_secret: SecretKey | None = Field(
        default=None, description="Where the token is that is sent as Authorization: Bearer. For https only."
    )


class Comparison(StrEnum):
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


class Threshold(Model):
    """What a value must be for a gate to pass."""

    operator: Comparison = Field(description="How the value must compare: < <= > or >=.", examples=["<"])
    value: str = Field(
        max_length=32,
        pattern=r"^-?[0-9]+(\.[0-9]+)?$",
        description="With what, as a decimal number.",
        examples=["0.01"],
    )


class PrometheusGate(HttpTarget):
    """An instant query of Prometheus' HTTP API, which must give one value."""

    model_config = ConfigDict(json_schema_extra=rules.extra(*rules.GATE_HTTPS))

    url: str = Field(
        max_length=1024,
        description="Address of the server, without /api/v1/query; http or https.",
        examples=["https://prometheus.monitoring.svc:9090"],
        json_schema_extra=rules.extra(rules.GATE_URL),
    )
    query: str = Field(
        min_length=1,
        max_length=4096,
        description="PromQL whose result is one series or a scalar.",
        examples=["sum(rate(probe_failures_total[5m])) or vector(0)"],
    )
    threshold: Threshold = Field(description="What the value must be.")


class WebhookGate(HttpTarget):
    """A POST with the rollout as JSON. 2xx: passed; 4xx: failed, except those that say that nothing was judged (401,
    403, 404, 405, 407, 408, 429); anything else is no answer."""

    model_config = ConfigDict(json_schema_extra=rules.extra(*rules.GATE_HTTPS))

    url: str = Field(
        max_length=1024,
        description="Where to POST {gate, proxyMode, revision, mode, stage}; http or https.",
        examples=["https://approvals.example.org/proxymode"],
        json_schema_extra=rules.extra(rules.GATE_URL),
    )


class GateTime(StrEnum):
    """When a gate is asked."""

    BETWEEN_STAGES = "BetweenStages"
    DURING_SOAK = "DuringSoak"
    BOTH = "Both"


class Gate(Model):
    """A question whose answer lets the rollout go on. Exactly one of prometheus and webhook says to whom it goes."""

    model_config = ConfigDict(json_schema_extra=rules.extra(rules.GATE_KIND))

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=NAME_PATTERN,
        description="Name of the gate, unique in the list; lower-case letters, digits and dashes.",
        examples=["error-rate"],
    )
    prometheus: PrometheusGate | None = Field(default=None, description="A PromQL query and a threshold.")
    webhook: WebhookGate | None = Field(default=None, description="A server that is asked by a POST.")
    when: GateTime = Field(
        default=GateTime.BOTH,
        description="BetweenStages: once a stage is complete and has soaked, before the next begins. DuringSoak: every "
        "interval while a stage soaks. Both. Before the first stage every gate is asked too, so that one that cannot "
        "be is found while nothing has moved yet.",
    )
    interval: Duration = Field(
        default="1m",
        description="How often it is asked. After a question that was not answered the pause doubles each time, up to "
        "ten minutes.",
        json_schema_extra=rules.extra(rules.DURATION, rules.NOT_ZERO, rules.AT_MOST_A_WEEK),
    )
    timeout: Duration = Field(
        default="10s",
        description="How long an answer may take; at most 5m.",
        json_schema_extra=rules.extra(rules.DURATION, rules.NOT_ZERO, rules.AT_MOST_FIVE_MINUTES),
    )
    failure_limit: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="So many failed answers in a row stop the rollout, or roll it back, as onFailure says. A question "
        "that is not answered is neither failed nor passed: it holds the rollout until it is.",
    )


class GateResult(StrEnum):
    PASS = "Pass"
    FAIL = "Fail"
    NO_DATA = "NoData"
    ERROR = "Error"


class GateStatus(Model):
    """What a gate answered last."""

    name: str = Field(max_length=63, description="Name of the gate.")
    stage: str = Field(
        default="", max_length=63, description="The complete stage that it was asked about; empty: before the first."
    )
    result: GateResult = Field(
        description="Pass; Fail; NoData: the query's result is empty or not a number; Error: there was no answer."
    )
    value: str = Field(default="", max_length=64, description="The query's value, or the webhook's HTTP status.")
    message: str = Field(default="", max_length=1024, description="What came back, in words.")
    measured_at: datetime = Field(description="When it was asked.")
    failures: int = Field(default=0, ge=0, description="Failed answers in a row about this stage.")
    unanswered: int = Field(default=0, ge=0, description="Questions in a row that were not answered.")
    definition: str = Field(default="", max_length=64, description="Hash of the gate that this is an answer of.")
