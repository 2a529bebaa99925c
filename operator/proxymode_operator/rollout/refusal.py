"""Specs that cannot be followed.

The API server refuses most of these already (CEL in the CRD); it does not know the numbers of a cron schedule and the
names of time zones. The rest is for objects that were stored before a rule existed, and for a CRD that somebody
weakened. Such a ProxyMode keeps its nodes, moves none, and says why in condition Accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxymode_api.durations import parse_duration
from proxymode_api.gates import GateTime
from proxymode_api.rollout import TopologyPolicy
from proxymode_operator.rollout.windows import WindowError, check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxymode_api.gates import Gate
    from proxymode_api.proxymode import ProxyModeSpec
    from proxymode_api.rollout import Rollout, Stage


def refusal(spec: ProxyModeSpec) -> str:
    """The first thing that is wrong, with field, value and what would be right; empty when the spec can be followed."""
    return next(_wrong(spec.rollout), "")


def _wrong(rollout: Rollout) -> Iterator[str]:
    yield from _stages(rollout.stages)
    if rollout.topology_policy is TopologyPolicy.ONE_DOMAIN and rollout.topology_key is None:
        yield "spec.rollout.topologyPolicy OneDomain: give topologyKey, the node label that tells domains apart"
    for index, window in enumerate(rollout.windows):
        try:
            check(window)
        except WindowError as error:
            yield f"spec.rollout.windows[{index}].{error}"
    names = [gate.name for gate in rollout.gates]
    for index, gate in enumerate(rollout.gates):
        where = f"spec.rollout.gates[{index}] ({gate.name})"
        if gate.name in names[:index]:
            yield f"{where}: the name is used twice; give every gate a name of its own"
        yield from (f"{where}{what}" for what in _gate(gate, rollout.stages))


def _stages(stages: Sequence[Stage]) -> Iterator[str]:
    names = [stage.name for stage in stages]
    for index, stage in enumerate(stages):
        where = f"spec.rollout.stages[{index}] ({stage.name})"
        if stage.name in names[:index]:
            yield f"{where}: the name is used twice; give every stage a name of its own"
        if sum(reach is not None for reach in (stage.selector, stage.count, stage.percent)) != 1:
            yield f"{where}: exactly one of selector, count and percent must say how far the stage reaches"
        for earlier in stages[:index]:
            if _reaches_all(earlier):
                yield f"{where}: stage {earlier.name} before it reaches every node; take one of them out"
            if (earlier.selector, earlier.count, earlier.percent) == (stage.selector, stage.count, stage.percent):
                yield f"{where}: it reaches as far as stage {earlier.name} before it; take one of them out"
    if not stages or not _reaches_all(stages[-1]):
        yield "spec.rollout.stages: the last stage must reach every node: give it percent: 100"


def _reaches_all(stage: Stage) -> bool:
    if stage.selector is not None:
        return not stage.selector.match_labels and not stage.selector.match_expressions
    return stage.percent == 100


def _gate(gate: Gate, stages: Sequence[Stage]) -> Iterator[str]:
    target = gate.prometheus or gate.webhook
    if target is None or (gate.prometheus is not None and gate.webhook is not None):
        yield ": exactly one of prometheus and webhook must say whom it asks"
        return
    field = "prometheus" if gate.prometheus is not None else "webhook"
    right = "write it as in https://prometheus.monitoring.svc:9090"
    try:
        url = urlsplit(target.url)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError as error:
        yield f".{field}.url {target.url!r}: {error}; {right}"
        return
    if not usable or "@" in url.netloc or url.query or url.fragment:
        yield f".{field}.url {target.url!r} is not the address of an HTTP server: {right}"
    if target.bearer_token_secret is not None and url.scheme != "https":
        yield f".{field}.bearerTokenSecret would be sent in clear text to {target.url}: use https or leave it out"
    if gate.when is GateTime.BETWEEN_STAGES and len(stages) == 1:
        yield ".when BetweenStages: there is one stage only; add stages, or a soak and write DuringSoak"
    if gate.when is GateTime.DURING_SOAK and not any(parse_duration(stage.soak) for stage in stages):
        yield ".when DuringSoak: no stage has a soak; give one to stages, or write BetweenStages"
