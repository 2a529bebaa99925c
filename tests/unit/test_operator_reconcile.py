"""How a decision is carried out: in which order, what a conflict does, and that nothing rests on half a picture."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_api.annotations import PROMOTE_ANNOTATION
from proxymode_operator import reconcile as module
from proxymode_operator import resync
from proxymode_operator.cache import RELEASE, Cache
from proxymode_operator.gate_runner import GateRunner
from proxymode_operator.kubeapi import ApiError, Kind, ListedObject, NotLeaderError
from proxymode_operator.metrics import REGISTRY
from proxymode_operator.pace import Pace
from proxymode_operator.queue import ConflictError, RefusedError
from proxymode_operator.reconcile import Reconciler
from proxymode_operator.rollout.planner import plan
from test_operator_cache import listed, node, npm, pm
from test_operator_queue import virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from proxymode_operator.gate_asking import Answer
    from proxymode_operator.rollout.gates import Question
    from proxymode_operator.rollout.memory import Memory
    from proxymode_operator.rollout.model import Decisions, Fleet, Notice

Json = dict[str, Any]


class Server:
    """What the reconciler asks of the API server: objects that remember, writes that are noted, errors on demand."""

    def __init__(self) -> None:
        self.version = 5000
        self.objects: dict[tuple[Kind, str], Json] = {}
        self.calls: list[str] = []
        self.notices: list[Notice] = []
        self.errors: dict[str, Exception] = {}
        self.lists: dict[Kind, list[Json]] = {kind: [] for kind in Kind}

    def _note(self, call: str) -> None:
        if call in self.errors:
            raise self.errors[call]
        self.calls.append(call)

    async def apply(self, kind: Kind, name: str, body: Json, *, subresource: str = "") -> Json:
        self._note(f"{kind.value} {name} {subresource}".strip())
        await asyncio.sleep(0)
        self.version += 1
        stored = self.objects.setdefault((kind, name), {"metadata": {"uid": f"uid-{name}", "generation": 0}})
        meta = stored["metadata"] | body["metadata"] | {"resourceVersion": str(self.version)}
        meta["generation"] = meta.get("generation", 0) + ("spec" in body)
        self.objects[kind, name] = stored | body | {"metadata": meta}
        return self.objects[kind, name]

    async def remove_annotation(self, kind: Kind, name: str, annotation: str, uid: str) -> Json:
        self._note(f"{kind.value} {name} -{annotation}")
        self.version += 1
        stored = self.objects[kind, name]
        stored["metadata"] |= {"annotations": {}, "resourceVersion": str(self.version)}
        return stored

    async def post_notice(self, proxy_mode: str, uid: str, notice: Notice) -> None:
        self._note(f"Event {notice.reason}")
        self.notices.append(notice)

    async def list_metadata(self, kind: Kind) -> AsyncIterator[ListedObject]:
        self._note(f"list {kind.value}")
        for raw in self.lists[kind]:
            yield listed(raw)


class Gates:
    """Whom a gate runner asks: notes the questions, answers none."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def ask(self, proxy_mode: str, mode: str, question: Question) -> Answer:
        self.asked.append((proxy_mode, question.gate.name))
        raise OSError("the server is on fire")


class Bench:
    """A reconciler over a cache with two nodes and one ProxyMode."""

    def __init__(self, **meta: Any) -> None:
        self.server = Server()
        self.cache = Cache(lambda _: None)
        self.asked = Gates()
        self.answered = asyncio.Event()
        self.gates = GateRunner(self.asked, lambda _: self.answered.set())
        self.pace = Pace()
        self.reconciler = Reconciler(self.server, self.cache, None, self.gates, self.pace)  # type: ignore[arg-type]
        for name in ("n1", "n2"):
            self.cache.put(Kind.NODE, node(name))
        raw = pm("fleet")
        raw["metadata"] |= meta
        self.server.objects[Kind.PROXY_MODE, "fleet"] = raw
        self.cache.put(Kind.PROXY_MODE, raw)

    def reconcile(self, key: str = "fleet") -> float | None:
        return asyncio.run(self.reconciler.reconcile(key))


def test_the_status_is_stored_and_its_change_told_before_any_node_is_written() -> None:
    bench = Bench()
    bench.reconcile()
    assert bench.server.calls == [
        "ProxyMode fleet status",
        "Event RolloutStarted",
        "NodeProxyMode n1",
        "NodeProxyMode n2",
    ]


def test_what_was_written_is_not_asked_for_again_though_no_watch_has_shown_it() -> None:
    bench = Bench()
    bench.reconcile()
    bench.server.calls.clear()
    bench.reconcile()
    assert bench.server.calls == ["ProxyMode fleet status"], "there are NodeProxyModes to wait for now"
    bench.reconcile()
    assert len(bench.server.calls) == 1


def test_no_node_is_written_when_the_status_cannot_be_stored() -> None:
    for code, raised in ((409, ConflictError), (500, ApiError)):
        bench = Bench()
        bench.server.errors["ProxyMode fleet status"] = ApiError(code, "", "")
        with pytest.raises(raised):
            bench.reconcile()
        assert bench.server.calls == []


