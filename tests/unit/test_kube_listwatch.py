"""ListWatch against a server that misbehaves in every way an API server can: nothing is missed, nothing invented."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_api import FakeApi, dropped, expired, fake_api, listed, obj, status, vanished, watched
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.cluster import ClusterConfig
from proxymode_agent.kube.credentials import Credential, StaticCredentials
from proxymode_agent.kube.listwatch import Changed, Deleted, ListWatch, Synced
from proxymode_agent.kube.objects import ObjectKey
from proxymode_agent.kube.restarts import RestartReason, Timing

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_api import Answer

PATH = "/api/v1/things"
QUICK = Timing(backoff_first=0.001, backoff_cap=0.01)
DEADLINE = 60.0


def config(api: FakeApi) -> ClusterConfig:
    return ClusterConfig(server=api.url, credentials=StaticCredentials(Credential("secret")))


def decode(data: bytes) -> str:
    """The test's kind: its `value`, or a complaint."""
    value = msgspec.json.decode(data).get("value", "")
    if value == "unreadable":
        raise ValueError("value is unreadable")
    return str(value)


def decode_all(array: memoryview) -> list[tuple[ObjectKey, str, str]]:
    """All of an array, or a complaint about it."""
    found = []
    for item in msgspec.json.decode(array):
        if item.get("value") == "unreadable":
            raise msgspec.ValidationError("value is unreadable")
        meta = item["metadata"]
        found.append((ObjectKey(meta["namespace"], meta["name"]), meta["resourceVersion"], str(item.get("value", ""))))
    return found


def shown(event: Changed[str] | Deleted | Synced) -> str:
    match event:
        case Changed(key, value):
            return f"{key}={value}"
        case Deleted(key):
            return f"-{key}"
        case Synced(version):
            return f"synced {version}"


async def events(
    *script: Answer, until: Callable[[FakeApi, list[str]], bool], timing: Timing = QUICK, **options: Any
) -> tuple[list[str], list[RestartReason], FakeApi]:
    """What a ListWatch emits on this script until the condition holds; then why it began anew, and the server."""
    seen: list[str] = []
    restarts: list[RestartReason] = []
    async with fake_api(*script) as api, KubeClient(config(api)) as client, asyncio.timeout(DEADLINE):
        watch = ListWatch(
            client, PATH, decode, decode_all=decode_all, timing=timing, restarted=restarts.append, **options
        )
        async with aclosing(watch.events()) as stream:
            async for event in stream:
                seen.append(shown(event))
                if until(api, seen):
                    break
    return seen, restarts, api


def ends_with(last: str) -> Callable[[FakeApi, list[str]], bool]:
    return lambda _, seen: seen[-1] == last


async def test_lists_then_watches_from_there() -> None:
    seen, restarts, api = await events(
        listed(7, obj("a", 3, value="1"), obj("b", 5, value="2")),
        watched(
            ("MODIFIED", obj("a", 8, value="3")),
            ("ADDED", obj("c", 9, value="4")),
            ("DELETED", obj("b", 10, value="2")),
            stay_open=True,
        ),
        until=ends_with("-ns/b"),
        label_selector="!x",
        field_selector="metadata.name=a",
    )
    assert seen == ["ns/a=1", "ns/b=2", "synced 7", "ns/a=3", "ns/c=4", "-ns/b"]
    assert restarts == []
    (_, first), (_, second) = api.requests
    assert first == {"resourceVersion": "0", "labelSelector": "!x", "fieldSelector": "metadata.name=a"}
    assert second.pop("timeoutSeconds").isdigit()
    assert second == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "7",
        "labelSelector": "!x",
        "fieldSelector": "metadata.name=a",
    }


