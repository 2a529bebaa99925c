"""The engine over a kernel that is a dictionary: when it writes, what it tells, how it lives through failures."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from proxymode_agent.dataplane.base import DataplaneError, Finding, Look, SyncResult
from proxymode_agent.engine import Engine, EnginePhase, EngineSnapshot, Pace
from proxymode_agent.kube.listwatch import Changed, Deleted, Synced
from proxymode_agent.kube.objects import (
    EndpointSlice,
    ObjectKey,
    ObjectMeta,
    Service,
    ServicePortSpec,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from proxymode_agent.metrics import Metrics
from proxymode_agent.services.labels import SERVICE_NAME_LABEL
from proxymode_agent.services.model import DataplaneConfig
from proxymode_agent.services.tracker import ServiceTracker
from proxymode_agent.switch.record import Outcome, StepRecord, SwitchError, SwitchPending, SwitchRecord
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxymode_agent.dataplane.base import Dataplane
    from proxymode_agent.services.model import ServicePort, ServicePortName, ServiceState

DEADLINE = 60.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUICK = Pace(sync_period=1000.0, retry_first=0.001, retry_cap=0.01, switch_retry_first=0.001, switch_retry_cap=0.01)


@dataclass
class FakeKernel:
    """What both modes have programmed, every call that was made, and faults to come.

    It keeps the contract of Dataplane: an incremental sync applies the named ports only, so that a name left out shows.
    """

    tables: dict[Mode, dict[ServicePortName, ServicePort]] = field(default_factory=dict)
    left: dict[Mode, dict[ServicePortName, ServicePort]] = field(default_factory=dict)
    doubt: bool = False
    look_faults: list[Exception] = field(default_factory=list)
    foreign: ObservedMode = ObservedMode.NONE
    half_done: Mode | None = None
    faults: list[Exception] = field(default_factory=list)
    refused: tuple[tuple[ServicePortName, str], ...] = ()
    damage: str = ""
    instead: str = ""
    read_back_in: float | None = None
    calls: list[str] = field(default_factory=list)
    configs: list[DataplaneConfig] = field(default_factory=list)
    gate: threading.Event | None = None
    draining: int = 0
    lacks: list[str] = field(default_factory=list)

    def switcher(self, config: DataplaneConfig) -> FakeSwitcher:
        self.configs.append(config)
        return FakeSwitcher(self)

    def call(self, what: str) -> None:
        self.calls.append(what)
        if self.gate is not None:
            self.gate.wait(DEADLINE)
        if self.faults:
            raise self.faults.pop(0)


@dataclass
class FakeDataplane:
    kernel: FakeKernel
    mode: Mode

    def present(self) -> bool:
        return self.mode in self.kernel.tables

    def sync(self, state: ServiceState, changed: frozenset[ServicePortName] | None = None) -> SyncResult:
        self.kernel.call(f"sync {self.mode} {'full' if changed is None else len(changed)}")
        table = self.kernel.tables.setdefault(self.mode, {})
        before = dict(table)
        names = table.keys() | state.ports.keys() if changed is None else changed
        for name in names:
            if name in state.ports:
                table[name] = state.ports[name]
            else:
                table.pop(name, None)
        written = sum(before.get(name) != table.get(name) for name in names)
        damage, self.kernel.damage = self.kernel.damage, ""
        self.kernel.left[self.mode] = dict(table)
        endpoints = sum(len(port.endpoints) for port in table.values())
        instead, again = self.kernel.instead, self.kernel.read_back_in
        return SyncResult(written, len(table), endpoints, self.kernel.refused, damage, instead, again)

    def look(self) -> Look:
        if self.kernel.look_faults:
            raise self.kernel.look_faults.pop()
        if self.kernel.doubt:
            return Look(Finding.DOUBTFUL)
        untouched = self.kernel.tables.get(self.mode) == self.kernel.left.get(self.mode)
        return Look(Finding.UNTOUCHED) if untouched else Look(Finding.CHANGED, "table is gone")

    def remove(self) -> None:
        self.kernel.tables.pop(self.mode, None)

    def close(self) -> None: ...


@dataclass
class FakeSwitcher:
    kernel: FakeKernel

    def close(self) -> None:
        self.kernel.calls.append("close")

    def observe(self) -> ObservedMode:
        modes = sorted(self.kernel.tables, reverse=True)
        return ObservedMode(modes[0]) if modes else self.kernel.foreign

    def unfinished(self) -> Mode | None:
        return self.kernel.half_done

    def dataplane(self, mode: Mode) -> Dataplane:
        return FakeDataplane(self.kernel, mode)

    def switch(self, to: Mode, state: ServiceState, on_step: Callable[[StepRecord], None]) -> SwitchRecord:
        steps = (StepRecord("program", NOW, 1), StepRecord("remove", NOW, 2))
        came_from = self.observe()
        if self.kernel.draining:
            self.kernel.draining -= 1
            self.kernel.calls.append(f"drain to {to}")
            self.kernel.tables.setdefault(to, dict(state.ports))
            self.kernel.half_done = to
            record = SwitchRecord(came_from, to, NOW, None, None, "", steps[:1], None, drain_until=NOW)
            raise SwitchPending(record, seconds=0.001)
        try:
            self.kernel.call(f"switch {to}")
        except DataplaneError as error:
            raise SwitchError(
                SwitchRecord(came_from, to, NOW, NOW, Outcome.ROLLED_BACK, str(error), (), None)
            ) from error
        for step in steps:
            on_step(step)
        self.kernel.tables = {to: dict(state.ports)}
        self.kernel.foreign = ObservedMode.NONE
        self.kernel.half_done = None
        return SwitchRecord(came_from, to, NOW, NOW, Outcome.SUCCEEDED, "", steps, None)

    def hand_back(self, state: ServiceState) -> str:
        self.kernel.call("hand back")
        if self.kernel.lacks:
            return self.kernel.lacks.pop(0)
        self.kernel.tables.clear()
        self.kernel.foreign = ObservedMode.KUBE_PROXY_IPVS
        return ""


def web(name: str = "web", port: int = 80) -> Changed[Service]:
    spec = ServiceSpec(cluster_ips=["10.96.0.1"], ports=[ServicePortSpec(port=port)])
    return Changed(ObjectKey("ns", name), Service(metadata=ObjectMeta(name=name, namespace="ns"), spec=spec))


def pods(*addresses: str, service: str = "web") -> Changed[EndpointSlice]:
    return Changed(
        ObjectKey("ns", f"{service}-1"),
        EndpointSlice(
            metadata=ObjectMeta(name=f"{service}-1", namespace="ns", labels={SERVICE_NAME_LABEL: service}),
            address_type="IPv4",
            endpoints=[SliceEndpoint(addresses=[address]) for address in addresses],
            ports=[SlicePort(port=8080)],
        ),
    )


async def eventually(condition: Callable[[], object]) -> None:
    """Until the condition holds, which no snapshot tells of; every caller has a deadline around it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@dataclass
