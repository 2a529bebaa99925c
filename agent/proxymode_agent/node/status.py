"""NodeProxyMode.status, from what the agent has observed and what it wrote before. Pure.

`lastTransitionTime` moves only when a condition's status does. `worth_writing` tells a change that somebody waits for
from one that can go with the next heartbeat, so that a fleet does not write with every endpoint that comes or goes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from proxymode_agent.node.conditions import Observation, aspects, blocked, running_deprecation
from proxymode_agent.node.pause import Pause
from proxymode_agent.node.switches import last_switch
from proxymode_agent.preflight.model import ModuleState
from proxymode_api.common import Condition
from proxymode_api.nodeproxymode import NodeFacts, NodeProxyModeStatus, Phase, Programmed

if TYPE_CHECKING:
    from proxymode_agent.node.conditions import Aspect
    from proxymode_agent.preflight.model import Facts

HEARTBEAT = timedelta(seconds=60)
"""A status is written at least so often; an operator that hears nothing for three minutes calls the agent silent."""


def build(seen: Observation, previous: NodeProxyModeStatus, now: datetime) -> NodeProxyModeStatus:
    """The status to write at `now`, after `previous`."""
    engine = seen.engine
    switch = last_switch(engine, previous.last_switch)
    deprecated = running_deprecation(engine.observed, seen.cluster)
    return NodeProxyModeStatus(
        observed_generation=seen.generation,
        mode=engine.observed,
        phase=_phase(seen),
        deprecated="" if deprecated is None else str(deprecated.retirement.removed),
        conditions=_conditions(aspects(seen, switch), previous.conditions, seen.generation, now),
        facts=_node_facts(seen.facts, seen.cluster_version),
        preflight=seen.preflight,
        programmed=Programmed(services=engine.services, endpoints=engine.endpoints, last_sync_time=engine.last_sync),
        last_switch=switch,
        agent_version=seen.agent_version,
        heartbeat_time=_whole_seconds(now),
    )


def worth_writing(
    status: NodeProxyModeStatus, written: NodeProxyModeStatus, now: datetime, heartbeat: timedelta = HEARTBEAT
) -> bool:
    """Whether `status` must be written at `now`: it says something new, or the heartbeat is due."""
    if written.heartbeat_time is None or Pause(written.heartbeat_time, written.heartbeat_time + heartbeat).over(now):
        return True
    return _news(status) != _news(written)


def _news(status: NodeProxyModeStatus) -> NodeProxyModeStatus:
    """Without what only the heartbeat brings: counts, times of syncs and checks, figures that checks found."""
    preflight = status.preflight
    if preflight is not None:
        results = [result.model_copy(update={"found": ""}) for result in preflight.results]
        preflight = preflight.model_copy(update={"checked_at": datetime.min, "results": results})  # noqa: DTZ901
    return status.model_copy(update={"heartbeat_time": None, "programmed": Programmed(), "preflight": preflight})


def _phase(seen: Observation) -> Phase:
    phase = Phase(seen.engine.phase.value)
    if phase in (Phase.SWITCHING, Phase.FAILED):
        return phase
    if seen.options_error:
        return Phase.FAILED
    if blocked(seen):
        return Phase.BLOCKED
    return phase


def _conditions(
    now_true: dict[str, Aspect], previous: list[Condition], generation: int, now: datetime
) -> list[Condition]:
    before = {condition.type: condition for condition in previous}
    conditions = []
    for kind, (status, reason, message) in now_true.items():
        old = before.get(kind)
        since = old.last_transition_time if old is not None and old.status is status else _whole_seconds(now)
        conditions.append(
            Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message,
                observed_generation=generation,
                last_transition_time=since,
            )
        )
    return conditions


def _node_facts(facts: Facts, cluster_version: str) -> NodeFacts:
    found = facts.kube_proxy
    running = f"{found.mode or 'mode unknown'} ({found.running})" if found.running else ""
    return NodeFacts(
        kernel=facts.kernel,
        architecture=facts.architecture,
        modules=sorted(
            name for name, state in facts.modules.items() if state in (ModuleState.LOADED, ModuleState.BUILTIN)
        ),
        cluster_version=cluster_version,
        kube_proxy=running or (f"gone, left {', '.join(found.rules)}" if found.rules else ""),
    )


def _whole_seconds(moment: datetime) -> datetime:
    """metav1.Time has no fractions."""
    return moment.replace(microsecond=0)
