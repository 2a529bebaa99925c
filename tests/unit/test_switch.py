"""The switch's order, journal and undo, with a kernel that fails where it is told to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conntrack_oracle import Entry as ConntrackEntry
from conntrack_oracle import Path as Direction
from conntrack_oracle import flow
from proxymode_agent.dataplane.base import Dataplane, DataplaneError
from proxymode_agent.dataplane.conntrack.flow import Flow, Status
from proxymode_agent.dataplane.conntrack.messages import original_of, reply_of
from proxymode_agent.dataplane.conntrack.table import Checked
from proxymode_agent.services.model import (
    DataplaneConfig,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_agent.switch import (
    Connections,
    Outcome,
    Probes,
    StepRecord,
    Switcher,
    SwitchError,
    SwitchPending,
    SwitchRecord,
)
from proxymode_agent.switch import connections as counting
from proxymode_agent.switch.cleanup import clean_up
from proxymode_agent.switch.journal import Entry as JournalEntry
from proxymode_agent.switch.journal import Journal
from proxymode_agent.switch.plan import Step, plan, take_over
from proxymode_agent.switch.probes.sample import Target
from proxymode_agent.takeover.found import Found
from proxymode_api.modes import ConnectionPolicy, Mode, ObservedMode

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = ServiceState()
REMOVALS = {
    Step.REMOVE_VIRTUAL_SERVERS: Mode.IPVS,
    Step.RELEASE_ADDRESSES: Mode.IPVS,
    Step.REMOVE_SIDE_TABLE: Mode.IPVS,
    Step.REMOVE_TABLE: Mode.NFTABLES,
}
presences = st.sets(st.sampled_from(Mode))
policies = st.sampled_from(ConnectionPolicy)


@settings(deadline=None)
@given(presences, st.sampled_from(Mode), policies, st.booleans())
def test_nothing_of_the_old_mode_goes_before_the_target_was_verified(
    present: set[Mode], to: Mode, policy: ConnectionPolicy, begun: bool
) -> None:
    found = plan(present, to, policy, handover_begun=begun)
    steps = found.steps
    assert steps.index(Step.PROGRAM) + 1 == steps.index(Step.VERIFY)
    verified = steps.index(Step.VERIFY)
    ending = begun and to is Mode.IPVS and Mode.NFTABLES in present
    removals = [step for step in steps if step in REMOVALS and not (ending and step is Step.REMOVE_VIRTUAL_SERVERS)]
    assert {REMOVALS[step] for step in removals} == present - {to}
    assert all(step in found.final and steps.index(step) > verified for step in removals)
    assert len(set(steps)) == len(steps)


@settings(deadline=None)
@given(presences, st.sampled_from(Mode), policies, st.booleans())
def test_what_a_handover_began_is_ended_before_the_old_mode_is_gone(
    present: set[Mode], to: Mode, policy: ConnectionPolicy, begun: bool
) -> None:
    steps = plan(present, to, policy, handover_begun=begun).steps
    started = Step.CATCH in steps or (begun and present - {to})
    assert (Step.END_HANDOVER in steps) == bool(started)
    if started:
        restored, ended = steps.index(Step.RESTORE), steps.index(Step.END_HANDOVER)
        last = max(index for index, step in enumerate(steps) if step in REMOVALS)
        assert restored < ended < last


def test_connections_are_caught_before_they_are_carried_and_carried_before_ipvs_goes() -> None:
    assert plan({Mode.IPVS}, Mode.NFTABLES, ConnectionPolicy.HANDOVER) == (
        (Step.PROBE_BEFORE, Step.PROGRAM, Step.VERIFY, Step.PROBE_TARGET, Step.CATCH),
        (
            Step.CARRY,
            Step.REMOVE_VIRTUAL_SERVERS,
            Step.RESTORE,
            Step.END_HANDOVER,
            Step.RELEASE_ADDRESSES,
            Step.REMOVE_SIDE_TABLE,
            Step.PROBE_AFTER,
            Step.COMPARE,
        ),
    )


def test_cut_waits_for_what_is_being_opened_and_removes_masquerading_last() -> None:
    assert plan({Mode.IPVS}, Mode.NFTABLES, ConnectionPolicy.CUT) == (
        (Step.PROBE_BEFORE, Step.PROGRAM, Step.VERIFY, Step.PROBE_TARGET, Step.SETTLE, Step.COUNT),
        (
            Step.REMOVE_VIRTUAL_SERVERS,
            Step.RELEASE_ADDRESSES,
            Step.REMOVE_SIDE_TABLE,
            Step.PROBE_AFTER,
            Step.COMPARE,
        ),
    )


def test_on_the_way_back_a_hand_over_is_ended_while_nftables_carries_everything() -> None:
    found = plan({Mode.IPVS, Mode.NFTABLES}, Mode.IPVS, HANDOVER, handover_begun=True)
    assert found.reversible == ()
    assert found.final[:3] == (Step.REMOVE_VIRTUAL_SERVERS, Step.RESTORE, Step.END_HANDOVER)
    assert found.final[3:] == plan({Mode.NFTABLES}, Mode.IPVS, HANDOVER).steps


def test_drain_waits_while_ipvs_is_whole_and_then_cuts() -> None:
    begun = plan({Mode.IPVS}, Mode.NFTABLES, ConnectionPolicy.DRAIN)
    assert begun.reversible[-2:] == (Step.COUNT, Step.DRAIN)
    assert begun.final == plan({Mode.IPVS}, Mode.NFTABLES, ConnectionPolicy.CUT).final
    both = {Mode.IPVS, Mode.NFTABLES}
    assert plan(both, Mode.NFTABLES, ConnectionPolicy.DRAIN, draining=True) == ((Step.DRAIN,), begun.final)
    assert Step.DRAIN not in plan({Mode.NFTABLES}, Mode.IPVS, ConnectionPolicy.DRAIN).steps


def test_a_switch_that_was_interrupted_at_its_very_end_is_still_verified() -> None:
    assert plan({Mode.NFTABLES}, Mode.NFTABLES, HANDOVER, probed=True).final == (Step.PROBE_AFTER,)
    assert plan({Mode.NFTABLES}, Mode.NFTABLES, HANDOVER).final == ()


ANSWERED = frozenset({Target(bytes((10, 96, 0, 1)), 443)})


class Killed(BaseException):
    """What SIGKILL is to a process."""


NOBODY = Found()


@dataclass
class FakeKernel:
    """Modes that are there wholly or not at all; `fails` and `dies` name a step, or undo; `once`: not a second time."""

    there: set[Mode] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)
    once: set[str] = field(default_factory=set)
    dies: str = ""
    done: list[str] = field(default_factory=list)
    carrying: bool = False
    held: int = 0
    tried: int = 0
    connections: Connections | None = None
    answered: frozenset[Target] | None = None
    verification: tuple[Probes, ...] = ()
    found: Found = NOBODY

    def close(self) -> None: ...

    def tidy(self) -> None:
        self.done.append("tidy")

    def kube_proxy(self) -> Found:
        return self.found

    def not_handed_back(self, state: ServiceState) -> str:
        raise NotImplementedError

    def present(self) -> frozenset[Mode]:
        return frozenset(self.there)

    def observe(self) -> ObservedMode:
        return ObservedMode(min(self.there, key=lambda mode: mode is Mode.IPVS)) if self.there else self.found.mode

    def handover_begun(self) -> bool:
        return self.carrying

    def dataplane(self, mode: Mode) -> Dataplane:
        raise DataplaneError(f"no {mode} here")

    def end_handover(self) -> None:
        self.carrying = False

    def undo(self, old: Mode | None, to: Mode, state: ServiceState) -> None:
        self.note("undo")
        self.carrying = False
        self.there = {old} if old else set()

    def run(self, step: Step, to: Mode, state: ServiceState) -> None:
        if step == self.dies:
            raise Killed
        if step in (Step.PROGRAM, Step.TAKE_OVER):
            self.there.add(to)
        if step is Step.TAKE_OVER and to is Mode.IPVS:
            self.found = self.found._replace(device=False)
        self.note(step)
        if step is Step.REMOVE_KUBE_PROXY:
            self.found = Found()
        if REMOVALS.get(step) and (step in (Step.REMOVE_SIDE_TABLE, Step.REMOVE_TABLE)):
            self.there.discard(REMOVALS[step])
        if step in (Step.CATCH, Step.END_HANDOVER):
            self.carrying = step is Step.CATCH
        if step is Step.PROBE_BEFORE and self.answered is None:
            self.tried += 1
            self.answered = ANSWERED
        if step is Step.PROBE_AFTER:
            self.verification = (Probes("ClusterIP", 1, len(self.answered or ()), 1, ()),)
        if step is Step.COMPARE:
            self.connections = Connections(self.held, 1)

    def note(self, what: str) -> None:
        self.done.append(what)
        if what in self.fails:
            self.fails -= {what} & self.once
            raise DataplaneError(f"{what} is refused")


HANDOVER = ConnectionPolicy.HANDOVER


def switcher(folder: Path, kernel: FakeKernel, policy: ConnectionPolicy = HANDOVER) -> Switcher:
    return Switcher(DataplaneConfig(connections=policy), folder, kernel)


def test_a_switch_does_its_steps_tells_of_each_and_leaves_no_journal(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, held=3)
    heard: list[StepRecord] = []
    record = switcher(tmp_path / "new" / "folder", kernel).switch(Mode.NFTABLES, NOTHING, heard.append)
    assert (record.from_mode, record.to_mode, record.outcome) == (ObservedMode.IPVS, Mode.NFTABLES, Outcome.SUCCEEDED)
    assert tuple(heard) == record.steps
    assert [step.name for step in heard] == list(plan({Mode.IPVS}, Mode.NFTABLES, HANDOVER).steps)
    assert record.connections == Connections(found=3, kept=1)
    assert record.connections.lost == 2
    assert record.attempts == 1
    assert record.verification == (Probes("ClusterIP", 1, 1, 1, ()),)
    assert kernel.there == {Mode.NFTABLES}
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_from_nothing_the_target_is_programmed_and_no_connections_are_reported(tmp_path: Path) -> None:
    record = switcher(tmp_path, FakeKernel()).switch(Mode.IPVS, NOTHING, lambda step: None)
    assert (record.from_mode, record.outcome, record.connections) == (ObservedMode.NONE, Outcome.SUCCEEDED, None)


@pytest.mark.parametrize("policy", list(ConnectionPolicy))
@pytest.mark.parametrize("to", list(Mode))
@pytest.mark.parametrize("step", list(Step))
def test_a_step_that_fails_leaves_the_node_as_it_was(
    tmp_path: Path, to: Mode, step: Step, policy: ConnectionPolicy
) -> None:
    old = next(mode for mode in Mode if mode is not to)
    steps = plan({old}, to, policy)
    kernel = FakeKernel({old}, fails={step}, once={step})
    one = switcher(tmp_path, kernel, policy)
    if step not in steps.steps:
        kernel.held = 0
        assert one.switch(to, NOTHING, lambda step: None).outcome is Outcome.SUCCEEDED
        return
    with pytest.raises(SwitchError, match=f"{step}: {step} is refused") as failure:
        one.switch(to, NOTHING, lambda step: None)
    assert failure.value.record.outcome is Outcome.ROLLED_BACK
    assert kernel.there == {old}
    assert one.unfinished() is None
    assert (kernel.done[-1] == "undo") is (step in steps.reversible)


@pytest.mark.parametrize("to", list(Mode))
@pytest.mark.parametrize("step", [Step.REMOVE_TABLE, Step.RESTORE, Step.REMOVE_VIRTUAL_SERVERS])
def test_where_the_way_back_fails_too_the_next_switch_goes_on(tmp_path: Path, to: Mode, step: Step) -> None:
    old = next(mode for mode in Mode if mode is not to)
    if step not in plan({old}, to, HANDOVER).final:
        return
    kernel = FakeKernel({old}, fails={step})
    one = switcher(tmp_path, kernel)

    def no_way_back(record: StepRecord) -> None:
        if record.name in (Step.COUNT, Step.CATCH):
            kernel.fails.add(Step.VERIFY)

    with pytest.raises(SwitchError, match=f"{step} is refused; and the way back failed: ") as failure:
        one.switch(to, NOTHING, no_way_back)
    assert failure.value.record.outcome is Outcome.FAILED
    assert to in kernel.there
    assert one.unfinished() is to
    kernel.fails.clear()
    record = one.switch(to, NOTHING, lambda step: None)
    assert (record.outcome, record.attempts) == (Outcome.RESUMED, 2)
    assert kernel.there == {to}
    assert one.unfinished() is None


@pytest.mark.parametrize("to", list(Mode))
@pytest.mark.parametrize("step", [Step.PROBE_TARGET, Step.PROBE_AFTER])
def test_a_verification_that_fails_brings_the_node_back(tmp_path: Path, to: Mode, step: Step) -> None:
    old = next(mode for mode in Mode if mode is not to)
    kernel = FakeKernel({old}, fails={step})
    if step not in plan({old}, to, HANDOVER).steps:
        return
    with pytest.raises(SwitchError, match=f"{step}: ") as failure:
        switcher(tmp_path, kernel).switch(to, NOTHING, lambda step: None)
    assert failure.value.record.outcome is Outcome.ROLLED_BACK
    assert kernel.there == {old}
    assert kernel.done.count(step) == 1, "the way back is not verified by what answered after it"


def drain(folder: Path, kernel: FakeKernel, seconds: int) -> Switcher:
    return Switcher(DataplaneConfig(connections=ConnectionPolicy.DRAIN, drain_seconds=seconds), folder, kernel)


def test_drain_is_called_again_until_connections_have_ended(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, held=5)
    one = drain(tmp_path, kernel, 3600)
    for left in (5, 3, 3):
        kernel.held = left
        with pytest.raises(SwitchPending) as pending:
            one.switch(Mode.NFTABLES, NOTHING, lambda step: None)
        record = pending.value.record
        assert (record.outcome, record.completed_at, record.attempts) == (None, None, 1)
        assert record.drain_until is not None
        assert 0 < pending.value.seconds <= 5
        assert one.unfinished() is Mode.NFTABLES
    assert kernel.done.count(Step.PROGRAM) == 1, "the engine keeps the target up to date meanwhile"
    kernel.held = 0
    record = one.switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert record.outcome is Outcome.SUCCEEDED
    assert kernel.there == {Mode.NFTABLES}
    assert record.connections is not None
    assert (record.connections.found, record.connections.drained) == (5, 5)


def test_at_the_deadline_of_a_drain_what_is_left_is_cut_also_by_the_next_agent(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, held=5)
    with pytest.raises(SwitchPending) as pending:
        drain(tmp_path, kernel, 3600).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    deadline = pending.value.record.drain_until
    journal = Journal(tmp_path)
    entry = journal.read()
    assert entry is not None
    assert entry.drain_until == deadline
    journal.write(replace(entry, drain_until=datetime.now(UTC)))
    kernel.held = 2
    record = drain(tmp_path, kernel, 3600).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert record.connections == Connections(found=5, kept=1, drained=3)
    assert record.connections.lost == 1


def test_a_clock_that_is_set_back_makes_no_drain_longer(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, held=5)
    with pytest.raises(SwitchPending):
        drain(tmp_path, kernel, 60).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    journal = Journal(tmp_path)
    entry = journal.read()
    assert entry is not None
    journal.write(replace(entry, drain_until=datetime.now(UTC) + timedelta(days=1)))
    with pytest.raises(SwitchPending) as pending:
        drain(tmp_path, kernel, 60).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    deadline = pending.value.record.drain_until
    assert deadline is not None
    assert deadline <= datetime.now(UTC) + timedelta(seconds=60)


def test_a_step_that_was_begun_before_the_clock_was_set_back_took_no_negative_time(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, dies=Step.CARRY)
    with pytest.raises(Killed):
        switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    journal = Journal(tmp_path)
    entry = journal.read()
    assert entry is not None
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    journal.write(replace(entry, steps=tuple(replace(step, started_at=tomorrow) for step in entry.steps)))
    kernel.dies = ""
    record = switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert any(step.tries > 1 for step in record.steps)
    assert all(step.milliseconds >= 0 for step in record.steps), "the API takes no other"


def test_a_drain_can_be_called_off(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, held=5)
    one = drain(tmp_path, kernel, 3600)
    with pytest.raises(SwitchPending):
        one.switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert one.switch(Mode.IPVS, NOTHING, lambda step: None).outcome is Outcome.SUCCEEDED
    assert kernel.there == {Mode.IPVS}
    assert one.unfinished() is None


def test_a_clean_up_ends_what_a_killed_switch_has_left_and_goes_on_after_what_it_cannot_remove(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, dies=Step.RESTORE)
    with pytest.raises(Killed):
        switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert kernel.handover_begun()
    assert Journal(tmp_path).read() is not None
    assert clean_up(kernel, Journal(tmp_path)) == {"ipvs": "no ipvs here", "nftables": "no nftables here"}
    assert not kernel.handover_begun()
    assert Journal(tmp_path).read() is None


def test_an_undo_that_fails_is_told_and_the_next_switch_goes_on(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, fails={Step.VERIFY, "undo"})
    one = switcher(tmp_path, kernel)
    with pytest.raises(SwitchError, match=r"verify-target is refused; and could not be undone: undo") as failure:
        one.switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert failure.value.record.outcome is Outcome.FAILED
    kernel.fails.clear()
    assert one.switch(Mode.NFTABLES, NOTHING, lambda step: None).outcome is Outcome.RESUMED


def test_a_mode_that_is_alone_in_the_kernel_is_never_removed_by_a_failure(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, fails={Step.VERIFY})
    with pytest.raises(SwitchError) as failure:
        switcher(tmp_path, kernel).switch(Mode.IPVS, NOTHING, lambda step: None)
    assert failure.value.record.outcome is Outcome.FAILED
    assert kernel.there == {Mode.IPVS}


@pytest.mark.parametrize("to", list(Mode))
@pytest.mark.parametrize("step", list(Step))
def test_killed_at_any_step_the_next_agent_finishes(tmp_path: Path, to: Mode, step: Step) -> None:
    old = next(mode for mode in Mode if mode is not to)
    if step not in plan({old}, to, HANDOVER).steps:
        return
    kernel = FakeKernel({old}, dies=step)
    with pytest.raises(Killed):
        switcher(tmp_path, kernel).switch(to, NOTHING, lambda step: None)
    kernel.dies = ""
    next_agent = switcher(tmp_path, kernel)
    assert next_agent.unfinished() is to
    record = next_agent.switch(to, NOTHING, lambda step: None)
    assert (record.from_mode, record.outcome, record.attempts) == (ObservedMode(old), Outcome.RESUMED, 2)
    assert all(done.tries <= 2 for done in record.steps)
    assert kernel.tried == 1, "what answered before is what did in the old mode"
    assert kernel.there == {to}
    assert next_agent.unfinished() is None


def test_killed_half_way_the_next_agent_can_also_go_back(tmp_path: Path) -> None:
    kernel = FakeKernel({Mode.IPVS}, dies=Step.REMOVE_SIDE_TABLE)
    with pytest.raises(Killed):
        switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    kernel.dies = ""
    record = switcher(tmp_path, kernel).switch(Mode.IPVS, NOTHING, lambda step: None)
    assert record.outcome is Outcome.SUCCEEDED
    assert kernel.there == {Mode.IPVS}


def test_with_the_journal_lost_the_kernel_tells_of_a_half_done_switch(tmp_path: Path) -> None:
    assert switcher(tmp_path, FakeKernel({Mode.IPVS, Mode.NFTABLES})).unfinished() is Mode.NFTABLES
    assert switcher(tmp_path, FakeKernel({Mode.IPVS})).unfinished() is None


def test_a_folder_that_cannot_be_written_stops_the_switch_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kernel = FakeKernel({Mode.IPVS})
    with pytest.raises(SwitchError, match="journal: "):
        switcher(tmp_path / "file" / "below", kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert kernel.done == []


def test_the_journal_keeps_what_it_was_given(tmp_path: Path) -> None:
    now = datetime(2026, 11, 21, 4, 5, 6, 789, tzinfo=UTC)
    entry = JournalEntry(
        ObservedMode.IPVS,
        Mode.NFTABLES,
        now,
        final=True,
        steps=(StepRecord("one", now, 12, tries=3),),
        attempts=2,
        found=7,
        drain_until=now,
        answered=ANSWERED,
    )
    journal = Journal(tmp_path)
    assert journal.read() is None
    journal.write(entry)
    assert Journal(tmp_path).read() == entry
    journal.clear()
    journal.clear()
    assert journal.read() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", json.dumps({"format": 1}), json.dumps({"format": 2})])
def test_a_journal_that_makes_no_sense_counts_as_none_and_is_told(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "switch.json").write_text(content)
    assert Journal(tmp_path).read() is None
    assert "switch journal ignored" in caplog.text


def conntrack(client_port: int, *, state: int = 3, nat: bool = False, pod: int = 11, vip: int = 10) -> Flow:
    client, service, endpoint = (bytes((10, 0, 0, last)) for last in (1, vip, pod))
    there, back = Direction(client, client_port, service, 80), Direction(endpoint, 8080, client, client_port)
    status = Status.SEEN_REPLY | (Status.DST_NAT if nat else 0)
    return flow(ConntrackEntry(6, there, back, status, info=(state, 0, 0, 0, 0)))


def test_connections_are_counted_by_who_translates_them_and_compared_by_endpoint() -> None:
    services = counting.Frontends.of([(bytes((10, 0, 0, 10)), 6, 80)], [])
    entries = [
        conntrack(1),
        conntrack(2, nat=True),
        conntrack(3, state=5),
        conntrack(4, state=1),
        conntrack(5, vip=77),
        conntrack(6),
    ]
    held = counting.held_by(Mode.IPVS, entries, services)
    assert held == {original_of(one): reply_of(one) for one in (entries[0], entries[5])}
    assert set(counting.held_by(Mode.NFTABLES, entries, services)) == {original_of(entries[1])}
    assert counting.opening(entries, services) == {original_of(entries[3])}
    after = Checked({original_of(conntrack(6)): held[original_of(conntrack(6))]}, [conntrack(6, nat=True, pod=12)])
    assert counting.compare(held, after) == Connections(found=2, kept=1)


def test_connections_to_every_address_of_a_service_count() -> None:
    vip, external, balancer = (bytes((10, 0, 0, last)) for last in (10, 20, 30))
    port = ServicePort(
        ServicePortName("ns", "web", "", Protocol.TCP, Family.IPV4),
        Frontend(vip, Protocol.TCP, 80),
        (),
        30080,
        external_ips=(external,),
        load_balancer_ips=(balancer,),
    )
    services = counting.frontends(ServiceState({port.name: port}))
    for address in (vip, external, balancer):
        assert services.has(6, address, 80)
        assert not services.has(6, address, 81)
    assert services.has(6, bytes((192, 168, 0, 1)), 30080)


KUBE_PROXY_IPVS = Found(ObservedMode.KUBE_PROXY_IPVS, rules=True, device=True)
KUBE_PROXY_NAT = Found(ObservedMode.KUBE_PROXY_NFTABLES, rules=True)


@pytest.mark.parametrize("to", list(Mode))
@pytest.mark.parametrize("found", [KUBE_PROXY_IPVS, KUBE_PROXY_NAT])
def test_from_kube_proxy_the_way_leads_over_the_nearest_mode_of_ours(tmp_path: Path, found: Found, to: Mode) -> None:
    kernel = FakeKernel(found=found)
    record = switcher(tmp_path, kernel).switch(to, NOTHING, lambda step: None)
    assert (record.from_mode, record.outcome) == (found.mode, Outcome.SUCCEEDED)
    assert kernel.there == {to}
    assert kernel.found == Found()
    assert kernel.tried == 1
    names = [step.name for step in record.steps]
    assert names.index(Step.TAKE_OVER) < names.index(Step.REMOVE_KUBE_PROXY) < names.index(Step.PROGRAM)
    assert (Step.CARRY in names) is (found.device and to is Mode.NFTABLES)


@pytest.mark.parametrize("to", list(Mode))
@pytest.mark.parametrize("found", [KUBE_PROXY_IPVS, KUBE_PROXY_NAT])
@pytest.mark.parametrize("step", list(Step))
def test_a_take_over_that_fails_or_is_killed_leaves_a_whole_dataplane_and_can_go_on(
    tmp_path: Path, found: Found, to: Mode, step: Step
) -> None:
    kernel = FakeKernel(found=found, fails={step}, once={step})
    one = switcher(tmp_path / "fails", kernel)
    failed: SwitchRecord | None = None
    try:
        one.switch(to, NOTHING, lambda step: None)
    except SwitchError as failure:
        failed = failure.record
    if failed is not None:
        assert failed.outcome in (Outcome.ROLLED_BACK, Outcome.FAILED)
        assert kernel.found.rules or kernel.there, "neither kube-proxy's rules nor a mode of ours"
        assert (one.unfinished() is None) is (failed.outcome is Outcome.ROLLED_BACK)
        assert one.switch(to, NOTHING, lambda step: None).outcome in (Outcome.SUCCEEDED, Outcome.RESUMED)
    assert kernel.there == {to}

    killed = FakeKernel(found=found, dies=step)
    one = switcher(tmp_path / "dies", killed)
    try:
        one.switch(to, NOTHING, lambda step: None)
    except Killed:
        killed.dies = ""
        again = switcher(tmp_path / "dies", killed)
        assert again.unfinished() is to
        record = again.switch(to, NOTHING, lambda step: None)
        assert (record.from_mode, record.outcome) == (found.mode, Outcome.RESUMED)
    assert (killed.there, killed.found) == ({to}, Found())


def test_what_fails_after_a_take_over_leads_back_to_the_mode_of_ours_that_is_nearest(tmp_path: Path) -> None:
    kernel = FakeKernel(found=KUBE_PROXY_IPVS, fails={Step.PROBE_TARGET})
    with pytest.raises(SwitchError) as failure:
        switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert failure.value.record.outcome is Outcome.ROLLED_BACK
    assert (kernel.there, kernel.found) == ({Mode.IPVS}, Found())


@pytest.mark.parametrize("dies", [Step.TAKE_OVER, Step.REMOVE_KUBE_PROXY])
def test_so_it_does_where_the_take_over_was_killed_before(tmp_path: Path, dies: Step) -> None:
    kernel = FakeKernel(found=KUBE_PROXY_IPVS, dies=dies)
    with pytest.raises(Killed):
        switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    kernel.dies, kernel.fails = "", {Step.PROBE_TARGET}
    with pytest.raises(SwitchError) as failure:
        switcher(tmp_path, kernel).switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert failure.value.record.outcome is Outcome.ROLLED_BACK
    assert (kernel.there, kernel.found) == ({Mode.IPVS}, Found())


def test_what_a_switch_has_left_is_tidied_up_when_the_mode_is_asked_for_but_never_in_the_midst_of_one(
    tmp_path: Path,
) -> None:
    kernel = FakeKernel({Mode.IPVS}, dies=Step.CARRY)
    one = switcher(tmp_path, kernel)
    assert one.observe() is ObservedMode.IPVS
    assert kernel.done == ["tidy"]
    with pytest.raises(Killed):
        one.switch(Mode.NFTABLES, NOTHING, lambda step: None)
    assert switcher(tmp_path, kernel).observe() is ObservedMode.NFTABLES
    assert kernel.done.count("tidy") == 1


def test_where_no_kube_proxy_has_been_there_is_nothing_to_take_over() -> None:
    for present in (set[Mode](), {Mode.IPVS}, {Mode.NFTABLES}):
        for to in Mode:
            assert take_over(Found(), present, to) is None
