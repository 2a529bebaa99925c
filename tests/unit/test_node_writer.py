"""When a node's status is written, by a clock that people may set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.metrics import Metrics
from proxymode_agent.node.pause import Pause
from proxymode_agent.node.writer import DEFAULT_PACE, StatusWriter
from proxymode_api.nodeproxymode import NodeProxyModeStatus, Phase

if TYPE_CHECKING:
    from proxymode_agent.kube.client import KubeClient

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


class FakeClient:
    """Takes what is applied, or refuses it."""

    def __init__(self) -> None:
        self.refuses = False
        self.heartbeats: list[str] = []

    async def apply(self, path: str, body: dict[str, Any], **_: str) -> None:
        if self.refuses:
            raise ApiError(503, "Unavailable", path)
        self.heartbeats.append(body["status"]["heartbeatTime"])


def beat(at: datetime, phase: Phase = Phase.ACTIVE) -> NodeProxyModeStatus:
    return NodeProxyModeStatus(heartbeat_time=at, phase=phase)


def made(client: FakeClient) -> StatusWriter:
    return StatusWriter(cast("KubeClient", client), "n1", Metrics(), NOW, DEFAULT_PACE)


async def test_a_heartbeat_is_written_a_minute_after_the_last() -> None:
    client = FakeClient()
    writer = made(client)
    assert await writer.write_when_due(beat(NOW), EnginePhase.ACTIVE, NOW) == NOW + DEFAULT_PACE.heartbeat
    for later in (SECOND, 59 * SECOND, 60 * SECOND):
        await writer.write_when_due(beat(NOW + later), EnginePhase.ACTIVE, NOW + later)
    assert client.heartbeats == ["2026-11-21T12:00:00Z", "2026-11-21T12:01:00Z"]


async def test_a_clock_that_is_set_back_silences_no_agent() -> None:
    """By the old reckoning nothing would be due for an hour, and after three minutes the operator gives an agent up."""
    client = FakeClient()
    writer = made(client)
    await writer.write_when_due(beat(NOW), EnginePhase.ACTIVE, NOW)
    back = NOW - HOUR
    again = await writer.write_when_due(beat(back), EnginePhase.ACTIVE, back)
    assert client.heartbeats == ["2026-11-21T12:00:00Z", "2026-11-21T11:00:00Z"]
    assert again == back + DEFAULT_PACE.heartbeat
    await writer.write_when_due(beat(back + SECOND, Phase.FAILED), EnginePhase.FAILED, back + SECOND)
    assert len(client.heartbeats) == 3, "news a second later is no sooner"


async def test_a_clock_that_is_set_back_makes_no_back_off_longer() -> None:
    client = FakeClient()
    writer = made(client)
    client.refuses = True
    until = await writer.write_when_due(beat(NOW), EnginePhase.ACTIVE, NOW)
    assert NOW < until <= NOW + SECOND
    assert await writer.write_when_due(beat(NOW), EnginePhase.ACTIVE, NOW) == until
    client.refuses = False
    await writer.write_when_due(beat(NOW - HOUR), EnginePhase.ACTIVE, NOW - HOUR)
    assert client.heartbeats == ["2026-11-21T11:00:00Z"]


async def test_nothing_is_said_of_an_engine_that_has_just_begun() -> None:
    client = FakeClient()
    writer = made(client)
    settled = NOW + DEFAULT_PACE.settle
    assert await writer.write_when_due(beat(NOW), EnginePhase.PENDING, NOW) == settled
    assert client.heartbeats == []
    await writer.write_when_due(beat(settled), EnginePhase.PENDING, settled)
    assert client.heartbeats == ["2026-11-21T12:00:10Z"]


async def test_a_clock_that_is_set_back_makes_no_beginning_longer() -> None:
    client = FakeClient()
    await made(client).write_when_due(beat(NOW - HOUR), EnginePhase.PENDING, NOW - HOUR)
    assert client.heartbeats == ["2026-11-21T11:00:00Z"]


def test_a_pause_is_over_before_it_began_and_after_it_has_ended() -> None:
    pause = Pause(NOW, NOW + SECOND)
    assert [pause.over(NOW + at * SECOND) for at in (-1, 0, 0.5, 1, 2)] == [True, False, False, True, True]