async def test_a_list_comes_page_by_page_and_is_synced_only_at_its_end() -> None:
    seen, _, api = await events(
        listed(7, obj("a", 1), more="p2"),
        listed(7, obj("b", 2), more="p3"),
        listed(7, obj("c", 3)),
        until=ends_with("synced 7"),
    )
    assert seen == ["ns/a=", "ns/b=", "ns/c=", "synced 7"]
    assert [query.get("continue") for _, query in api.requests] == [None, "p2", "p3"]


async def test_a_watch_that_ends_is_resumed_at_the_last_bookmark_without_a_list() -> None:
    seen, restarts, api = await events(
        listed(7),
        watched(("ADDED", obj("a", 8, value="1")), ("BOOKMARK", obj("", 20, namespace=""))),
        watched(("ADDED", obj("b", 21, value="2")), stay_open=True),
        until=ends_with("ns/b=2"),
    )
    assert seen == ["synced 7", "ns/a=1", "ns/b=2"]
    assert restarts == [RestartReason.ENDED]
    assert [query.get("resourceVersion") for _, query in api.requests] == ["0", "7", "20"]


@pytest.mark.parametrize("too_old", [status(410, "Expired"), watched(expired(7))], ids=["answer", "event"])
async def test_after_410_everything_is_listed_again_and_the_gaps_deletions_are_told(too_old: Answer) -> None:
    seen, restarts, api = await events(
        listed(7, obj("kept", 1, value="1"), obj("gone", 2, value="2"), obj("changed", 3, value="3")),
        too_old,
        listed(90, obj("kept", 1, value="1"), obj("changed", 50, value="4"), obj("new", 60, value="5")),
        until=ends_with("synced 90"),
    )
    assert seen[:4] == ["ns/kept=1", "ns/gone=2", "ns/changed=3", "synced 7"]
    assert seen[4:] == ["ns/changed=4", "ns/new=5", "-ns/gone", "synced 90"]
    assert restarts == [RestartReason.EXPIRED]
    assert api.requests[2][1] == {"limit": "500"}  # as etcd has it: the API server's memory may be older than the watch


async def test_a_list_whose_continue_token_expires_is_taken_in_one_piece() -> None:
    seen, restarts, api = await events(
        listed(5),
        status(410, "Expired"),
        listed(7, obj("a", 1), obj("gone", 2), more="p2"),
        status(410, "Expired"),
        listed(9, obj("a", 1), obj("b", 8)),
        until=ends_with("synced 9"),
    )
    assert seen == ["synced 5", "ns/a=", "ns/gone=", "ns/b=", "-ns/gone", "synced 9"]
    assert restarts == [RestartReason.EXPIRED, RestartReason.EXPIRED]
    assert "limit" not in api.requests[4][1]


async def test_429_is_obeyed() -> None:
    # A Retry-After of 1 s against a back-off of at most 10 ms: the clock tells them apart from below only.
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen, restarts, _ = await events(
        status(429, "TooManyRequests", **{"Retry-After": "1"}), listed(7), until=ends_with("synced 7")
    )
    assert seen == ["synced 7"]
    assert restarts == [RestartReason.THROTTLED]
    assert loop.time() - began >= 1.0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (dropped(), RestartReason.CONNECTION),
        (status(500, "InternalError"), RestartReason.REFUSED),
        (status(503, "ServiceUnavailable"), RestartReason.REFUSED),
        (watched(), RestartReason.ENDED),
    ],
    ids=["dropped", "500", "503", "closed at once"],
)
async def test_a_passing_fault_of_a_watch_is_bridged_without_a_list(fault: Answer, reason: RestartReason) -> None:
    seen, restarts, api = await events(
        listed(7),
        fault,
        watched(("ADDED", obj("a", 8, value="1")), stay_open=True),
        until=ends_with("ns/a=1"),
    )
    assert seen == ["synced 7", "ns/a=1"]
    assert restarts == [reason]
    assert [query.get("resourceVersion") for _, query in api.requests] == ["0", "7", "7"]