class Bench:
    """An engine that runs, and its kernel."""

    engine: Engine
    kernel: FakeKernel
    metrics: Metrics

    def list_cluster(self) -> None:
        self.engine.on_service(web())
        self.engine.on_slice(pods("10.1.0.1"))
        self.engine.on_service(Synced("1"))
        self.engine.on_slice(Synced("1"))

    async def until(self, condition: Callable[[EngineSnapshot], bool]) -> EngineSnapshot:
        snapshot = self.engine.snapshot()
        while not condition(snapshot):
            snapshot = await self.engine.changed(snapshot)
        return snapshot

    async def active(self, mode: Mode) -> EngineSnapshot:
        return await self.until(
            lambda seen: seen.phase is EnginePhase.ACTIVE and seen.observed is ObservedMode(mode) and seen.synced
        )

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"proxymode_agent_{name}", labels) or 0.0


@asynccontextmanager
async def bench(kernel: FakeKernel | None = None, pace: Pace = QUICK) -> AsyncIterator[Bench]:
    kernel = kernel or FakeKernel()
    metrics = Metrics()
    engine = Engine(kernel.switcher, metrics, pace=pace)
    task = asyncio.create_task(engine.run())
    try:
        async with asyncio.timeout(DEADLINE):
            yield Bench(engine, kernel, metrics)
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error


def programmed(kernel: FakeKernel, mode: Mode) -> dict[str, list[str]]:
    return {str(name): [str(end) for end in port.endpoints] for name, port in kernel.tables[mode].copy().items()}