def test_a_proxy_mode_that_is_gone_is_forgotten_and_moves_nothing() -> None:
    bench = Bench()
    bench.server.errors["ProxyMode fleet status"] = ApiError(404, "NotFound", "")
    with pytest.raises(ConflictError):
        bench.reconcile()
    assert bench.cache.fleet("fleet", None) is None
    assert bench.reconcile() is None


def test_one_node_that_conflicts_does_not_keep_others_from_being_written() -> None:
    bench = Bench()
    bench.server.errors["NodeProxyMode n1"] = ApiError(409, "Conflict", "")
    with pytest.raises(ConflictError):
        bench.reconcile()
    assert "NodeProxyMode n2" in bench.server.calls
    assert "Event RolloutStarted" in bench.server.calls, "the next decision would not think of it"


@pytest.mark.parametrize("code", [400, 403, 422])
def test_one_node_that_is_refused_is_told_apart_from_an_api_server_in_trouble(code: int) -> None:
    bench = Bench()
    bench.server.errors["NodeProxyMode n1"] = ApiError(code, "Refused", "by a policy")
    progress = []
    for _ in range(2):
        with pytest.raises(RefusedError, match="by a policy") as refused:
            bench.reconcile()
        progress.append(refused.value.progress)
    assert progress == [True, False], "the other node is written by now"
    bench.server.errors["NodeProxyMode n1"] = ApiError(503, "Unavailable", "")
    with pytest.raises(ApiError):
        bench.reconcile()


def test_without_the_lease_nothing_is_written() -> None:
    bench = Bench()
    bench.server.errors["ProxyMode fleet status"] = NotLeaderError("no")
    with pytest.raises(NotLeaderError):
        bench.reconcile()
    assert bench.server.calls == []


def test_an_event_that_cannot_be_posted_is_let_go() -> None:
    bench = Bench()
    bench.server.errors["Event RolloutStarted"] = ApiError(403, "Forbidden", "")
    bench.reconcile()
    assert "NodeProxyMode n2" in bench.server.calls


def test_many_writes_are_done_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITES_AT_ONCE", 1)
    monkeypatch.setattr(module, "WRITING_SECONDS", 0.0)
    bench = Bench()
    assert bench.reconcile() == 0.0
    assert [call for call in bench.server.calls if call.startswith("Node")] == ["NodeProxyMode n1"]
    assert bench.reconcile() != 0.0, "nothing is left over"
    assert [call for call in bench.server.calls if call.startswith("Node")] == ["NodeProxyMode n1", "NodeProxyMode n2"]


def test_a_used_promote_annotation_is_taken_away() -> None:
    bench = Bench(annotations={PROMOTE_ANNOTATION: "nonsense"})
    bench.reconcile()
    assert f"ProxyMode fleet -{PROMOTE_ANNOTATION}" in bench.server.calls
    assert "Event PromoteIgnored" in bench.server.calls


def test_a_gate_is_asked_beside_the_reconcile_and_whatever_becomes_of_it_is_an_answer() -> None:
    bench = Bench()
    raw = bench.server.objects[Kind.PROXY_MODE, "fleet"]
    raw["spec"]["rollout"] = {"gates": [{"name": "judge", "webhook": {"url": "http://judge"}}]}
    raw["metadata"] |= {"resourceVersion": "4000"}
    bench.cache.put(Kind.PROXY_MODE, raw)

    async def scenario() -> None:
        async with bench.gates:
            for _ in range(3):
                await bench.reconciler.reconcile("fleet")
            assert bench.asked.asked == [], "no reconcile has waited for it"
            await bench.answered.wait()
            await bench.reconciler.reconcile("fleet")
            assert bench.asked.asked == [("fleet", "judge")], "asked again only after its interval"
            stored = bench.server.objects[Kind.PROXY_MODE, "fleet"]["status"]
            assert stored["gates"][0]["message"] == "asking it failed: OSError"
            assert stored["status"] == "AwaitingGates"
            bench.gates.forget("fleet")
            assert bench.gates.answers("fleet") == ()

    asyncio.run(scenario())


def test_nodes_without_a_proxy_mode_are_released_with_one_event() -> None:
    bench = Bench()
    for name, mode in (("n1", "ipvs"), ("n2", "nftables")):
        spec = {"mode": mode, "targetMode": "nftables", "proxyMode": "former", "revision": 3}
        bench.cache.put(Kind.NODE_PROXY_MODE, npm(name, spec=spec))
    bench.cache.delete(Kind.PROXY_MODE, pm("fleet"))
    bench.cache.forget(Kind.PROXY_MODE, "fleet", "uid-fleet")
    bench.reconcile(RELEASE)
    assert bench.server.calls == ["NodeProxyMode n1", "NodeProxyMode n2", "Event NodesReleased"]
    assert bench.server.notices[0].note == "it decides no more about 2 nodes; they stay: 1 on ipvs, 1 on nftables"
    spec = bench.server.objects[Kind.NODE_PROXY_MODE, "n1"]["spec"]
    assert (spec["mode"], spec["targetMode"], spec["proxyMode"], spec["revision"]) == ("ipvs", "ipvs", "", 0)
    bench.server.calls.clear()
    bench.reconcile(RELEASE)
    assert bench.server.calls == []


