"""`python -m proxymode_pictures` rolls the demo's fleet to nftables and takes the pictures of the docs on the way."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group

import yaml
from proxymode_cli import render, render_migration, reporting
from proxymode_cli.cluster import Cluster
from proxymode_cli.gathering import migration
from proxymode_cli.watching import changes, tree, verdict
from proxymode_demo.fleet import REPOSITORY, running
from proxymode_demo.story import BEFORE, PROXYMODE, ROLLOUT
from proxymode_demo.traffic import Traffic
from proxymode_pictures.svg import film, still

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from proxymode_cli.view import FleetView, RolloutView
    from proxymode_demo.fleet import DemoFleet

WIDTH: Final = 104
NODES: Final = 4
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
    async with running(NODES, logs, say) as fleet:
        cluster = Cluster(str(fleet.api.kubeconfig()), None)
        await fleet.api.kubectl("apply", "-f", str(BEFORE))
        await _until(cluster, lambda found: verdict(found) is not None)
        say("the fleet is in ipvs")
        traffic = await Traffic.start(fleet.processes, fleet.network)
        try:
            return await _rollout(fleet, cluster)
        finally:
            await traffic.stop()


async def _rollout(fleet: DemoFleet, cluster: Cluster) -> dict[str, str]:
    wanted: dict[str, Any] = yaml.safe_load(ROLLOUT.read_text(encoding="utf-8"))
    wanted["spec"]["rollout"]["paused"] = True
    await fleet.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(wanted))
    view, rollout = await _until(cluster, lambda found: found.status == "Paused" and not found.stale)
    changes_report = await asyncio.to_thread(migration, cluster, None, PROXYMODE, None)
    plan = [render.plan(view, rollout), *render_migration.summary(changes_report)]
    pictures = {
        "terminal-status.svg": _still(render.status(view), "kubectl proxymode status"),
        "terminal-plan.svg": _still(Group(*plan), "kubectl proxymode plan"),
        "terminal-migration.svg": _still(render_migration.migration(changes_report), "kubectl proxymode migration"),
    }
    await asyncio.to_thread(cluster.patch_proxy_mode, PROXYMODE, {"spec": {"rollout": {"paused": False}}})
    say("the rollout begins")
    pictures["terminal-watch.svg"] = film(await _record(cluster), title="kubectl proxymode watch", width=WIDTH)
    say("it is complete")
    report = await asyncio.to_thread(reporting.gather, cluster, PROXYMODE)
    pictures["report.html"] = reporting.written(report, reporting.ReportFormat.HTML)
    return pictures


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


async def _until(cluster: Cluster, holds: Callable[[RolloutView], bool]) -> tuple[FleetView, RolloutView]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            view, rollout = await _look(cluster)
            if holds(rollout):
                return view, rollout
            await asyncio.sleep(LOOK_SECONDS)


async def _look(cluster: Cluster) -> tuple[FleetView, RolloutView]:
    view = await asyncio.to_thread(cluster.fleet)
    rollout = view.rollout(PROXYMODE)
    assert rollout is not None
    return view, rollout


def _still(drawn: RenderableType, title: str) -> str:
    return still(drawn, title=title, width=WIDTH)


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