async def test_who_waits_for_the_first_sync_hears_of_it_or_gives_up() -> None:
    async with bench() as it:
        await it.engine.until_synced(0.0)
        assert not it.engine.snapshot().synced
        waiting = asyncio.create_task(it.engine.until_synced(60.0))
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.engine.on_service(Synced("1"))
        assert not waiting.done()
        it.engine.on_slice(Synced("1"))
        await waiting
        assert it.engine.snapshot().synced


async def test_nothing_is_programmed_before_both_lists_are_complete() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.engine.on_service(web())
        it.engine.on_service(Synced("1"))
        it.engine.on_slice(pods("10.1.0.1"))
        await eventually(lambda: it.kernel.configs)
        for _ in range(100):
            await asyncio.sleep(0)
        assert it.kernel.calls == []
        it.engine.on_slice(Synced("1"))
        snapshot = await it.active(Mode.NFTABLES)
        assert it.kernel.calls == ["sync nftables full"]
        assert programmed(it.kernel, Mode.NFTABLES) == {"ns/web": ["10.1.0.1:8080"]}
        assert (snapshot.services, snapshot.endpoints) == (1, 1)
        assert snapshot.last_sync is not None
        assert it.value("syncs_total", kind="full", result="success") == 1
        assert it.value("services") == it.value("endpoints") == 1
        assert it.value("mode", mode="nftables") == 1
        assert it.value("mode", mode="none") == 0


async def test_a_change_writes_what_changed_only() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.engine.on_slice(pods("10.1.0.1", "10.1.0.2"))
        await it.until(lambda seen: seen.endpoints == 2)
        assert it.kernel.calls == ["sync nftables full", "sync nftables 1"]
        it.engine.on_service(Deleted(ObjectKey("ns", "web")))
        await it.until(lambda seen: seen.services == 0)
        assert programmed(it.kernel, Mode.NFTABLES) == {}


async def test_a_burst_is_one_sync() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        for number in range(50):
            it.engine.on_service(web(f"web-{number}"))
            it.engine.on_slice(pods(f"10.1.1.{number}", service=f"web-{number}"))
        await it.until(lambda seen: seen.services == 51)
        assert it.kernel.calls == ["sync nftables full", "sync nftables 50"]


async def test_changes_during_a_sync_are_not_lost() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.kernel.gate = threading.Event()
        it.engine.on_slice(pods("10.1.0.2"))
        await eventually(lambda: len(it.kernel.calls) == 2)
        it.engine.on_slice(pods("10.1.0.3"))
        assert it.engine.behind_since is not None
        it.kernel.gate.set()
        await eventually(
            lambda: programmed(it.kernel, Mode.NFTABLES) == {"ns/web": ["10.1.0.3:8080"]} and not it.engine.behind_since
        )
        assert it.kernel.calls == ["sync nftables full", "sync nftables 1", "sync nftables 1"]


async def test_a_change_that_means_nothing_is_no_sync() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.engine.on_slice(pods("10.1.0.2"))
        it.engine.on_slice(pods("10.1.0.1"))
        await eventually(lambda: it.engine.behind_since is None)
        assert it.kernel.calls == ["sync nftables full"]


async def test_observing_programs_nothing_and_is_not_behind() -> None:
    async with bench(FakeKernel(foreign=ObservedMode.KUBE_PROXY_IPVS)) as it:
        it.engine.set_desired(None, DataplaneConfig())
        it.list_cluster()
        snapshot = await it.until(lambda seen: seen.phase is EnginePhase.OBSERVING)
        assert snapshot.observed is ObservedMode.KUBE_PROXY_IPVS
        assert it.kernel.calls == []
        assert it.engine.behind_since is None


async def test_without_a_wish_the_mode_that_is_there_is_kept_up_to_date() -> None:
    async with bench(FakeKernel(tables={Mode.IPVS: {}})) as it:
        it.engine.set_desired(None, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.IPVS)
        assert programmed(it.kernel, Mode.IPVS) == {"ns/web": ["10.1.0.1:8080"]}


