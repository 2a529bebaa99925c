"""`python -m proxymode_pictures` rolls the demo's fleet to nftables and takes the pictures of the docs on the way."""

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
from proxymode_cli import render, render_migration, reporting
from proxymode_cli.gathering import migration
from proxymode_cli.watching import changes, tree, verdict
from proxymode_demo.fleet import REPOSITORY
from proxymode_demo.story import PROXYMODE
from proxymode_pictures import fleets
from proxymode_pictures.svg import film, still

if TYPE_CHECKING:
    from collections.abc import Callable

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
    parser.add_argument(
        "--simulated", action="store_true", help="of simulated agents, without VM; then no connections are shown"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxymode-pictures-") as logs:
        pictures = asyncio.run(take(Path(logs), simulated=options.simulated))
    for name, text in pictures.items():
        (options.folder / name).write_text(text, encoding="utf-8")
        print(f"wrote {options.folder / name}")
    return 0


async def take(logs: Path, *, simulated: bool) -> dict[str, str]:
    """The pictures by file name. Raises TimeoutError where the fleet does not come to where it should."""
    async with fleets.simulated(logs) if simulated else fleets.demo(logs, _settled, say) as fleet:
        say("the fleet is there")
        return await _rollout(fleet)


async def _settled(cluster: Cluster) -> None:
    await _until(Looks(cluster, counts=True), lambda found: verdict(found) is not None)


async def _rollout(fleet: fleets.PictureFleet) -> dict[str, str]:
    looks = Looks(fleet.cluster, counts=fleet.counts)
    fleet.wanted["spec"]["rollout"]["paused"] = True
    await fleet.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(fleet.wanted))
    view, rollout = await _until(looks, _is_planned)
    changes_report = await asyncio.to_thread(migration, fleet.cluster, None, PROXYMODE, None)
    plan = Group(render.plan(view, rollout), *render_migration.summary(changes_report))
    pictures = {
        "terminal-status.svg": _still(render.status(view), "kubectl proxymode status"),
        "terminal-plan.svg": _still(plan, "kubectl proxymode plan"),
    }
    await asyncio.to_thread(fleet.cluster.patch_proxy_mode, PROXYMODE, {"spec": {"rollout": {"paused": False}}})
    say("the rollout begins")
    pictures["terminal-watch.svg"] = film(await _record(looks), title="kubectl proxymode watch", width=WIDTH)
    say("it is complete")
    if fleet.counts:
        report = await asyncio.to_thread(reporting.gather, fleet.cluster, PROXYMODE)
        pictures["report.html"] = reporting.written(report, reporting.ReportFormat.HTML)
    return pictures


def _is_planned(found: RolloutView) -> bool:
    """Paused, with every node heard of and checked for where it is to go, as the operator knows."""
    checked = len(found.nodes) == found.counts.desired and all(node.preflight for node in found.nodes)
    counted = found.counts.blocked == sum(bool(node.blockers) for node in found.nodes)
    return found.status == "Paused" and not found.stale and bool(found.nodes) and checked and counted


class Looks:
    """One look after the other. Without `counts` no connections are in them: simulated agents have none."""

    def __init__(self, cluster: Cluster, *, counts: bool) -> None:
        self._cluster = cluster
        self._counts = counts

    async def next(self) -> tuple[FleetView, RolloutView]:
        view = await asyncio.to_thread(self._cluster.fleet)
        rollout = view.rollout(PROXYMODE)
        assert rollout is not None
        if not self._counts:
            rollout = replace(rollout, nodes=tuple(map(_uncounted, rollout.nodes)))
        return view, rollout


def _uncounted(node: NodeView) -> NodeView:
    nothing = {"connections_found": None, "connections_kept": None, "connections_lost": None}
    switch = node.last_switch
    return node if switch is None else replace(node, last_switch=switch.model_copy(update=nothing))


async def _record(looks: Looks) -> list[tuple[float, RenderableType]]:
    """What `watch` draws, from one change to the next, until the rollout ends."""
    frames: list[tuple[float, RenderableType]] = []
    before: RolloutView | None = None
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            view, rollout = await looks.next()
            if rollout.status != "Paused" and (changes(before, rollout) or not frames):
                began = began if frames else time.monotonic()
                frames.append(((time.monotonic() - began) / SPEED, tree(view, rollout)))
                before = rollout
            if verdict(rollout) is not None and rollout.status != "Paused":
                return frames
            await asyncio.sleep(LOOK_SECONDS)


async def _until(looks: Looks, holds: Callable[[RolloutView], bool]) -> tuple[FleetView, RolloutView]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            view, rollout = await looks.next()
            if holds(rollout):
                return view, rollout
            await asyncio.sleep(LOOK_SECONDS)


def _still(drawn: RenderableType, title: str) -> str:
    return still(drawn, title=title, width=WIDTH)


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
