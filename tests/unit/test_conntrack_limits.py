"""conntrack's settings: what kube-proxy would have seen to after a reboot, and nothing that somebody else has set."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.cell import Cell
from proxymode_agent.dataplane import limits
from proxymode_agent.dataplane.limits import (
    BE_LIBERAL,
    BUCKETS,
    CLOSE_WAIT,
    ESTABLISHED,
    MAX,
    UDP,
    UDP_STREAM,
    settle,
    settle_once_programmed,
    to_write,
)
from proxymode_agent.flags import parse
from proxymode_agent.services.model import ConntrackLimits, DataplaneConfig, HealthChecks
from proxymode_api.modes import KubeProxyPolicy, Mode

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS = parse([]).conntrack
BOOTED = {
    MAX: 262_144,
    BUCKETS: 262_144,
    ESTABLISHED: 432_000,
    CLOSE_WAIT: 60,
    UDP: 30,
    UDP_STREAM: 120,
    BE_LIBERAL: 0,
}
"""Linux 6.1 with 16 GiB of memory, whatever the number of cores."""


def test_defaults_are_kube_proxys() -> None:
    assert ConntrackLimits(32_768, 131_072, 86_400, 3_600) == DEFAULTS


@pytest.mark.parametrize(
    ("cores", "found", "expected"),
    [
        (4, BOOTED, {ESTABLISHED: 86_400, CLOSE_WAIT: 3_600}),
        (64, BOOTED, {BUCKETS: 524_288, MAX: 2_097_152, ESTABLISHED: 86_400, CLOSE_WAIT: 3_600}),
        (16, BOOTED, {MAX: 524_288, ESTABLISHED: 86_400, CLOSE_WAIT: 3_600}),
        (2, BOOTED | {MAX: 65_536}, {MAX: 131_072, ESTABLISHED: 86_400, CLOSE_WAIT: 3_600}),
        (64, {MAX: 4_000_000, BUCKETS: 1_000_000, ESTABLISHED: 7_200, CLOSE_WAIT: 30}, {}),
        (64, BOOTED | {MAX: 0, ESTABLISHED: 86_400, CLOSE_WAIT: 3_600}, {}),
        (64, {}, {}),
    ],
    ids=["few cores", "many", "enough buckets", "little memory", "somebody's own", "no maximum", "no conntrack"],
)
def test_what_is_written(cores: int, found: dict[str, int], expected: dict[str, int]) -> None:
    assert to_write(DEFAULTS, cores, found) == expected


def test_zero_leaves_everything_as_it_is() -> None:
    assert to_write(ConntrackLimits(0, 131_072, 0, 0), 64, BOOTED | {MAX: 1}) == {}


def test_what_has_no_default_is_set_where_it_is_asked_for() -> None:
    flags = ["--conntrack-udp-timeout=5s", "--conntrack-udp-timeout-stream=1m", "--conntrack-tcp-be-liberal"]
    asked = parse([*flags, "--conntrack-max-per-core=0"]).conntrack
    settled = BOOTED | {ESTABLISHED: 86_400, CLOSE_WAIT: 3_600}
    expected = {UDP: 5, UDP_STREAM: 60, BE_LIBERAL: 1}
    assert to_write(asked, 64, settled) == expected
    assert to_write(asked, 64, settled | {UDP: 300}) == expected, "whoever has set it"
    assert to_write(asked, 64, settled | expected) == {}
    assert to_write(asked, 64, {}) == {}
    assert to_write(DEFAULTS, 1, settled | expected) == {}, "nothing is set back"


def test_the_maximum_is_written_after_the_buckets() -> None:
    assert list(to_write(DEFAULTS, 64, BOOTED))[:2] == [BUCKETS, MAX]


def node(root: Path) -> Path:
    folder = root / "net/netfilter"
    folder.mkdir(parents=True)
    for name, value in BOOTED.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def test_a_setting_that_cannot_be_changed_keeps_no_other_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = node(tmp_path)
    (folder / BUCKETS).unlink()
    (folder / BUCKETS).mkdir()  # cannot be read
    caplog.set_level(logging.INFO)
    settle(DEFAULTS, 64, tmp_path)
    assert (folder / MAX).read_text() == "2097152"
    assert (folder / ESTABLISHED).read_text() == "86400"
    caplog.clear()
    settle(DEFAULTS, 64, tmp_path)
    assert not caplog.records, "what is right is not written again"


async def test_nothing_is_written_before_the_node_is_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(limits, "settle", lambda *_: loop.call_soon_threadsafe(done.set))
    programmed: Cell[HealthChecks | None] = Cell(None)
    task = asyncio.create_task(settle_once_programmed(DEFAULTS, programmed))
    await asyncio.sleep(0)
    programmed.set(HealthChecks(Mode.IPVS, DataplaneConfig(kube_proxy=KubeProxyPolicy.HAND_BACK), {}))
    await asyncio.sleep(0)
    assert not done.is_set()
    programmed.set(HealthChecks(Mode.IPVS, DataplaneConfig(), {}))
    async with asyncio.timeout(60):
        await done.wait()
        await task
