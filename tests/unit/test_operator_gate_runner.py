"""Questions to gates under way: one at a time for each gate, so many in all, none that outlives its ProxyMode."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from proxymode_api.gates import Gate, GateResult, WebhookGate
from proxymode_operator.gate_asking import Answer
from proxymode_operator.gate_runner import AT_ONCE, GateRunner
from proxymode_operator.rollout.gates import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Judge:
    """Answers nobody before it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting = 0
        self.cancelled: list[str] = []
        self.free = asyncio.Event()

    async def ask(self, proxy_mode: str, mode: str, question: Question) -> Answer:
        self.asked.append(question.gate.name)
        self.waiting += 1
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled.append(question.gate.name)
            raise
        finally:
            self.waiting -= 1
        return Answer(GateResult.PASS, "200", "yes")


def questions(count: int, stage: str = "") -> list[Question]:
    gates = [Gate(name=f"g{n}", webhook=WebhookGate(url="http://judge")) for n in range(count)]
    return [Question(gate=gate, definition="d", revision=1, stage=stage) for gate in gates]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Judge, GateRunner, list[str]]]:
    judge, told = Judge(), list[str]()
    async with GateRunner(judge, told.append) as runner:
        yield judge, runner, told


async def until_idle(judge: Judge, waiting: int) -> None:
    for _ in range(100):
        await asyncio.sleep(0)
    assert judge.waiting == waiting


async def test_a_gate_is_asked_once_at_a_time_and_its_answer_is_told() -> None:
    async with running() as (judge, runner, told):
        runner.start("fleet", "nftables", questions(2))
        runner.start("fleet", "nftables", questions(2))
        await until_idle(judge, 2)
        assert (judge.asked, runner.answers("fleet"), told) == (["g0", "g1"], (), [])
        judge.free.set()
        await until_idle(judge, 0)
        assert told == ["fleet", "fleet"]
        assert [answer.gate for answer in runner.answers("fleet")] == ["g0", "g1"]
        runner.start("fleet", "nftables", questions(1, stage="canary"))
        await until_idle(judge, 0)
        assert [answer.stage for answer in runner.answers("fleet")] == ["canary", ""], "the last of each"


async def test_so_many_hang_at_once_and_the_others_have_their_turn_afterwards() -> None:
    async with running() as (judge, runner, _):
        for name in ("one", "two"):
            runner.start(name, "nftables", questions(AT_ONCE))
        await until_idle(judge, AT_ONCE)
        judge.free.set()
        await until_idle(judge, 0)
        assert len(runner.answers("one")) == len(runner.answers("two")) == AT_ONCE


async def test_a_proxy_mode_that_is_gone_is_asked_about_no_more() -> None:
    async with running() as (judge, runner, told):
        runner.start("gone", "nftables", questions(2))
        runner.start("here", "nftables", questions(1))
        await until_idle(judge, 3)
        runner.forget("gone")
        await until_idle(judge, 1)
        judge.free.set()
        await until_idle(judge, 0)
        assert (told, runner.answers("gone")) == (["here"], ())


async def test_nothing_is_left_under_way_in_the_end() -> None:
    async with running() as (judge, runner, told):
        runner.start("fleet", "nftables", questions(3))
        await until_idle(judge, 3)
    assert (judge.cancelled, told) == (["g0", "g1", "g2"], [])
