"""ProxyMode: the fleet's intent. Cluster-scoped; written by people, status written by the operator only."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from proxymode_api import API_VERSION, rules
from proxymode_api.common import DataplaneOptions, Mode, Model, ObjectMeta
from proxymode_api.deprecation import RETIREMENTS, KubeProxyMode
from proxymode_api.proxymode_status import ProxyModeStatus
from proxymode_api.rollout import Rollout
from proxymode_api.selector import LabelSelector
from proxymode_api.switch import SwitchOptions


class ProxyModeSpec(DataplaneOptions):
    """The Service dataplane that the selected nodes shall run, and how they get there."""

    model_config = ConfigDict(json_schema_extra=rules.extra(rules.HAND_BACK))

    mode: Mode = Field(
        description="The wanted mode: nftables, or ipvs, which upstream gives up: deprecated since Kubernetes "
        f"{RETIREMENTS[KubeProxyMode.IPVS].deprecated}, removed from kube-proxy in "
        f"{RETIREMENTS[KubeProxyMode.IPVS].removed}."
    )
    node_selector: LabelSelector = Field(
        default_factory=LabelSelector,
        description="The nodes that this object is about; all Linux nodes by default.",
    )
    priority: int = Field(
        default=0,
        ge=-1_000_000_000,
        le=1_000_000_000,
        description="Where several ProxyModes select a node, the highest priority decides; ties: the oldest.",
    )
    rollout: Rollout = Field(
        default_factory=Rollout,
        description="How the fleet moves: in which stages, how many nodes at a time, what stops it.",
    )
    switch: SwitchOptions = Field(
        default_factory=SwitchOptions, description="What a node does with open connections when it changes mode."
    )


class ProxyMode(Model):
    """ProxyMode says which Service dataplane the cluster's nodes shall run, and in which stages they move to it."""

    api_version: Literal["proxymode.io/v1alpha1"] = API_VERSION
    kind: Literal["ProxyMode"] = "ProxyMode"
    metadata: ObjectMeta
    spec: ProxyModeSpec
    status: ProxyModeStatus = Field(default_factory=ProxyModeStatus)
