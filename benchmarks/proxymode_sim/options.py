"""What is simulated, from the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times in seconds; the rates are parts of one.

    `switch`: shortest and longest time that a node takes to switch. `failing`: of the nodes, those whose first switch
    fails. `blocked`: those whose kernel cannot run the mode. `silent`: those without an agent. `flapping`: those that
    fall ill a minute: are not Ready, or cordoned, for some seconds. `kills`: how often the leader is killed, of two
    replicas.
    """

    nodes: int
    seed: int
    max_unavailable: int
    """Percent."""
    switch: tuple[float, float]
    failing: float
    blocked: float
    silent: float
    flapping: float
    progress_deadline: int
    heartbeat: float
    node_status: float
    kills: int
    lease: int
    idle: float
    deadline: float
    folder: Path | None


def parse(argv: Sequence[str]) -> Options:
    """Reads the flags. Ends the process with a message that names the flag when one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m proxymode_sim", description=__doc__, allow_abbrev=False)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="what is random is the same with the same seed")
    parser.add_argument("--max-unavailable", type=int, default=10, metavar="PERCENT")
    parser.add_argument(
        *("--switch-seconds",), type=float, nargs=2, default=(1.0, 4.0), metavar=("SHORTEST", "LONGEST")
    )
    parser.add_argument("--failing", type=float, default=0.01, help="part of the nodes whose first switch fails")
    parser.add_argument("--blocked", type=float, default=0.005, help="part of the nodes whose kernel is too old")
    parser.add_argument("--silent", type=float, default=0.002, help="part of the nodes that have no agent")
    parser.add_argument("--flapping", type=float, default=0.02, help="part of the Nodes that fall ill a minute")
    parser.add_argument("--progress-deadline", type=int, default=30, metavar="SECONDS")
    parser.add_argument("--heartbeat", type=float, default=60, help="seconds between status writes of an idle agent")
    parser.add_argument("--node-status", type=float, default=300, help="seconds between a kubelet's Node status")
    parser.add_argument("--kill-leader", type=int, default=0, metavar="N", help="two replicas; the leader dies N times")
    parser.add_argument("--lease-seconds", type=int, default=12, help="as --leader-elect-lease-duration")
    parser.add_argument("--idle-seconds", type=float, default=60, help="how long it is watched when all is done")
    parser.add_argument(
        "--folder", type=Path, help="where logs and state go, to be looked at; default: a temporary one"
    )
    parser.add_argument("--deadline", type=float, default=900, metavar="SECONDS", help="for the rollouts")
    given = parser.parse_args(argv)
    if given.nodes < 10:
        parser.error(f"--nodes {given.nodes}: at least 10, so that every stage has a node")
    return Options(
        nodes=given.nodes,
        seed=given.seed,
        max_unavailable=given.max_unavailable,
        switch=(given.switch_seconds[0], given.switch_seconds[1]),
        failing=given.failing,
        blocked=given.blocked,
        silent=given.silent,
        flapping=given.flapping,
        progress_deadline=given.progress_deadline,
        heartbeat=given.heartbeat,
        node_status=given.node_status,
        kills=given.kill_leader,
        lease=given.lease_seconds,
        idle=given.idle_seconds,
        deadline=given.deadline,
        folder=given.folder,
    )
