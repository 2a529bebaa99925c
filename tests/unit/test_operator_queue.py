"""The reconcile queue: coalesced, one at a time, backing off, waking by itself. Time is virtual."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

import pytest

from proxymode_operator.kubeapi import ApiError, NotLeaderError
from proxymode_operator.metrics import REGISTRY
from proxymode_operator.queue import INTERVAL_SECONDS, ConflictError, Queue, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time that it was to wait for has passed."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.skipped += timeout or 0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while something runs and jumps to the next timer otherwise."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.skipped


def virtual(test: Callable[[], Awaitable[None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(test())
    finally:
        loop.close()


class Recorder:
    """A handler that notes when it is called, and does what it was told to, call by call."""

    def __init__(self, *answers: float | Exception | None) -> None:
        self.calls: list[tuple[str, float]] = []
        self.running = 0
        self._answers = list(answers)

    async def __call__(self, key: str) -> float | None:
        self.running += 1
        assert self.running == 1, "two reconciles at one time"
        self.calls.append((key, asyncio.get_running_loop().time() - 1000))
        await asyncio.sleep(0.01)
        self.running -= 1
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def times(self) -> list[float]:
        return [when for _, when in self.calls]


async def run_for(queue: Queue, seconds: float) -> None:
    task = asyncio.create_task(queue.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait({task})


def test_many_requests_for_one_key_make_one_reconcile() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        queue = Queue(recorder)
        for _ in range(100):
            queue.add("a")
        queue.add("b")
        await run_for(queue, 5)
        assert sorted(key for key, _ in recorder.calls) == ["a", "b"]

    virtual(scenario)


def test_a_request_during_a_reconcile_makes_one_more_not_sooner_than_the_interval() -> None:
    async def scenario() -> None:
        recorder = Recorder()
        queue = Queue(recorder)
        queue.add("a")
        task = asyncio.create_task(run_for(queue, 5))
        await asyncio.sleep(0.005)
        for _ in range(10):
            queue.add("a")
        await task
        assert len(recorder.calls) == 2
        assert recorder.times[1] - recorder.times[0] == pytest.approx(INTERVAL_SECONDS)

    virtual(scenario)


def test_a_key_is_done_again_by_itself_when_its_reconcile_said_so() -> None:
    async def scenario() -> None:
        recorder = Recorder(30.0)
        queue = Queue(recorder)
        queue.add("a")
        await run_for(queue, 100)
        assert recorder.times == pytest.approx([0, 30.01])

    virtual(scenario)


def test_a_request_comes_before_the_time_it_was_to_be_done_again() -> None:
    async def scenario() -> None:
        recorder = Recorder(1000.0)
        queue = Queue(recorder)
        queue.add("a")
        task = asyncio.create_task(run_for(queue, 50))
        await asyncio.sleep(7)
        queue.add("a")
        await task
        assert recorder.times == pytest.approx([0, 7])

    virtual(scenario)


def test_failures_back_off_ever_longer_up_to_a_minute_and_requests_do_not_shorten_that() -> None:
    async def scenario() -> None:
        recorder = Recorder(*[ApiError(500, "InternalError", "no")] * 14)
        queue = Queue(recorder)
        queue.add("a")
        task = asyncio.create_task(run_for(queue, 1000))
        for _ in range(2000):
            await asyncio.sleep(0.5)
            if len(recorder.calls) < 15:
                queue.add("a")
        await task
        gaps = [later - earlier for earlier, later in zip(recorder.times, recorder.times[1:], strict=False)]
        assert gaps[0] < 0.2
        assert gaps[6] > gaps[4] > gaps[2]
        assert max(gaps) < 76
        assert gaps[13] > 40

    virtual(scenario)


def test_other_keys_go_on_while_one_fails() -> None:
    async def scenario() -> None:
        done: list[str] = []

        async def handler(key: str) -> float | None:
            if key == "bad":
                raise RuntimeError("a bug")
            done.append(key)
            return None

        queue = Queue(handler)
        queue.add("bad")
        queue.add("good")
        await run_for(queue, 10)
        assert done == ["good"]

    virtual(scenario)


def test_conflicts_are_tried_again_within_about_a_second_however_many() -> None:
    async def scenario() -> None:
        recorder = Recorder(*[ConflictError("agent wrote")] * 20)
        queue = Queue(recorder)
        queue.add("a")
        await run_for(queue, 100)
        gaps = [later - earlier for earlier, later in zip(recorder.times, recorder.times[1:], strict=False)]
        assert len(gaps) == 20
        assert max(gaps) < 1.3
        assert min(gaps[5:]) > 0.7, "but ever more slowly up to that"

    virtual(scenario)


def test_conflicts_beside_progress_do_not_slow_down() -> None:
    async def scenario() -> None:
        recorder = Recorder(*[ConflictError("one of many agents wrote", progress=True)] * 20)
        queue = Queue(recorder)
        queue.add("a")
        await run_for(queue, 100)
        gaps = [later - earlier for earlier, later in zip(recorder.times, recorder.times[1:], strict=False)]
        assert len(gaps) == 20
        assert max(gaps) < 0.2

    virtual(scenario)


def test_one_object_that_is_refused_for_good_slows_nobody_down_as_long_as_others_are_written() -> None:
    async def scenario() -> None:
        refused = [RefusedError("by a policy", progress=True)] * 10 + [RefusedError("by a policy", progress=False)] * 12
        recorder = Recorder(*refused)
        queue = Queue(recorder)
        queue.add("a")
        await run_for(queue, 400)
        gaps = [later - earlier for earlier, later in zip(recorder.times, recorder.times[1:], strict=False)]
        assert max(gaps[:10]) < 0.2
        assert gaps[-1] > 40, "but who is left alone with it asks ever more seldom"

    virtual(scenario)


def test_a_reaction_is_timed_from_the_first_request_over_failures_to_the_end_and_a_reconcile_by_itself_is_none() -> (
    None
):
    def reaction(what: str) -> float:
        return REGISTRY.get_sample_value(f"proxymode_operator_reaction_seconds_{what}") or 0.0

    async def scenario() -> None:
        recorder = Recorder(ApiError(503, "Unavailable", "later"), 5.0, None)
        queue = Queue(recorder)
        count, seconds = reaction("count"), reaction("sum")
        queue.add("a")
        asyncio.get_running_loop().call_later(0.05, queue.add, "a")
        await run_for(queue, 100)
        assert len(recorder.times) == 3
        assert reaction("count") - count == 1
        assert reaction("sum") - seconds == pytest.approx(recorder.times[1] + 0.01, abs=0.001)

    virtual(scenario)


def test_without_the_lease_the_queue_ends() -> None:
    async def scenario() -> None:
        queue = Queue(Recorder(NotLeaderError("no")))
        queue.add("a")
        with pytest.raises(NotLeaderError):
            await queue.run()

    virtual(scenario)
