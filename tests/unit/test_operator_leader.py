"""Leader election against a Lease kept in memory, with the API server's optimistic lock, in virtual time."""

from __future__ import annotations

import asyncio
import copy
import gc
from datetime import timedelta
from typing import Any

import pytest

from proxymode_operator.kubeapi import ApiError, NotLeaderError
from proxymode_operator.leader import Leader
from proxymode_operator.settings import LeaseTimes
from test_operator_queue import virtual

Json = dict[str, Any]


class Leases:
    """One Lease. `down` makes every request fail, `hang` makes it last for ever."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.gets = 0
        self.down: set[str] = set()
        self.hang: set[str] = set()

    def client(self, identity: str) -> Any:
        return _Client(self, identity)


class _Client:
    def __init__(self, leases: Leases, identity: str) -> None:
        self._leases = leases
        self._identity = identity

    async def _reach(self) -> None:
        await asyncio.sleep(0.01)
        if self._identity in self._leases.hang:
            await asyncio.Event().wait()
        if self._identity in self._leases.down:
            raise ApiError(0, "ConnectionError", "down")

    async def get(self, path: str) -> Json:
        self._leases.gets += 1
        await self._reach()
        assert path.endswith("/namespaces/ns/leases/lease")
        if self._leases.lease is None:
            raise ApiError(404, "NotFound", path)
        return copy.deepcopy(self._leases.lease)

    async def create(self, path: str, body: Json, *, fenced: bool = True) -> Json:
        assert not fenced
        await self._reach()
        if self._leases.lease is not None:
            raise ApiError(409, "AlreadyExists", path)
        return self._store(body)

    async def replace(self, path: str, body: Json) -> Json:
        await self._reach()
        assert self._leases.lease is not None
        if body["metadata"]["resourceVersion"] != self._leases.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", path)
        return self._store(body)

    def _store(self, body: Json) -> Json:
        self._leases.version += 1
        self._leases.lease = copy.deepcopy(body)
        self._leases.lease["metadata"]["resourceVersion"] = str(self._leases.version)
        return copy.deepcopy(self._leases.lease)


class Candidate:
    """A leader with a note of when it worked."""

    def __init__(self, leases: Leases, identity: str) -> None:
        self.leader = Leader(
            leases.client(identity), namespace="ns", name="lease", identity=identity, times=LeaseTimes()
        )
        self.spans: list[list[float]] = []
        self.task = asyncio.create_task(self.leader.run(self._work))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        self.spans.append([loop.time() - 1000])
        try:
            while True:
                self.leader.check()
                await asyncio.sleep(0.1)
        finally:
            self.spans[-1].append(loop.time() - 1000)

    def works(self) -> bool:
        return bool(self.spans) and len(self.spans[-1]) == 1

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def test_of_many_candidates_one_leads() -> None:
    async def scenario() -> None:
        leases = Leases()
        candidates = [Candidate(leases, f"c{i}") for i in range(4)]
        await asyncio.sleep(60)
        assert [c.works() for c in candidates].count(True) == 1
        assert sum(len(c.spans) for c in candidates) == 1, "nobody else ever worked"
        for candidate in candidates:
            await candidate.stop()

    virtual(scenario)


def test_a_leader_that_is_cut_off_stops_before_another_begins() -> None:
    async def scenario() -> None:
        for trouble in ("down", "hang"):
            leases = Leases()
            first = Candidate(leases, "first")
            await asyncio.sleep(5)
            second = Candidate(leases, "second")
            await asyncio.sleep(5)
            getattr(leases, trouble).add("first")
            cut_off = asyncio.get_running_loop().time() - 1000
            await asyncio.sleep(40)
            assert not first.works()
            with pytest.raises(NotLeaderError):
                first.leader.check()
            assert second.works()
            stopped, began = first.spans[0][1], second.spans[0][0]
            assert stopped < began
            assert stopped <= cut_off + LeaseTimes().renew_deadline.total_seconds()
            assert began - cut_off < 14, "the Lease, a period until the follower saw the last renewal, and a request"
            for candidate in (first, second):
                await candidate.stop()

    virtual(scenario)


def test_a_leader_that_comes_back_waits_for_its_turn() -> None:
    async def scenario() -> None:
        leases = Leases()
        first = Candidate(leases, "first")
        await asyncio.sleep(5)
        second = Candidate(leases, "second")
        leases.down.add("first")
        await asyncio.sleep(40)
        leases.down.clear()
        await asyncio.sleep(40)
        assert not first.works()
        assert second.works()
        await second.stop()
        await asyncio.sleep(5)
        assert first.works(), "the lease was given back"
        await first.stop()

    virtual(scenario)


def test_a_short_outage_costs_nothing() -> None:
    async def scenario() -> None:
        leases = Leases()
        candidate = Candidate(leases, "only")
        await asyncio.sleep(5)
        leases.down.add("only")
        await asyncio.sleep(6)
        leases.down.clear()
        await asyncio.sleep(20)
        assert len(candidate.spans) == 1
        assert candidate.works()
        await candidate.stop()

    virtual(scenario)


def test_stopping_gives_the_lease_back_and_the_next_one_need_not_wait() -> None:
    async def scenario() -> None:
        leases = Leases()
        first, second = Candidate(leases, "first"), Candidate(leases, "second")
        await asyncio.sleep(10)
        holder, other = (first, second) if first.works() else (second, first)
        await holder.stop()
        assert leases.lease is not None
        await asyncio.sleep(3)
        assert other.works()
        assert leases.lease["spec"]["leaseTransitions"] == 1
        await other.stop()
        assert leases.lease["spec"]["holderIdentity"] == ""

    virtual(scenario)


def test_times_must_leave_room_for_one_another() -> None:
    with pytest.raises(ValueError, match="--leader-elect-renew-deadline"):
        LeaseTimes(duration=timedelta(seconds=5), renew_deadline=timedelta(seconds=5))


def test_whatever_work_ends_with_when_the_lease_is_lost_is_nobody_elses_trouble() -> None:
    async def scenario() -> None:
        leases = Leases()
        leader = Leader(leases.client("a"), namespace="ns", name="lease", identity="a", times=LeaseTimes())
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        ends = 0

        async def work() -> None:
            nonlocal ends
            try:
                await asyncio.sleep(1000)
            finally:
                ends += 1
                raise NotLeaderError("asked to write after the Lease was lost")

        task = asyncio.create_task(leader.run(work))
        await asyncio.sleep(5)
        leases.down.add("a")
        await asyncio.sleep(30)
        leases.down.clear()
        await asyncio.sleep(30)
        assert ends == 1, "it leads again"
        task.cancel()
        await asyncio.wait({task})
        del task
        gc.collect()
        assert complaints == []

    virtual(scenario)


def test_to_renew_takes_one_request_and_a_thief_is_noticed() -> None:
    async def scenario() -> None:
        leases = Leases()
        candidate = Candidate(leases, "only")
        await asyncio.sleep(5)
        leases.gets = 0
        await asyncio.sleep(20)
        assert candidate.works()
        assert leases.gets == 0
        assert leases.lease is not None
        leases.lease["spec"]["holderIdentity"] = "thief"
        leases.version += 1
        leases.lease["metadata"]["resourceVersion"] = str(leases.version)
        await asyncio.sleep(LeaseTimes().renew_deadline.total_seconds() + 1)
        assert not candidate.works()
        await candidate.stop()

    virtual(scenario)
