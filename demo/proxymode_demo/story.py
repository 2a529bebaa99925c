"""The demo act by act: the fleet in ipvs, traffic, the rollout to nftables, the way back, what was measured."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from proxymode_demo.fleet import REPOSITORY, DemoFleet, running
from proxymode_demo.traffic import Totals, Traffic

if TYPE_CHECKING:
    from pathlib import Path

BEFORE: Final = REPOSITORY / "demo/yaml/before.yaml"
ROLLOUT: Final = REPOSITORY / "demo/yaml/proxymode.yaml"
PROXYMODE: Final = "fleet"
ROLLOUT_SECONDS: Final = 900.0
UNDISTURBED_SECONDS: Final = 5.0


class DemoError(Exception):
    """The demo did not get to its end; the message says where, and where the logs are."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured; the demo's last line."""

    nodes: int
    switched: int
    returned: int
    established: int
    lost: int
    new: int
    failed: int
    seconds: float

    @property
    def good(self) -> bool:
        """Everybody went over and came back, and no new connection failed."""
        return self.nodes == self.switched == self.returned and self.failed == 0 and self.new > 0

    def line(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


async def tell(nodes: int, folder: Path) -> Outcome:
    """Runs it all. Raises DemoError, TimeoutError, and whatever starting the test beds raises."""
    began = time.monotonic()
    heading(f"A fleet of {nodes} nodes")
    async with running(nodes, folder, point) as fleet:
        heading("Where many fleets are today: ipvs")
        await type_and_run(fleet, "kubectl", "apply", "-f", BEFORE)
        await watch(fleet)
        await show(fleet)

        heading("Traffic: from pods, from the nodes themselves, from outside")
        traffic = await Traffic.start(fleet.processes, fleet.network)
        try:
            await asyncio.sleep(UNDISTURBED_SECONDS)
            report(traffic.totals())
            switched, returned = await there_and_back(fleet, traffic)
        finally:
            totals = await traffic.stop()
            heading("What the clients saw")
            report(totals)
            for line in traffic.complaints():
                point(line)
    return Outcome(
        nodes=nodes,
        switched=switched,
        returned=returned,
        established=totals.established,
        lost=totals.lost,
        new=totals.new,
        failed=totals.failed,
        seconds=round(time.monotonic() - began, 1),
    )


async def there_and_back(fleet: DemoFleet, traffic: Traffic) -> tuple[int, int]:
    """The rollout and its undoing; how many nodes went over, how many came back."""
    heading("Over to nftables: a canary, half of the fleet, everybody")
    await type_and_run(fleet, "kubectl", "apply", "-f", ROLLOUT)
    await watch(fleet)
    switched = await fleet.in_mode("nftables")
    await show(fleet)
    report(traffic.totals())

    heading("And back, with one command")
    await type_and_run(fleet, "kubectl", "proxymode", "undo", PROXYMODE)
    await watch(fleet)
    returned = await fleet.in_mode("ipvs")
    await show(fleet)
    return switched, returned


def heading(text: str) -> None:
    print(f"\n\N{BLACK RIGHT-POINTING TRIANGLE} {text}", flush=True)


def point(text: str) -> None:
    print(f"  {text}", flush=True)


def report(totals: Totals) -> None:
    point(
        f"long-lived connections: {totals.established}, lost {totals.lost}; new ones: {totals.new}, failed "
        f"{totals.failed}; datagrams: {totals.udp_sent}, lost {totals.udp_lost}"
    )
    if totals.longest_gap_ms:
        point(f"longest wait for an answer on a long-lived connection: {totals.longest_gap_ms:.0f} ms")
    if totals.away_seconds:
        point(f"for {totals.away_seconds:.0f} s a client's machine stood still, which counts for no timeout")


async def type_and_run(fleet: DemoFleet, *words: str | Path) -> None:
    """Shows a command as a user would type it, runs it, and shows what it says."""
    typed = [str(word.relative_to(REPOSITORY)) if not isinstance(word, str) else word for word in words]
    print(f"  $ {' '.join(typed)}", flush=True)
    done = await fleet.api.kubectl(*(str(word) for word in words[1:]))
    for line in (done.stderr + done.stdout).splitlines():
        print(f"  {line}", flush=True)


async def show(fleet: DemoFleet) -> None:
    await type_and_run(fleet, "kubectl", "get", "proxymodes")
    await type_and_run(fleet, "kubectl", "get", "nodeproxymodes")
    found = {node.name: await fleet.kernel_mode(node.name) for node in fleet.network.nodes}
    point("what nft and ipvsadm find on the nodes: " + ", ".join(f"{node} {mode}" for node, mode in found.items()))


async def watch(fleet: DemoFleet) -> None:
    """`kubectl proxymode watch` on this terminal until the rollout is complete; raises DemoError where it is not."""
    print(f"  $ kubectl proxymode watch {PROXYMODE}", flush=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxymode_cli", "watch", PROXYMODE, "--kubeconfig", str(fleet.api.kubeconfig())),
        stdin=asyncio.subprocess.DEVNULL,
        env=os.environ | {"KUBECONFIG": ""},
    )
    try:
        async with asyncio.timeout(ROLLOUT_SECONDS):
            status = await process.wait()
    except TimeoutError:
        raise DemoError(f"the rollout did not end within {ROLLOUT_SECONDS:.0f} s; logs are in {fleet.folder}") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        raise DemoError(f"the rollout stopped (exit status {status} of watch); logs are in {fleet.folder}")
