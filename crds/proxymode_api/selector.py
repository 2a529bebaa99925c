"""Label selectors as Kubernetes has them (metav1.LabelSelector), with the bounds that admission rules need.

Only their form; which nodes one selects is the operator's to decide.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from proxymode_api import rules
from proxymode_api.common import Model

LABEL_KEY_PATTERN: Final = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)]
"""A label key: a name, or a DNS name, a slash and a name."""

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
"""A label value; may be empty."""


class SelectorOperator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelSelectorRequirement(Model):
    """One requirement on a label of the node (metav1.LabelSelectorRequirement)."""

    model_config = ConfigDict(json_schema_extra=rules.extra(*rules.SELECTOR_REQUIREMENT))

    key: LabelKey = Field(description="Label key.", examples=["topology.kubernetes.io/zone"])
    operator: SelectorOperator = Field(
        description="In and NotIn compare the label with values; Exists and DoesNotExist ask whether it is there."
    )
    values: list[LabelValue] = Field(
        default_factory=list, max_length=256, description="Label values, at least one, for In and NotIn only."
    )


class LabelSelector(Model):
    """Which nodes, by their labels; empty selects all (metav1.LabelSelector)."""

    model_config = ConfigDict(json_schema_extra=rules.extra(map_type="atomic"))

    match_labels: dict[str, LabelValue] = Field(
        default_factory=dict,
        max_length=32,
        description="Labels that a node must carry, all of them.",
        examples=[{"node-role.kubernetes.io/worker": ""}],
    )
    match_expressions: list[LabelSelectorRequirement] = Field(
        default_factory=list, max_length=32, description="Requirements, all of which a node must meet."
    )