async def test_a_switch_is_told_step_by_step_and_verified_afterwards() -> None:
    seen: list[EngineSnapshot] = []

    def look(snapshot: EngineSnapshot) -> bool:
        seen.append(snapshot)
        return snapshot.phase is EnginePhase.ACTIVE and snapshot.observed is ObservedMode.NFTABLES

    async with bench(FakeKernel(tables={Mode.IPVS: {}})) as it:
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.IPVS)
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        asked = it.engine.snapshot()
        assert asked.desired is Mode.NFTABLES
        assert not asked.synced, "a snapshot is about what is desired now"
        last = await it.until(look)
        assert it.kernel.calls == ["sync ipvs full", "switch nftables", "sync nftables full"]
        assert EnginePhase.SWITCHING in [snapshot.phase for snapshot in seen]
        assert last.last_switch is not None
        assert last.last_switch.outcome is Outcome.SUCCEEDED
        assert last.steps == ()
        assert it.value("switch_duration_seconds_count", to="nftables", result="success") == 1


async def test_a_switch_that_waits_for_connections_is_asked_again_while_the_target_is_kept_up_to_date() -> None:
    seen: list[EngineSnapshot] = []

    def look(snapshot: EngineSnapshot) -> bool:
        seen.append(snapshot)
        return snapshot.phase is EnginePhase.ACTIVE and snapshot.observed is ObservedMode.NFTABLES

    async with bench(FakeKernel(tables={Mode.IPVS: {}}, draining=3)) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        last = await it.until(look)
        calls = it.kernel.calls
        assert [call for call in calls if "drain" in call or "switch" in call] == ["drain to nftables"] * 3 + [
            "switch nftables"
        ]
        assert "sync nftables full" in calls[: calls.index("switch nftables")]
        waiting = [snapshot for snapshot in seen if snapshot.last_switch and not snapshot.last_switch.outcome]
        assert {snapshot.phase for snapshot in waiting} == {EnginePhase.SWITCHING}
        assert all(not snapshot.error for snapshot in seen), "waiting is not failing"
        assert last.last_switch is not None
        assert last.last_switch.outcome is Outcome.SUCCEEDED
        assert it.value("switch_duration_seconds_count", to="nftables", result="success") == 1
        assert it.value("switch_duration_seconds_count", to="nftables", result="failure") == 0


async def test_a_switch_that_fails_is_told_and_tried_again_while_the_old_mode_is_served() -> None:
    kernel = FakeKernel(tables={Mode.IPVS: {}}, faults=[])
    async with bench(kernel, Pace(sync_period=1000.0, switch_retry_first=3600.0, switch_retry_cap=3600.0)) as it:
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.IPVS)
        kernel.faults.append(DataplaneError("nf_tables: no such expression"))
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        failed = await it.until(lambda seen: seen.phase is EnginePhase.FAILED and seen.synced)
        assert failed.observed is ObservedMode.IPVS
        assert "switch to nftables: nf_tables: no such expression" in failed.error
        assert failed.last_switch is not None
        assert failed.last_switch.outcome is Outcome.ROLLED_BACK
        it.engine.on_slice(pods("10.1.0.9"))
        await eventually(lambda: programmed(kernel, Mode.IPVS) == {"ns/web": ["10.1.0.9:8080"]})
        assert kernel.calls.count("switch nftables") == 1, "not before its back-off"
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())  # the wish is taken back
        last = await it.active(Mode.IPVS)
        assert last.error == ""


async def test_another_attempt_does_not_wait_for_the_back_off_of_a_failed_switch() -> None:
    kernel = FakeKernel(tables={Mode.IPVS: {}})
    async with bench(kernel, Pace(sync_period=1000.0, switch_retry_first=3600.0, switch_retry_cap=3600.0)) as it:
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.IPVS)
        kernel.faults.append(DataplaneError("busy"))
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        await it.until(lambda seen: seen.phase is EnginePhase.FAILED and seen.synced)
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig(), attempt=1)
        assert it.engine.snapshot().phase is not EnginePhase.FAILED, "what it reports next is about this attempt"
        last = await it.active(Mode.NFTABLES)
        assert last.error == ""
        assert kernel.calls.count("switch nftables") == 2


async def test_a_failed_switch_succeeds_at_a_later_try() -> None:
    kernel = FakeKernel(tables={Mode.IPVS: {}})
    async with bench(kernel) as it:
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.IPVS)
        kernel.faults += [DataplaneError("busy")]
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        last = await it.active(Mode.NFTABLES)
        assert last.error == ""
        assert kernel.calls.count("switch nftables") == 2
        assert it.value("switch_duration_seconds_count", to="nftables", result="failure") == 1


async def test_a_switch_that_was_killed_is_finished_at_the_start() -> None:
    async with bench(FakeKernel(tables={Mode.IPVS: {}, Mode.NFTABLES: {}}, half_done=Mode.NFTABLES)) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        assert it.kernel.calls[0] == "switch nftables"
        assert set(it.kernel.tables) == {Mode.NFTABLES}


