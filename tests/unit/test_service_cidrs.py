"""ServiceCIDRs: told when known and when changed, quiet where they are not served."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from fake_api import fake_api, listed, obj, status, watched
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.cluster import ClusterConfig
from proxymode_agent.kube.credentials import Credential, StaticCredentials
from proxymode_agent.kube.service_cidrs import PATH, ServiceCidrs, merged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fake_api import Answer, FakeApi
    from proxymode_agent.services.model import Network

DEADLINE = 60.0


def cidr(name: str, version: int, *cidrs: str) -> dict[str, Any]:
    return obj(name, version, namespace="", spec={"cidrs": list(cidrs)})


@asynccontextmanager
async def told(*script: Answer) -> AsyncIterator[tuple[asyncio.Queue[list[str]], FakeApi]]:
    """What ServiceCidrs tells, as text, on this script."""
    heard: asyncio.Queue[list[str]] = asyncio.Queue()

    def tell(networks: tuple[Network, ...]) -> None:
        heard.put_nowait(list(map(str, networks)))

    async with fake_api(*script) as api, asyncio.timeout(DEADLINE):
        config = ClusterConfig(server=api.url, credentials=StaticCredentials(Credential("secret")))
        async with KubeClient(config) as client:
            task = asyncio.create_task(ServiceCidrs(client, tell, settle=0.001, ask_again=0.001).run())
            try:
                yield heard, api
            finally:
                task.cancel()
                await asyncio.wait([task])


async def test_networks_are_told_when_all_are_known_and_when_they_change() -> None:
    first, second = cidr("kubernetes", 1, "10.96.0.0/16", "fd00:96::/112"), cidr("more", 2, "10.97.0.0/16")
    async with told(
        listed(5, first),
        listed(5, first, second),
        watched(("MODIFIED", cidr("more", 6, "10.98.0.0/16")), stay_open=True),
    ) as (heard, _):
        assert await heard.get() == ["10.96.0.0/15", "fd00:96::/112"]
        assert await heard.get() == ["10.96.0.0/16", "10.98.0.0/16", "fd00:96::/112"]


async def test_a_deleted_one_counts_no_more() -> None:
    first, second = cidr("kubernetes", 1, "10.96.0.0/16"), cidr("more", 2, "10.112.0.0/16")
    async with told(
        listed(5, first), listed(5, first, second), watched(("DELETED", cidr("more", 6)), stay_open=True)
    ) as (heard, _):
        assert await heard.get() == ["10.96.0.0/16", "10.112.0.0/16"]
        assert await heard.get() == ["10.96.0.0/16"]


@pytest.mark.parametrize(
    ("answer", "lines"),
    [(status(404, "NotFound"), 0), (status(403, "Forbidden"), 1)],
    ids=["an older cluster", "no right to read them"],
)
async def test_a_server_without_them_is_asked_again_without_noise(
    answer: Answer, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with told(
            answer, answer, answer, listed(5), listed(5, cidr("kubernetes", 1, "10.96.0.0/16")), watched(stay_open=True)
        ) as (heard, api):
            assert await heard.get() == ["10.96.0.0/16"]
            assert [path for path, _ in api.requests[:5]] == [PATH] * 5
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == lines


def test_networks_do_not_overlap_and_what_is_none_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["10.96.0.0/12", "10.100.0.0/16", "fd00:96::/108", "fd00:96::/112", "services"]
    assert list(map(str, merged(texts))) == ["10.96.0.0/12", "fd00:96::/108"]
    assert "not a network" in caplog.text
