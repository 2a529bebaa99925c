"""Every metric of the operator, in one registry of its own."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

# A second series for every counter and bucket set, which nothing here reads: a fleet has thousands of these.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

RECONCILES: Final = Counter(
    "proxymode_operator_reconciles_total",
    "Reconciles by outcome: done, conflict (something changed meanwhile, tried again), error.",
    ["outcome"],
    registry=REGISTRY,
)
RECONCILE_SECONDS: Final = Histogram(
    "proxymode_operator_reconcile_seconds", "Time of one reconcile, requests included.", registry=REGISTRY
)
PLAN_SECONDS: Final = Histogram(
    "proxymode_operator_plan_seconds",
    "Time of the planner alone.",
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1),
    registry=REGISTRY,
)
REACTION_SECONDS: Final = Histogram(
    "proxymode_operator_reaction_seconds",
    "From the first change that asks for a reconcile to its end.",
    registry=REGISTRY,
)
QUEUED: Final = Gauge("proxymode_operator_queued", "ProxyModes that wait for a reconcile.", registry=REGISTRY)
REQUESTS: Final = Counter(
    "proxymode_operator_api_requests_total",
    "Requests to the API server by verb and status code; code 0: no answer.",
    ["verb", "code"],
    registry=REGISTRY,
)
NODE_WRITES: Final = Counter(
    "proxymode_operator_node_writes_total",
    "NodeProxyModes written by kind: prepare, place, turn, return, retry, mark, release.",
    ["kind"],
    registry=REGISTRY,
)
TAKE_OVER_WRITES: Final = Counter(
    "proxymode_operator_take_over_writes_total",
    "Writes that move nodes between kube-proxy and the agents, by object: daemonset, node.",
    ["object"],
    registry=REGISTRY,
)
WATCH_EVENTS: Final = Counter(
    "proxymode_operator_watch_events_total",
    "Objects received by kind and whether they told anything that a decision rests on.",
    ["kind", "relevant"],
    registry=REGISTRY,
)
WATCH_RESTARTS: Final = Counter(
    "proxymode_operator_watch_restarts_total",
    "Watches of Nodes and NodeProxyModes begun again: ended (by the API server), gone (listed anew), error.",
    ["kind", "reason"],
    registry=REGISTRY,
)
CACHED: Final = Gauge("proxymode_operator_cached_objects", "Objects in the cache by kind.", ["kind"], registry=REGISTRY)
RESYNCS: Final = Counter(
    "proxymode_operator_resyncs_total",
    "Comparisons of the cache with a list: complete, behind (a watch lags), error.",
    ["outcome"],
    registry=REGISTRY,
)
GHOSTS: Final = Counter(
    "proxymode_operator_ghosts_total",
    "Objects dropped because a list showed that they were gone and no watch had said so.",
    ["kind"],
    registry=REGISTRY,
)
GATE_ANSWERS: Final = Counter(
    "proxymode_operator_gate_answers_total",
    "Answers of a rollout's gates by result: Pass, Fail, NoData (an empty result), Error (no answer).",
    ["proxymode", "gate", "result"],
    registry=REGISTRY,
)
GATE_SECONDS: Final = Histogram(
    "proxymode_operator_gate_seconds", "Time until a gate answered or its timeout passed.", registry=REGISTRY
)
GATES_ASKED: Final = Gauge("proxymode_operator_gates_asked", "Gates that are being asked now.", registry=REGISTRY)
LEADER: Final = Gauge("proxymode_operator_leader", "1 while this replica holds the Lease.", registry=REGISTRY)
NODES: Final = Gauge(
    "proxymode_operator_nodes",
    "Nodes by ProxyMode and state (updated, pending, switching, failed, blocked, skipped); of the leader only.",
    ["proxymode", "state"],
    registry=REGISTRY,
)
STATUS: Final = Gauge(
    "proxymode_operator_rollout_status",
    "1 for what a ProxyMode's column STATUS says, 0 for the other words; of the leader only.",
    ["proxymode", "status"],
    registry=REGISTRY,
)
SILENT_AGENTS: Final = Gauge(
    "proxymode_operator_silent_agents",
    "Nodes with a NodeProxyMode whose agent has not been heard of for three minutes, or never.",
    registry=REGISTRY,
)