@pytest.mark.parametrize("fault", [DataplaneError("EBUSY"), RuntimeError("a bug")], ids=["refused", "bug"])
async def test_a_failed_sync_is_told_counted_and_followed_by_a_full_one(fault: Exception) -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.kernel.faults += [fault, fault]
        errors: list[str] = []

        def look(snapshot: EngineSnapshot) -> bool:
            errors.append(snapshot.error)
            return snapshot.synced and snapshot.endpoints == 2

        it.engine.on_slice(pods("10.1.0.1", "10.1.0.2"))
        await it.until(look)
        assert f"incremental sync failed: {fault}" in errors
        assert it.kernel.calls[1:] == ["sync nftables 1", "sync nftables full", "sync nftables full"]
        assert it.value("syncs_total", kind="incremental", result="failure") == 1
        assert it.value("syncs_total", kind="full", result="failure") == 1
        await eventually(lambda: it.engine.behind_since is None)


async def test_a_dataplane_that_cannot_be_opened_is_tried_again() -> None:
    kernel = FakeKernel()
    broken = [DataplaneError("nf_tables: operation not permitted")] * 3

    def factory(config: DataplaneConfig) -> FakeSwitcher:
        if broken:
            raise broken.pop()
        return kernel.switcher(config)

    engine = Engine(factory, Metrics(), pace=QUICK)
    task = asyncio.create_task(engine.run())
    it = Bench(engine, kernel, Metrics())
    async with asyncio.timeout(DEADLINE):
        engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        failed = await it.until(lambda seen: seen.phase is EnginePhase.FAILED)
        assert "operation not permitted" in failed.error
        await it.active(Mode.NFTABLES)
    task.cancel()
    await asyncio.wait([task])


async def test_drift_is_looked_for_told_and_repaired(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(pace=replace(QUICK, look_period=0.001)) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        first = await it.active(Mode.NFTABLES)
        assert first.drift == "", "what a start finds is no drift"
        it.kernel.tables[Mode.NFTABLES].clear()  # somebody flushes our maps
        await eventually(lambda: programmed(it.kernel, Mode.NFTABLES) == {"ns/web": ["10.1.0.1:8080"]})
        del it.kernel.tables[Mode.NFTABLES]  # somebody deletes our tables
        await eventually(lambda: Mode.NFTABLES in it.kernel.tables)
        last = await it.until(lambda seen: bool(seen.drift))
        assert (last.drift, last.synced) == ("table is gone", True)
        await eventually(lambda: it.value("drift_repairs_total") == 2)
        assert [record.message for record in caplog.records].count("drift repaired") == 2
        assert it.value("drift_looks_total", finding="changed") >= 2
        await eventually(lambda: it.value("drift_looks_total", finding="untouched") > 0)
        assert not [call for call in it.kernel.calls if call.startswith("switch")]


async def test_drift_that_an_update_comes_across_is_told_once() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.kernel.damage = "table ip proxymode is gone"
        it.engine.on_slice(pods("10.1.0.2"))
        last = await it.until(lambda seen: bool(seen.drift))
        assert last.drift == "table ip proxymode is gone"
        assert "sync nftables 1" in it.kernel.calls
        assert it.value("drift_repairs_total") == 1


async def test_a_repair_is_told_for_a_while() -> None:
    async with bench(pace=replace(QUICK, look_period=0.001, drift_shown=0.05)) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.kernel.tables[Mode.NFTABLES].clear()
        await it.until(lambda seen: bool(seen.drift))
        await it.until(lambda seen: not seen.drift)
        assert it.value("drift_repairs_total") == 1


async def test_a_doubt_is_resolved_by_reading_the_kernel_back() -> None:
    async with bench(pace=replace(QUICK, look_period=0.001)) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        it.kernel.doubt = True
        await eventually(lambda: it.kernel.calls.count("sync nftables full") > 2)
        assert it.engine.snapshot().drift == "", "nothing was found to be wrong"
        it.kernel.tables[Mode.NFTABLES].clear()
        last = await it.until(lambda seen: bool(seen.drift))
        assert last.drift == "found by reading the kernel back"


async def test_the_kernel_is_read_back_when_the_dataplane_has_something_to_look_for() -> None:
    async with bench() as it:
        it.kernel.read_back_in = 0.001
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.IPVS)
        await eventually(lambda: it.kernel.calls.count("sync ipvs full") > 3)
        it.kernel.read_back_in = None
        it.engine.on_slice(pods("10.1.0.2"))
        await it.until(lambda seen: seen.endpoints == 1 and bool(it.kernel.calls))
        assert it.engine.snapshot().drift == "", "nobody else did anything"


