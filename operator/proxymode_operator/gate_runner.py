"""Keeps questions to gates under way, so that none keeps anybody else waiting.

Solves: each gate is asked by a task of its own, at most once at a time and at most so many in all; its answer is kept
until the planner has it in the status, and its ProxyMode is reconciled then. A Prometheus that hangs costs one task
until its timeout. Deliberately does not know when to ask, nor what an answer means: that is `rollout.gates`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, Self

from proxymode_api.gates import GateResult
from proxymode_operator.gate_asking import Answer
from proxymode_operator.metrics import GATE_ANSWERS, GATE_SECONDS, GATES_ASKED
from proxymode_operator.rollout.gates import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxymode_operator.rollout.gates import Question

logger = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Four ProxyModes with as many gates as there may be, all of which hang."""


class Asks(Protocol):
    """Who asks; see `gate_asking.Asker`."""

    async def ask(self, proxy_mode: str, mode: str, question: Question) -> Answer:
        """Never raises what an answer could be."""


class GateRunner:
    """`answered(proxy_mode)` is called for every answer. Use as an async context manager."""

    def __init__(self, asker: Asks, answered: Callable[[str], None]) -> None:
        self._asker = asker
        self._answered = answered
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._answers: dict[str, dict[str, Measurement]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def answers(self, proxy_mode: str) -> tuple[Measurement, ...]:
        """The last answer of each gate."""
        return tuple(self._answers.get(proxy_mode, {}).values())

    def start(self, proxy_mode: str, mode: str, questions: Iterable[Question]) -> None:
        """Asks those that are not being asked already."""
        for question in questions:
            key = (proxy_mode, question.gate.name)
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._ask(proxy_mode, mode, question))

    def forget(self, proxy_mode: str) -> None:
        """There is no such ProxyMode any more."""
        self._answers.pop(proxy_mode, None)
        for (name, _), task in self._tasks.items():
            if name == proxy_mode:
                task.cancel()

    async def _ask(self, proxy_mode: str, mode: str, question: Question) -> None:
        gate = question.gate.name
        try:
            async with self._slots:
                GATES_ASKED.inc()
                at, began = datetime.now(UTC).replace(microsecond=0), time.perf_counter()
                try:
                    answer = await self._asker.ask(proxy_mode, mode, question)
                except Exception as error:
                    # A gate is anybody's server: what it did to us must not end the operator, nor pass for a yes.
                    logger.exception("asking a gate failed", extra={"proxymode": proxy_mode, "gate": gate})
                    answer = Answer(GateResult.ERROR, "", f"asking it failed: {type(error).__name__}")
                finally:
                    GATES_ASKED.dec()
                    GATE_SECONDS.observe(time.perf_counter() - began)
        finally:
            del self._tasks[proxy_mode, gate]
        GATE_ANSWERS.labels(proxy_mode, gate, answer.result.value).inc()
        logger.info(
            "gate answered",
            extra={
                "proxymode": proxy_mode,
                "gate": gate,
                "stage": question.stage,
                "result": answer.result.value,
                "value": answer.value,
                "note": answer.message,
            },
        )
        self._answers.setdefault(proxy_mode, {})[gate] = Measurement(
            gate=gate,
            definition=question.definition,
            revision=question.revision,
            stage=question.stage,
            at=at,
            result=answer.result,
            value=answer.value,
            message=answer.message,
        )
        self._answered(proxy_mode)