@pytest.mark.parametrize(
    "garbage",
    [
        watched(b"this is not JSON\n"),
        watched(b'{"type":"ADDED"}\n'),
        watched(("SURPRISE", obj("a", 8))),
        watched(("ADDED", {"metadata": {"name": "a"}})),
        watched(("ADDED", {"kind": "Nothing"})),
        watched(b'{"type":"ADDED","object":{"metadata":{"name":"a"'),
        watched(("ERROR", {"code": "many"})),
    ],
    ids=["not json", "no object", "unknown type", "no version", "no metadata", "cut short", "bad status"],
)
async def test_garbage_leads_to_a_new_list(garbage: Answer) -> None:
    seen, restarts, _ = await events(
        listed(7, obj("a", 3, value="1")),
        garbage,
        listed(9, obj("a", 8, value="2")),
        until=ends_with("synced 9"),
    )
    assert seen == ["ns/a=1", "synced 7", "ns/a=2", "synced 9"]
    assert restarts == [RestartReason.INVALID]


async def test_what_an_unreadable_object_means_is_only_that_it_stays_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen, restarts, _ = await events(
        listed(7, obj("a", 3, value="1")),
        watched(("MODIFIED", obj("a", 8, value="unreadable")), ("ADDED", obj("b", 9, value="2")), stay_open=True),
        until=ends_with("ns/b=2"),
    )
    assert seen == ["ns/a=1", "synced 7", "ns/b=2"]
    assert restarts == []
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["object"] == "ns/a"
    assert "unreadable" in vars(record)["error"]


async def test_an_absent_resource_is_asked_for_until_it_appears_and_complained_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen, restarts, _ = await events(
        *[status(404, "NotFound")] * 5, listed(7, obj("a", 3)), until=ends_with("synced 7")
    )
    assert seen == ["ns/a=", "synced 7"]
    assert restarts == [RestartReason.REFUSED] * 5
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


async def test_an_object_larger_than_any_buffer_arrives_whole() -> None:
    value = "x" * 3_000_000
    seen, _, _ = await events(
        listed(7), watched(("ADDED", obj("a", 8, value=value)), stay_open=True), until=lambda _, seen: len(seen) == 2
    )
    assert seen[1] == f"ns/a={value}"