async def test_what_was_done_in_the_place_of_what_was_asked_for_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as it:
        it.kernel.instead = "the kernel has no IPVS scheduler sed: rr serves ns/web"
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        it.list_cluster()
        assert (await it.active(Mode.IPVS)).instead == it.kernel.instead
        it.engine.on_slice(pods("10.1.0.1", "10.1.0.2"))
        await it.until(lambda seen: seen.endpoints == 2)
        assert [record.message for record in caplog.records].count("kernel lacks something") == 1
        it.kernel.instead = ""
        it.engine.on_slice(pods("10.1.0.3"))
        await it.until(lambda seen: not seen.instead)


async def test_a_look_that_fails_is_followed_by_a_full_sync() -> None:
    kernel = FakeKernel()
    async with bench(kernel, pace=replace(QUICK, look_period=0.001)) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        kernel.look_faults.append(DataplaneError("ENOBUFS"))
        await it.until(lambda seen: "look for drift failed: ENOBUFS" in seen.error)
        await it.active(Mode.NFTABLES)
        assert kernel.calls == ["sync nftables full", "sync nftables full"]


@pytest.mark.parametrize("observed", [False, True], ids=["not opened", "opened and not observed"])
async def test_a_wish_that_could_not_be_opened_and_is_taken_back_leaves_no_trace(
    observed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = FakeKernel()
    usual, other = DataplaneConfig(), DataplaneConfig(masquerade_all=True)
    fault = DataplaneError("cannot be had")

    def factory(config: DataplaneConfig) -> FakeSwitcher:
        if config == other and not observed:
            raise fault
        return kernel.switcher(config)

    def observe(switcher: FakeSwitcher) -> ObservedMode:
        if kernel.configs[-1] == other:
            raise fault
        return observe_as_usual(switcher)

    observe_as_usual = FakeSwitcher.observe
    monkeypatch.setattr(FakeSwitcher, "observe", observe)
    engine, metrics = Engine(factory, Metrics(), pace=QUICK), Metrics()
    task = asyncio.create_task(engine.run())
    it = Bench(engine, kernel, metrics)
    async with asyncio.timeout(DEADLINE):
        engine.set_desired(Mode.NFTABLES, usual)
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        engine.set_desired(Mode.NFTABLES, other)
        await it.until(lambda seen: seen.phase is EnginePhase.FAILED)
        engine.set_desired(Mode.NFTABLES, usual)
        await it.active(Mode.NFTABLES)
        assert kernel.configs[-1] == usual
    task.cancel()
    await asyncio.wait([task])


async def test_another_configuration_opens_the_dataplane_anew_and_compares_everything() -> None:
    async with bench() as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        other = DataplaneConfig(masquerade_all=True)
        it.engine.set_desired(Mode.NFTABLES, other)
        assert not it.engine.snapshot().synced
        await it.active(Mode.NFTABLES)
        assert it.kernel.configs == [DataplaneConfig(), other]
        assert it.kernel.calls == ["sync nftables full", "close", "sync nftables full"]
        it.engine.set_desired(Mode.NFTABLES, other)
        assert it.engine.snapshot().synced, "the same wish again is no change"


@pytest.mark.parametrize("fault", [None, DataplaneError("EBUSY")], ids=["success", "failure"])
async def test_a_wish_that_comes_during_a_sync_is_not_kept_waiting(fault: DataplaneError | None) -> None:
    slow = Pace(sync_period=1000.0, retry_first=1000.0, retry_cap=1000.0)
    kernel = FakeKernel(gate=threading.Event(), faults=[fault] if fault else [])
    async with bench(kernel, slow) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await eventually(lambda: kernel.calls)
        other = DataplaneConfig(masquerade_all=True)
        it.engine.set_desired(Mode.NFTABLES, other)
        assert kernel.gate is not None
        kernel.gate.set()
        await it.active(Mode.NFTABLES)
        assert kernel.configs == [DataplaneConfig(), other]
        assert kernel.calls == ["sync nftables full", "close", "sync nftables full"]


async def test_a_wish_that_comes_during_a_failing_switch_is_not_kept_waiting() -> None:
    slow = Pace(sync_period=1000.0, switch_retry_first=1000.0, switch_retry_cap=1000.0)
    kernel = FakeKernel(tables={Mode.IPVS: {}}, gate=threading.Event(), faults=[DataplaneError("EBUSY")])
    async with bench(kernel, slow) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await eventually(lambda: kernel.calls)
        it.engine.set_desired(Mode.IPVS, DataplaneConfig())
        assert kernel.gate is not None
        kernel.gate.set()
        last = await it.active(Mode.IPVS)
        assert last.error == ""
        assert kernel.calls == ["switch nftables", "sync ipvs full"]


async def test_refused_ports_and_unusable_objects_are_told() -> None:
    kernel = FakeKernel()
    async with bench(kernel) as it:
        it.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        (name,) = kernel.tables[Mode.NFTABLES]
        kernel.refused = ((name, "address in use"),)
        it.engine.on_slice(pods("10.1.0.1", "127.0.0.1", "10.1.0.2"))
        snapshot = await it.until(lambda seen: seen.endpoints == 2)
        assert snapshot.refused == kernel.refused
        assert it.value("refused_services") == 1
        assert it.value("object_problems_total", kind="EndpointSlice") == 1


async def test_a_refused_port_is_told_once_tried_again_and_holds_up_nobody() -> None:
    kernel = FakeKernel()
    told: list[tuple[str, str]] = []
    engine = Engine(
        kernel.switcher, Metrics(), pace=QUICK, on_refused=lambda name, reason: told.append((str(name), reason))
    )
    task = asyncio.create_task(engine.run())
    it = Bench(engine, kernel, Metrics())
    async with asyncio.timeout(DEADLINE):
        engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await it.active(Mode.NFTABLES)
        (name,) = kernel.tables[Mode.NFTABLES]
        kernel.refused = ((name, "no room"),)
        engine.on_slice(pods("10.1.0.2"))
        refused = await it.until(lambda seen: bool(seen.refused))
        assert refused.phase is EnginePhase.ACTIVE, "the node goes on"
        engine.on_service(web("other"))
        engine.on_slice(pods("10.1.0.9", service="other"))
        await it.until(lambda seen: seen.services == 2)
        await eventually(lambda: kernel.calls.count("sync nftables full") >= 4)
        assert told == [("ns/web", "no room")]
        kernel.refused = ()
        await it.until(lambda seen: not seen.refused)
        done = len(kernel.calls)
        kernel.refused = ((name, "no room again"),)
        engine.on_slice(pods("10.1.0.3"))
        await it.until(lambda seen: bool(seen.refused))
        assert told == [("ns/web", "no room"), ("ns/web", "no room again")]
        assert len(kernel.calls) > done
    task.cancel()
    await asyncio.wait([task])


async def test_stopping_waits_for_the_kernel_call_under_way_and_closes() -> None:
    kernel = FakeKernel(gate=threading.Event())
    engine = Engine(kernel.switcher, Metrics(), pace=QUICK)
    task = asyncio.create_task(engine.run())
    it = Bench(engine, kernel, Metrics())
    async with asyncio.timeout(DEADLINE):
        engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        it.list_cluster()
        await eventually(lambda: kernel.calls)
        task.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done(), "the call has not ended"
        assert kernel.gate is not None
        kernel.gate.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert programmed(kernel, Mode.NFTABLES) == {"ns/web": ["10.1.0.1:8080"]}
        await eventually(lambda: "close" in kernel.calls)


ADDRESSES = ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("service"), st.sampled_from(["a", "b", "c"]), st.sampled_from([80, 81])),
        st.tuples(st.just("slice"), st.sampled_from(["a", "b", "c"]), st.sampled_from(ADDRESSES)),
        st.tuples(st.just("gone"), st.sampled_from(["a", "b", "c"]), st.none()),
        st.tuples(st.just("wish"), st.sampled_from([*Mode, None]), st.booleans()),
        st.tuples(st.just("fault"), st.none(), st.none()),
        st.tuples(st.just("theft"), st.none(), st.none()),
        st.tuples(st.just("rest"), st.none(), st.integers(1, 5)),
    ),
    max_size=25,
)


