"""`python -m proxymode_pictures` rolls a simulated fleet to nftables and takes the pictures of the docs on the way."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Group

import yaml
from proxymode_cli import render, render_migration
from proxymode_cli.gathering import migration
from proxymode_cli.watching import changes, tree, verdict
from proxymode_demo.fleet import REPOSITORY
from proxymode_demo.story import PROXYMODE
from proxymode_pictures.fleet import simulated
from proxymode_pictures.svg import film, still

if TYPE_CHECKING:
    from rich.console import RenderableType

    from proxymode_cli.cluster import Cluster
    from proxymode_cli.view import FleetView, NodeView, RolloutView

WIDTH: Final = 104
LOOK_SECONDS: Final = 0.5
DEADLINE_SECONDS: Final = 300.0
SPEED: Final = 2.0
"""A film is so many times as fast as what it shows."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_pictures", description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "docs/pictures", help="where they go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxymode-pictures-") as logs:
        pictures = asyncio.run(take(Path(logs)))
    for name, text in pictures.items():
        (options.folder / name).write_text(text, encoding="utf-8")
        print(f"wrote {options.folder / name}")
    return 0


async def take(logs: Path) -> dict[str, str]:
    """The pictures by file name. Raises TimeoutError where the fleet does not come to where it should."""
    async with simulated(logs) as fleet:
        fleet.wanted["spec"]["rollout"]["paused"] = True
        await fleet.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(fleet.wanted))
        view, rollout = await _until_planned(fleet.cluster)
        behaviour = await asyncio.to_thread(migration, fleet.cluster, None, PROXYMODE, None)
        plan = Group(render.plan(view, rollout), *render_migration.summary(behaviour))
        await asyncio.to_thread(fleet.cluster.patch_proxy_mode, PROXYMODE, {"spec": {"rollout": {"paused": False}}})
        return {
            "terminal-status.svg": still(render.status(view), title="kubectl proxymode status", width=WIDTH),
            "terminal-plan.svg": still(plan, title="kubectl proxymode plan", width=WIDTH),
            "terminal-watch.svg": film(await _record(fleet.cluster), title="kubectl proxymode watch", width=WIDTH),
        }


def _is_planned(found: RolloutView) -> bool:
    """Paused, with every node heard of and checked for where it is to go, as the operator knows."""
    checked = len(found.nodes) == found.counts.desired and all(node.preflight for node in found.nodes)
    counted = found.counts.blocked == sum(bool(node.blockers) for node in found.nodes)
    return found.status == "Paused" and not found.stale and bool(found.nodes) and checked and counted


async def _look(cluster: Cluster) -> tuple[FleetView, RolloutView]:
    """The fleet now, without connections: simulated agents have none."""
    view = await asyncio.to_thread(cluster.fleet)
    rollout = view.rollout(PROXYMODE)
    assert rollout is not None
    return view, replace(rollout, nodes=tuple(map(_uncounted, rollout.nodes)))


def _uncounted(node: NodeView) -> NodeView:
    nothing = {"connections_found": None, "connections_kept": None, "connections_lost": None}
    switch = node.last_switch
    return node if switch is None else replace(node, last_switch=switch.model_copy(update=nothing))


async def _record(cluster: Cluster) -> list[tuple[float, RenderableType]]:
    """What `watch` draws, from one change to the next, until the rollout ends."""
    frames: list[tuple[float, RenderableType]] = []
    before: RolloutView | None = None
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            view, rollout = await _look(cluster)
            if rollout.status != "Paused" and (changes(before, rollout) or not frames):
                began = began if frames else time.monotonic()
                frames.append(((time.monotonic() - began) / SPEED, tree(view, rollout)))
                before = rollout
            if verdict(rollout) is not None and rollout.status != "Paused":
                return frames
            await asyncio.sleep(LOOK_SECONDS)


async def _until_planned(cluster: Cluster) -> tuple[FleetView, RolloutView]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            view, rollout = await _look(cluster)
            if _is_planned(rollout):
                return view, rollout
            await asyncio.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
