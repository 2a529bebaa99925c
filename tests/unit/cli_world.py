"""A fleet written down, as the API server would answer it: eight nodes half-way from ipvs to nftables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from proxymode_api.nodeproxymode import NodeProxyMode
from proxymode_api.proxymode import ProxyMode
from proxymode_cli.joining import fleet_view
from proxymode_cli.view import FleetView, MachineView

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
KERNEL = "6.1.0-41-amd64"
BLOCK = {
    "id": "kernel-version",
    "verdict": "block",
    "found": "Linux 5.10.0-34-amd64; nftables mode needs 5.13 or newer",
    "remedy": "Upgrade the node's kernel to 5.13 or newer, better 6.1.",
}
WARN = {
    "id": "ipvs-scheduling",
    "verdict": "warn",
    "found": "3 virtual servers with lc; nftables picks endpoints at random",
    "remedy": "Accept it, or solve by session affinity what the scheduler was chosen for.",
}
PASS = {"id": "nft-expressions", "verdict": "pass", "found": "all 11 expressions accepted"}


def at(**ago: float) -> str:
    return (NOW - timedelta(**ago)).isoformat()


def condition(kind: str, status: str, reason: str, message: str = "", **ago: float) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(**(ago or {"minutes": 5})),
    }


def node_proxy_mode(
    name: str,
    mode: str = "ipvs",
    *,
    told: str = "",
    stage: str = "",
    desired: str = "ipvs",
    phase: str = "Active",
    ready: str = "True",
    results: tuple[dict[str, str], ...] = (PASS,),
    switch: dict[str, Any] | None = None,
    heartbeat: str | None = None,
) -> dict[str, Any]:
    """`told`: the stage in which the present revision told it to move; `stage`: in which it waits for its turn."""
    return {
        "apiVersion": "proxymode.io/v1alpha1",
        "kind": "NodeProxyMode",
        "metadata": {"name": name, "generation": 2},
        "spec": {
            "mode": desired,
            "targetMode": "nftables",
            "proxyMode": "fleet",
            "revision": 3 if told else 2,
            "stage": told or stage,
        },
        "status": {
            "observedGeneration": 2,
            "mode": mode,
            "phase": phase,
            "deprecated": "1.43" if mode == "ipvs" else "",
            "conditions": [
                condition("Ready", ready, "Programmed", f"The kernel does in {mode} mode what Services say.", hours=3),
                condition("Switching", "False", "NotSwitching"),
                condition("Degraded", "False", "AsExpected"),
            ],
            "preflight": {"mode": "nftables", "checkedAt": at(minutes=4), "results": list(results)},
            "programmed": {"services": 12, "endpoints": 40, "lastSyncTime": at(seconds=3)},
            "agentVersion": "0.1.0",
            "heartbeatTime": heartbeat or at(seconds=20),
            **({"lastSwitch": switch} if switch else {}),
        },
    }


def switched(lost: int = 0) -> dict[str, Any]:
    return {
        "fromMode": "ipvs",
        "toMode": "nftables",
        "startedAt": at(minutes=6),
        "completedAt": at(minutes=5, seconds=57),
        "outcome": "Succeeded",
        "steps": [
            {"name": "program", "startedAt": at(minutes=6), "milliseconds": 31},
            {"name": "remove-virtual-servers", "startedAt": at(minutes=5, seconds=59), "milliseconds": 1480},
        ],
        "connectionsFound": 42,
        "connectionsKept": 42 - lost,
        "connectionsLost": lost,
    }


def under_way() -> dict[str, Any]:
    return {
        "fromMode": "ipvs",
        "toMode": "nftables",
        "startedAt": at(seconds=2),
        "steps": [{"name": "program", "startedAt": at(seconds=2), "milliseconds": 31}],
    }


PROXY_MODE: dict[str, Any] = {
    "apiVersion": "proxymode.io/v1alpha1",
    "kind": "ProxyMode",
    "metadata": {"name": "fleet", "generation": 4},
    "spec": {
        "mode": "nftables",
        "rollout": {
            "stages": [
                {"name": "canary", "count": 1, "soak": "5m"},
                {"name": "half", "percent": 50, "approval": "Manual"},
                {"name": "all", "percent": 100, "approval": "Manual"},
            ],
            "maxUnavailable": 2,
        },
    },
    "status": {
        "observedGeneration": 4,
        "revision": 3,
        "mode": "nftables",
        "status": "Progressing",
        "fromMode": "ipvs",
        "currentStage": "half",
        "startedAt": at(minutes=10),
        "stages": [
            {
                "name": "canary",
                "phase": "Complete",
                "nodes": 1,
                "updated": 1,
                "approved": True,
                "startedAt": at(minutes=9),
                "completedAt": at(minutes=5),
            },
            {
                "name": "half",
                "phase": "Progressing",
                "nodes": 3,
                "updated": 1,
                "blocked": 1,
                "approved": True,
                "startedAt": at(seconds=30),
            },
            {"name": "all", "phase": "Pending", "nodes": 4},
        ],
        "nodes": {
            "desired": 8,
            "updated": 2,
            "ready": 7,
            "pending": 4,
            "switching": 1,
            "blocked": 1,
            "ipvs": 6,
            "nftables": 2,
            "progress": "2/8",
        },
        "conditions": [
            condition("Accepted", "True", "Accepted", "it decides about 8 nodes"),
            condition("Progressing", "True", "StageOpen", "stage half: 1 of 3 nodes updated; waits for node-3"),
            condition("Degraded", "True", "NodesBlocked", "blocked: node-4 (kernel-version)"),
        ],
        "history": [
            {"revision": 2, "mode": "ipvs", "startedAt": at(days=3), "endedAt": at(days=2), "outcome": "Complete"}
        ],
    },
}

NODES = [
    node_proxy_mode("node-1", "nftables", told="canary", desired="nftables", switch=switched()),
    node_proxy_mode("node-2", "nftables", told="half", desired="nftables", switch=switched(lost=1)),
    node_proxy_mode(
        "node-3",
        told="half",
        desired="nftables",
        phase="Switching",
        ready="False",
        switch=under_way(),
    ),
    node_proxy_mode("node-4", stage="all", phase="Blocked", results=(BLOCK, PASS)),
    node_proxy_mode("node-5", stage="half", results=(WARN, PASS)),
    node_proxy_mode("node-6", stage="all"),
    node_proxy_mode("node-7", stage="all", heartbeat=at(minutes=7)),
]

MACHINES = [
    MachineView(
        f"node-{n}", zone=f"eu-1{'abc'[n % 3]}", kernel=KERNEL if n != 4 else "5.10.0-34-amd64", kubelet="v1.36.2"
    )
    for n in range(1, 9)
]


def fleet(
    proxy_mode: dict[str, Any] = PROXY_MODE, nodes: list[dict[str, Any]] | None = None, version: str = "v1.39.1"
) -> FleetView:
    """The view of it."""
    return fleet_view(
        [ProxyMode.model_validate(proxy_mode)],
        [NodeProxyMode.model_validate(found) for found in (NODES if nodes is None else nodes)],
        MACHINES,
        version,
        NOW,
    )