@given(steps, st.sampled_from(list(Mode)))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_kernel_ends_as_wished(story: list[tuple[str, Any, Any]], wish: Mode) -> None:
    """Services come and go, wishes and options change, the kernel fails, and others delete what is ours."""

    async def live() -> None:
        world = ServiceTracker()  # what a fresh build makes of the same objects
        async with bench(pace=replace(QUICK, sync_period=0.005, look_period=0.002)) as it:
            it.engine.on_service(Synced("1"))
            it.engine.on_slice(Synced("1"))
            for what, subject, detail in story:
                match what:
                    case "service":
                        event = web(subject, detail)
                        it.engine.on_service(event)
                        world.set_service(event.key, event.object)
                    case "slice":
                        endpoints = pods(detail, service=subject)
                        it.engine.on_slice(endpoints)
                        world.set_slice(endpoints.key, endpoints.object)
                    case "gone":
                        it.engine.on_service(Deleted(ObjectKey("ns", subject)))
                        world.drop_service(ObjectKey("ns", subject))
                    case "wish":
                        it.engine.set_desired(subject, DataplaneConfig(masquerade_all=detail))
                    case "fault":
                        it.kernel.faults.append(DataplaneError("EBUSY"))
                    case "theft":
                        it.kernel.tables = {}
                    case _:
                        for _ in range(detail):
                            await asyncio.sleep(0)
            it.engine.set_desired(wish, DataplaneConfig())
            final = world.take().state.ports
            await eventually(lambda: it.kernel.tables == {wish: final} and it.engine.behind_since is None)
            last = await it.active(wish)
            assert (last.services, last.error) == (len(final), "")

    asyncio.run(live())


