"""What a spec means on this node: whether its options can be followed, which checks stand in its way. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxymode_agent.kube.own_node import pod_networks
from proxymode_agent.node.conditions import blockers
from proxymode_agent.node.config import OptionsError, dataplane_config
from proxymode_agent.preflight import checks
from proxymode_agent.services.model import DataplaneConfig
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import Preflight

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_agent.kube.objects import Node
    from proxymode_agent.preflight.model import Facts
    from proxymode_api.modes import ObservedMode
    from proxymode_api.nodeproxymode import NodeProxyModeSpec, PreflightResult


@dataclass(frozen=True, slots=True)
class Assessment:
    """One spec on one node, by facts collected at one time.

    `config` None: its options cannot be followed, and `options_error` says why. `blocking`: checks that block
    spec.mode. `nftables_blocked`: checks that block mode nftables, also where nobody asks for it: who is told that a
    mode is deprecated wants to know. `preflight`: results for where the node is to go (targetMode, else mode), None:
    nowhere.
    """

    spec: NodeProxyModeSpec
    generation: int
    node: Node | None
    facts: Facts
    config: DataplaneConfig | None
    options_error: str
    blocking: tuple[PreflightResult, ...]
    nftables_blocked: tuple[PreflightResult, ...]
    preflight: Preflight | None

    @property
    def stopped(self) -> bool:
        """Whether a check blocks where the node is, or is to be."""
        return bool(self.blocking or (self.preflight is not None and blockers(self.preflight.results)))

    def is_about(self, spec: NodeProxyModeSpec, generation: int, node: Node | None) -> bool:
        """Whether it is an answer to this question."""
        return (self.spec, self.generation, self.node) == (spec, generation, node)

    def refused(self, observed: ObservedMode) -> tuple[PreflightResult, ...]:
        """The checks for which spec.mode is not to be set; none where the node runs it already.

        A block keeps a node from going to a mode, it does not take it out of the one that it runs.
        """
        runs_it = self.spec.mode is not None and observed.value == self.spec.mode.value
        return () if runs_it else self.blocking


def assess(spec: NodeProxyModeSpec, generation: int, node: Node | None, facts: Facts, now: datetime) -> Assessment:
    """The assessment of `spec`; `facts` were collected at `now`."""
    facts = replace(facts, pod_networks=pod_networks(node) if node is not None else ())
    config: DataplaneConfig | None = None
    options_error = ""
    try:
        config = dataplane_config(spec, node)
    except OptionsError as error:
        options_error = str(error)
    judged = config or DataplaneConfig()
    heading = spec.target_mode or spec.mode
    preflight = None
    if heading is not None:
        results = list(checks.run(heading, facts, judged))
        preflight = Preflight(mode=heading, checked_at=now.replace(microsecond=0), results=results)
    blocking = blockers(checks.run(spec.mode, facts, judged)) if spec.mode is not None else ()
    way_out = blockers(checks.run(Mode.NFTABLES, facts, judged))
    return Assessment(spec, generation, node, facts, config, options_error, blocking, way_out, preflight)
