"""Nodes and NodeProxyModes are followed through every way in which a watch can end, and nothing is missed or kept."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxymode_operator import listwatch, stream
from proxymode_operator.cache import Cache
from proxymode_operator.kubeapi import ApiError, Kind, Page
from proxymode_operator.pace import Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from proxymode_operator.kubeapi import KubeApi

Json = dict[str, Any]
Event = tuple[str, Json]


def node(name: str, version: int) -> Json:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


class Server:
    """Answers lists and watches as it was told to, one after another; then nothing happens any more."""

    def __init__(self, lists: list[list[Page] | ApiError], watches: list[list[Event] | ApiError]) -> None:
        self._lists = lists
        self._watches = watches
        self.asked: list[str] = []
        self.idle = asyncio.Event()

    async def list_pages(self, kind: Kind) -> AsyncIterator[Page]:
        assert kind is Kind.NODE
        self.asked.append("list")
        pages = self._lists.pop(0)
        if isinstance(pages, ApiError):
            raise pages
        for page in pages:
            yield page

    async def watch(self, kind: Kind, version: str, pause: Callable[[], Awaitable[None]]) -> AsyncIterator[Event]:
        assert kind is Kind.NODE
        assert pause is not None
        self.asked.append(version)
        if not self._watches:
            self.idle.set()
            await asyncio.Event().wait()
        events = self._watches.pop(0)
        if isinstance(events, ApiError):
            raise events
        for event in events:
            yield event


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listwatch, "_FIRST_BACKOFF_SECONDS", 0.0)


def followed(
    lists: list[list[Page] | ApiError], watches: list[list[Event] | ApiError]
) -> tuple[dict[str, str], list[str]]:
    """What is cached in the end, name to uid, and what the server was asked: `list`, or the version of a watch."""

    async def scenario() -> tuple[dict[str, str], list[str]]:
        server, cache = Server(lists, watches), Cache(lambda _: None)
        task = asyncio.create_task(listwatch.follow(cast("KubeApi", server), cache, Kind.NODE, Pace()))
        async with asyncio.timeout(60):
            await server.idle.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return cache.known(Kind.NODE), server.asked

    return asyncio.run(scenario())


def test_all_pages_of_the_list_are_taken_and_watched_from_there() -> None:
    pages = [Page([node("a", 3), node("b", 5)], "9"), Page([node("c", 4)], "9")]
    known, asked = followed([pages], [])
    assert sorted(known) == ["a", "b", "c"]
    assert asked == ["list", "9"]


def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    events = [
        ("ADDED", node("b", 10)),
        ("DELETED", node("a", 11)),
        ("BOOKMARK", {"metadata": {"resourceVersion": "15"}}),
    ]
    known, asked = followed([[Page([node("a", 3)], "9")]], [events, []])
    assert sorted(known) == ["b"]
    assert asked == ["list", "9", "15", "15"]


def test_a_version_that_is_too_old_lists_anew_and_drops_what_has_vanished() -> None:
    lists: list[list[Page] | ApiError] = [[Page([node("a", 3), node("b", 4)], "9")], [Page([node("b", 4)], "20")]]
    known, asked = followed(lists, [ApiError(410, "Expired", "too old")])
    assert sorted(known) == ["b"]
    assert asked == ["list", "9", "list", "20"]


def test_an_error_is_survived_without_listing_again() -> None:
    lists: list[list[Page] | ApiError] = [ApiError(503, "ServiceUnavailable", "no"), [Page([node("a", 3)], "9")]]
    known, asked = followed(lists, [ApiError(0, "TimeoutError", "gone quiet"), [("MODIFIED", node("a", 12))]])
    assert sorted(known) == ["a"]
    assert asked == ["list", "list", "9", "9", "12"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_lines_wherever_the_network_cuts_them(size: int) -> None:
    large = b'{"b": "' + b"x" * 300_000 + b'"}'
    text = b'{"type": "ADDED", "object": {"a": 1}}\n{"type": "DELETED", "object": ' + large + b"}\n"

    async def chunks() -> AsyncIterator[bytes]:
        step = size * 1000 if size > 1 else 1_000_000
        for start in range(0, len(text), step):
            yield text[start : start + step]

    async def read() -> list[tuple[str, bytes]]:
        return [(event.type, bytes(event.object)) async for event in stream.lines(chunks())]

    assert asyncio.run(read()) == [("ADDED", b'{"a": 1}'), ("DELETED", large)]