async def test_a_watch_that_stood_for_a_while_is_taken_up_again_at_once_however_often_it_is_cut(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxymode_agent.kube.restarts.SHORT_WATCH_SECONDS", 0.0)

    def cut(version: int) -> Answer:
        return watched(("ADDED", obj(f"a{version}", version)), cut=True)

    with caplog.at_level(logging.WARNING):
        await events(
            listed(7),
            *(cut(version) for version in range(8, 18)),
            watched(("ADDED", obj("end", 20)), stay_open=True),
            until=ends_with("ns/end="),
            timing=Timing(backoff_first=0.02, backoff_cap=10.0),
        )
    delays = [record.__dict__["retry_seconds"] for record in caplog.records if record.message == "watch failed"]
    assert len(delays) == 10
    assert max(delays) <= 0.02


async def test_a_server_whose_etcd_was_restored_is_listed_again_though_it_says_nothing() -> None:
    seen, restarts, api = await events(
        listed(70, obj("same", 3, value="1"), obj("gone", 50, value="2"), obj("other", 60, value="3")),
        vanished(),  # on the connection that was kept,
        vanished(),  # and on a new one
        listed(65),  # of one object: as far as this server has come
        listed(65, obj("same", 3, value="1"), obj("other", 60, value="4")),
        watched(stay_open=True),
        until=ends_with("synced 65"),
    )
    assert seen[4:] == ["ns/same=1", "ns/other=4", "-ns/gone", "synced 65"]
    assert restarts == [RestartReason.CONNECTION, RestartReason.RESTORED]
    assert api.requests[3][1] == {"limit": "1"}


async def test_a_server_that_was_away_and_goes_on_where_it_was_is_not_listed_again() -> None:
    seen, restarts, api = await events(
        listed(70, obj("a", 3)),
        vanished(),
        vanished(),
        listed(70, obj("a", 3)),
        watched(stay_open=False),
        watched(("ADDED", obj("b", 71)), stay_open=True),
        until=ends_with("ns/b="),
    )
    assert seen == ["ns/a=", "synced 70", "ns/b="]
    assert restarts == [RestartReason.CONNECTION, RestartReason.ENDED]
    assert [query.get("resourceVersion") for _, query in api.requests] == ["0", "70", "70", None, "70", "70"]


async def test_resync_lists_again_in_time() -> None:
    seen, restarts, api = await events(
        listed(7, obj("a", 3, value="1"), obj("b", 4)),
        watched(),
        listed(9, obj("a", 3, value="1")),
        until=ends_with("synced 9"),
        timing=Timing(resync=0.0, backoff_first=0.001, backoff_cap=0.01),
    )
    assert seen == ["ns/a=1", "ns/b=", "synced 7", "-ns/b", "synced 9"]
    assert restarts == [RestartReason.RESYNC]
    assert api.requests[1][1]["timeoutSeconds"] == "1"


async def test_a_server_that_cannot_be_reached_is_tried_again(unused_tcp_port: int) -> None:
    restarts: list[RestartReason] = []
    tried = asyncio.Event()

    def restarted(reason: RestartReason) -> None:
        restarts.append(reason)
        if len(restarts) == 3:
            tried.set()

    nowhere = ClusterConfig(server=f"http://127.0.0.1:{unused_tcp_port}", credentials=StaticCredentials(Credential()))
    async with KubeClient(nowhere) as client, asyncio.timeout(DEADLINE):
        watch = ListWatch(client, PATH, decode, timing=QUICK, restarted=restarted)
        async with aclosing(watch.events()) as stream:
            task = asyncio.ensure_future(anext(stream))
            await tried.wait()
            task.cancel()
            await asyncio.wait([task])
    assert set(restarts) == {RestartReason.CONNECTION}


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_happens_on_the_way_the_consumer_ends_with_what_the_server_has(data: st.DataObject) -> None:
    """A model of a collection is changed at random; between changes the watch is fed, cut, expired or lied to."""
    world: dict[str, tuple[int, str]] = {}
    version = 1
    script: list[Answer] = [listed(version)]
    stream: list[tuple[str, dict[str, Any]] | bytes] = []
    for _ in range(data.draw(st.integers(1, 12), label="steps")):
        action = data.draw(st.sampled_from(["set", "delete", "cut", "expire", "garbage", "500"]), label="action")
        name = data.draw(st.sampled_from("abc"), label="name")
        version += 1
        if action == "set":
            kind = "MODIFIED" if name in world else "ADDED"
            world[name] = (version, str(version))
            stream.append((kind, obj(name, version, value=str(version))))
        elif action == "delete" and name in world:
            del world[name]
            stream.append(("DELETED", obj(name, version)))
        elif action in ("cut", "500"):
            script.append(watched(*stream))
            stream = []
            if action == "500":
                script.append(status(500, "InternalError"))
        elif action in ("expire", "garbage"):
            # What happened since the last answer is not told by the watch, only by the list that follows.
            script.append(watched(expired(version) if action == "expire" else b"]]]\n"))
            stream = []
            script.append(listed(version, *(obj(key, rv, value=value) for key, (rv, value) in world.items())))
    version += 1
    script.append(watched(*stream, ("ADDED", obj("end", version, value="end")), stay_open=True))
    world["end"] = (version, "end")

    state: dict[str, str] = {}

    def until(_: FakeApi, seen: list[str]) -> bool:
        event = seen[-1]
        if event.startswith("-"):
            state.pop(event.removeprefix("-ns/"), None)
        elif not event.startswith("synced"):
            key, value = event.removeprefix("ns/").split("=")
            state[key] = value
        return event == "ns/end=end"

    asyncio.run(events(*script, until=until))
    assert state == {name: value for name, (_, value) in world.items()}