HANDED_BACK = DataplaneConfig(kube_proxy=KubeProxyPolicy.HAND_BACK)


async def test_a_node_is_kept_up_to_date_until_kube_proxy_has_everything_and_is_then_let_be() -> None:
    kernel = FakeKernel(lacks=["virtual server of ns/web"] * 3, faults=[])
    async with bench(kernel, replace(QUICK, look_period=0.01)) as on:
        on.list_cluster()
        on.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        await on.active(Mode.NFTABLES)
        on.engine.set_desired(Mode.NFTABLES, HANDED_BACK)
        await eventually(lambda: len(kernel.lacks) == 2)
        on.engine.on_slice(pods("10.1.0.2"))
        seen = await on.until(lambda seen: seen.observed is ObservedMode.KUBE_PROXY_IPVS)
        seen = await on.until(lambda seen: seen.phase is EnginePhase.OBSERVING)
        assert kernel.calls.count("hand back") == 4
        assert "sync nftables 1" in kernel.calls
        assert not seen.error
        assert not kernel.tables
        calls = len(kernel.calls)
        on.engine.on_slice(pods("10.1.0.3"))
        on.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        await on.active(Mode.NFTABLES)
        assert next(call for call in kernel.calls[calls:] if call != "close") == "switch nftables"


async def test_a_hand_back_from_ipvs_goes_by_way_of_nftables() -> None:
    kernel = FakeKernel()
    async with bench(kernel, replace(QUICK, look_period=0.01)) as on:
        on.list_cluster()
        on.engine.set_desired(Mode.IPVS, DataplaneConfig())
        await on.active(Mode.IPVS)
        on.engine.set_desired(Mode.NFTABLES, HANDED_BACK)
        await on.until(lambda seen: seen.observed is ObservedMode.KUBE_PROXY_IPVS)
        assert kernel.calls.index("switch nftables") < kernel.calls.index("hand back")


async def test_a_hand_back_that_fails_is_said_and_tried_again() -> None:
    kernel = FakeKernel()
    async with bench(kernel, replace(QUICK, look_period=0.01)) as on:
        on.list_cluster()
        on.engine.set_desired(Mode.NFTABLES, DataplaneConfig())
        await on.active(Mode.NFTABLES)
        kernel.lacks = ["element"]
        on.engine.set_desired(Mode.NFTABLES, HANDED_BACK)
        await eventually(lambda: not kernel.lacks)
        kernel.faults = [DataplaneError("refused")] * 2
        await on.until(lambda seen: "refused" in seen.error)
        await on.until(lambda seen: seen.phase is EnginePhase.OBSERVING and not seen.error)
        assert kernel.foreign is ObservedMode.KUBE_PROXY_IPVS
