"""Operators that stop, die and take over in the middle of a rollout: nothing moves that should not, all gets done."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from operator_bed import LEASE, Bed, api, bed, install, operator
from proxymode_testbeds.polling import DEADLINE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer
    from proxymode_testbeds.apiserver.processes import ServerProcess

__all__ = ["api"]

THREE_STAGES = [
    {"name": "one", "count": 1},
    {"name": "half", "percent": 50, "approval": "Manual"},
    {"name": "all", "percent": 100},
]
EIGHT = [f"n{index}" for index in range(8)]


@pytest.fixture
async def fleet(api: ApiServer, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(api, tmp_path) as found:
        found.lease_seconds = 4  # until it runs out, nobody takes over
        await found.add_nodes(*EIGHT)
        yield found


async def test_sigterm_gives_the_lease_back_and_the_next_operator_goes_on(fleet: Bed) -> None:
    async with fleet.operator(name="first") as first:
        await fleet.create(stages=THREE_STAGES, maxUnavailable=1)
        await fleet.until_status("AwaitingApproval")
        before = await fleet.status()
        first.process.send_signal(signal.SIGTERM)
        assert await ended(first) == 0, first.log_tail()
    assert await fleet.lease_holder() == ""
    assert "Traceback" not in first.log.read_text()

    async with fleet.operator(name="second"):
        await _leads(fleet)
        await fleet.until_observed()
        after = await fleet.status()
        assert after["stages"][0] == before["stages"][0]
        assert list(fleet.modes().values()).count("nftables") == 1
        await fleet.edit({"metadata": {"annotations": {"proxymode.io/promote": "half"}}})
        await fleet.until_status("Complete")
    assert fleet.spec_writes == dict.fromkeys(EIGHT, 2)
    assert fleet.in_flight_most == 1


async def test_a_restart_with_a_node_in_mid_switch_tells_no_other(fleet: Bed) -> None:
    fleet.agents["n0"].hold = True
    async with fleet.operator(name="first") as first:
        await fleet.create(maxUnavailable=1)
        await fleet.until("n0 is told", lambda: ("n0", "nftables") in fleet.history)
        first.process.kill()
        await first.process.wait()
    async with fleet.operator(name="second"):
        await _leads(fleet)
        await fleet.edit({"spec": {"rollout": {"minReadySeconds": 0, "failureThreshold": 2}}})
        await fleet.until_observed()
        assert [name for name, mode in fleet.history if mode] == ["n0"]
        fleet.agents["n0"].hold = False
        await fleet.answer("n0")
        await fleet.until_status("Complete")
    assert fleet.in_flight_most == 1


async def test_the_second_replica_takes_over_when_the_leader_is_killed(fleet: Bed) -> None:
    async with fleet.operator(name="first") as first:
        await _leads(fleet)
        leader = await fleet.lease_holder()
        async with fleet.operator(name="second"):
            await fleet.create(stages=THREE_STAGES, maxUnavailable=1)
            await fleet.until("the first node has moved", lambda: "nftables" in fleet.modes().values())
            first.process.kill()
            await first.process.wait()
            await fleet.edit({"metadata": {"annotations": {"proxymode.io/promote": "half"}}})

            async def taken_over() -> bool:
                return await fleet.lease_holder() not in ("", leader)

            await eventually(taken_over, "another holder of the Lease")
            await fleet.edit({"metadata": {"annotations": {"proxymode.io/promote": "all"}}})
            await fleet.until_status("Complete")
    assert fleet.in_flight_most == 1
    assert fleet.spec_writes == dict.fromkeys(EIGHT, 2)


async def test_of_two_replicas_only_the_holder_of_the_lease_writes(fleet: Bed) -> None:
    fleet.lease_seconds = 60  # the same one to the end, also where the machine stands still
    async with fleet.operator(name="first") as first:
        await _leads(fleet)
        async with fleet.operator(name="second") as second:
            await fleet.create(maxUnavailable=8)
            await fleet.until_status("Complete")
            assert "node written" in first.log.read_text()
            assert "node written" not in second.log.read_text()


async def test_an_operator_that_lost_its_lease_writes_nothing_more(fleet: Bed) -> None:
    """Somebody takes the Lease away by force; the operator stops, and begins again when it gets the Lease back."""
    async with fleet.operator() as operator:
        await _leads(fleet)
        lease = await fleet.get(LEASE)
        lease["spec"] |= {"holderIdentity": "thief", "leaseDurationSeconds": 5}
        lease["metadata"].pop("resourceVersion")
        lease["metadata"].pop("managedFields", None)
        await fleet.request("PUT", LEASE, lease)
        await eventually(lambda: _has_line(operator, "lease lost"), "the operator notices")
        mark = len(operator.log.read_text())
        await fleet.create(maxUnavailable=8)
        await fleet.until_status("Complete")
        after = operator.log.read_text()[mark:]
        assert after.index("lease acquired") < after.index("node written")


async def test_the_operator_waits_for_the_crds(empty_api: ApiServer, tmp_path: Path) -> None:
    async with operator(empty_api, tmp_path / "operator.log") as process:
        await eventually(lambda: _has_line(process, "waiting for the API server and the CRDs"), "the operator waits")
        async with operator(empty_api, tmp_path / "stopped.log") as stopped:
            await eventually(lambda: _has_line(stopped, "waiting for"), "it waits too")
            stopped.process.send_signal(signal.SIGTERM)
            assert await ended(stopped) == 0, stopped.log_tail()
        await install(empty_api)
        async with bed(empty_api, tmp_path) as fleet:
            await fleet.add_nodes("n0")
            await fleet.create()
            await fleet.until_status("Complete")


async def ended(process: ServerProcess) -> int:
    """Its exit status. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await process.process.wait()


async def _has_line(process: ServerProcess, text: str) -> bool:
    return text in process.log.read_text()


async def _leads(fleet: Bed) -> None:
    async def held() -> bool:
        return bool(await fleet.lease_holder())

    await eventually(held, "a holder of the Lease")