def test_nodes_that_were_released_are_told_of_though_another_was_just_changing() -> None:
    bench = Bench()
    for name in ("n1", "n2"):
        bench.cache.put(Kind.NODE_PROXY_MODE, npm(name, spec={"mode": "ipvs", "proxyMode": "former"}))
    bench.cache.forget(Kind.PROXY_MODE, "fleet", "uid-fleet")
    bench.server.errors["NodeProxyMode n1"] = ApiError(409, "Conflict", "it has changed")
    with pytest.raises(ConflictError):
        bench.reconcile(RELEASE)
    assert [notice.note[:34] for notice in bench.server.notices] == ["it decides no more about 1 nodes; "]
    bench.server.errors.clear()
    bench.reconcile(RELEASE)
    assert len(bench.server.notices) == 2


def test_the_cache_is_not_complete_before_the_watches_have_brought_all_that_is_listed() -> None:
    async def scenario() -> None:
        server, cache = Server(), Cache(lambda _: None)
        first, second = node("n1"), node("n2")
        server.lists[Kind.NODE] = [first, second]
        complete = asyncio.create_task(resync.until_complete(server, cache))  # type: ignore[arg-type]
        await asyncio.sleep(100)
        assert not complete.done(), "an empty cache"
        cache.put(Kind.NODE, first)
        await asyncio.sleep(100)
        assert not complete.done(), "half a fleet"
        cache.put(Kind.NODE, second)
        await asyncio.sleep(40)
        assert complete.done()

    virtual(scenario)


def test_an_api_server_that_was_set_back_ends_the_operator_which_begins_anew() -> None:
    async def scenario() -> None:
        server, cache = Server(), Cache(lambda _: None)
        older, newer = node("n1"), node("n1")
        older["metadata"]["resourceVersion"], newer["metadata"]["resourceVersion"] = "7", "90"
        cache.put(Kind.NODE, newer)
        server.lists[Kind.NODE] = [newer]
        await resync.until_complete(server, cache)  # type: ignore[arg-type]
        server.lists[Kind.NODE] = [older]
        with pytest.raises(resync.SetBackError, match="Node n1 has version 7 and had 90"):
            await resync.until_complete(server, cache)  # type: ignore[arg-type]
        assert set(cache.known(Kind.NODE)) == {"n1"}

    virtual(scenario)


def test_an_api_server_that_fails_is_asked_again() -> None:
    async def scenario() -> None:
        server, cache = Server(), Cache(lambda _: None)
        server.errors["list Node"] = ApiError(500, "", "")
        complete = asyncio.create_task(resync.until_complete(server, cache))  # type: ignore[arg-type]
        await asyncio.sleep(60)
        assert not complete.done()
        server.errors.clear()
        await asyncio.sleep(40)
        assert complete.done()

    virtual(scenario)


def test_the_watches_are_quick_while_a_rollout_is_under_way_and_only_then() -> None:
    bench = Bench()

    def quick() -> bool:
        bench.reconcile()
        return bench.pace.quick

    assert quick(), "it has begun"
    raw = bench.server.objects[Kind.PROXY_MODE, "fleet"]
    raw["spec"]["rollout"] = {"paused": True}
    raw["metadata"] |= {"resourceVersion": "8000"}
    bench.cache.put(Kind.PROXY_MODE, raw)
    assert not quick(), "it is paused, and nobody is in flight"


def test_who_leads_no_more_reports_no_more_and_waits_for_nothing() -> None:
    bench = Bench()
    bench.reconcile()
    counted = ("proxymode_operator_nodes", {"proxymode": "fleet", "state": "pending"})
    quick = [bench.pace.quick]
    assert REGISTRY.get_sample_value(*counted) == 2
    bench.reconciler.close()
    quick.append(bench.pace.quick)
    assert quick == [True, False], "or a standby would be woken by every heartbeat for ever"
    assert REGISTRY.get_sample_value(*counted) is None


def test_a_decision_that_fails_leaves_no_memory_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    memories: list[Memory | None] = []

    def noted(fleet: Fleet, now: datetime, memory: Memory | None = None) -> Decisions:
        memories.append(memory)
        if len(memories) == 3:
            raise KeyError("n1")
        return plan(fleet, now, memory)

    monkeypatch.setattr(module, "plan", noted)
    bench = Bench()
    bench.reconcile()
    bench.reconcile()
    with pytest.raises(KeyError):
        bench.reconcile()
    bench.reconcile()
    first, second, third, fourth = memories
    assert first is second is third
    assert fourth is not third


def test_nobody_waits_for_reports_about_a_proxy_mode_that_is_gone() -> None:
    bench = Bench()
    bench.reconcile()
    bench.cache.forget(Kind.PROXY_MODE, "fleet", "uid-fleet")
    bench.reconcile()
    assert not bench.pace.quick
