"""A node's status, from what the agent has observed and what it wrote before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from proxymode_agent.engine.snapshot import EnginePhase, EngineSnapshot
from proxymode_agent.node.conditions import Observation
from proxymode_agent.node.handing import Stand
from proxymode_agent.node.status import HEARTBEAT, build, worth_writing
from proxymode_agent.preflight.model import Facts, KubeProxyFound, ModuleState
from proxymode_agent.services.model import Family, Protocol, ServicePortName
from proxymode_agent.switch import Connections, Outcome, Probes, StepRecord, SwitchRecord
from proxymode_api.common import Condition, ConditionStatus
from proxymode_api.deprecation import Minor
from proxymode_api.modes import Mode, ObservedMode
from proxymode_api.nodeproxymode import (
    FrontendKind,
    NodeProxyModeSpec,
    NodeProxyModeStatus,
    Phase,
    Preflight,
    PreflightResult,
    SwitchOutcome,
    Verdict,
)
from proxymode_api.reasons.codes import Reason

NOW = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
ACTIVE = EngineSnapshot(
    phase=EnginePhase.ACTIVE,
    desired=Mode.IPVS,
    observed=ObservedMode.IPVS,
    synced=True,
    services=12,
    endpoints=40,
    last_sync=NOW - timedelta(seconds=3),
)
PASSED = Preflight(
    mode=Mode.NFTABLES,
    checked_at=NOW - timedelta(minutes=1),
    results=[PreflightResult(id="kernel-version", verdict=Verdict.PASS, found="Linux 6.1.0")],
)
BLOCKED = Preflight(
    mode=Mode.NFTABLES,
    checked_at=NOW - timedelta(minutes=1),
    results=[
        PreflightResult(id="kernel-version", verdict=Verdict.BLOCK, found="Linux 5.10", remedy="Upgrade the kernel."),
        PreflightResult(id="ip-forward", verdict=Verdict.WARN, found="off", remedy="Set net.ipv4.ip_forward=1."),
    ],
)
SWITCHED = SwitchRecord(
    from_mode=ObservedMode.IPVS,
    to_mode=Mode.NFTABLES,
    started_at=NOW - timedelta(seconds=5),
    completed_at=NOW - timedelta(seconds=4),
    outcome=Outcome.SUCCEEDED,
    message="",
    steps=(StepRecord("program", NOW - timedelta(seconds=5), 31),),
    connections=Connections(found=280, kept=279),
)


def seen(**changes: Any) -> Observation:
    usual = Observation(
        generation=3,
        spec=NodeProxyModeSpec(mode=Mode.IPVS, target_mode=Mode.NFTABLES),
        engine=ACTIVE,
        facts=Facts(kernel="6.1.0", architecture="x86_64", modules={"ip_vs": ModuleState.LOADED}),
        preflight=PASSED,
        cluster=Minor(1, 36),
        cluster_version="v1.36.2",
        agent_version="0.1.0",
    )
    return replace(usual, **changes)


def status_of(**changes: Any) -> NodeProxyModeStatus:
    return build(seen(**changes), NodeProxyModeStatus(), NOW)


def condition(status: NodeProxyModeStatus, kind: str) -> Condition:
    (found,) = [condition for condition in status.conditions if condition.type == kind]
    return found


def test_a_node_that_does_as_services_say_is_ready() -> None:
    status = status_of()
    assert status.phase is Phase.ACTIVE
    assert status.mode is ObservedMode.IPVS
    assert condition(status, "Ready").status is ConditionStatus.TRUE
    assert status.programmed.services == 12
    assert status.programmed.endpoints == 40
    assert status.observed_generation == 3
    assert status.facts.modules == ["ip_vs"]
    assert status.facts.cluster_version == "v1.36.2"


def test_all_conditions_are_always_there_and_only_these() -> None:
    types = {condition.type for condition in status_of().conditions}
    assert types == {
        "Ready",
        "PreflightPassed",
        "Switching",
        "Degraded",
        "DeprecatedMode",
        "KubeProxyPresent",
        "Drifted",
    }


def test_drift_that_was_repaired_is_told_for_a_while_and_makes_no_node_unready() -> None:
    drifted = status_of(engine=msgspec.structs.replace(ACTIVE, drift="table ip proxymode is gone"))
    found = condition(drifted, "Drifted")
    assert (found.status, found.reason) == (ConditionStatus.TRUE, "Repaired")
    assert found.message.endswith("it was put back: table ip proxymode is gone.")
    assert condition(drifted, "Ready").status is ConditionStatus.TRUE
    assert condition(status_of(), "Drifted").status is ConditionStatus.FALSE


@pytest.mark.parametrize(
    ("changes", "ready", "reason", "words"),
    [
        ({"phase": EnginePhase.PENDING, "synced": False}, ConditionStatus.FALSE, "WaitingForServices", "known yet"),
        ({"phase": EnginePhase.PROGRAMMING, "synced": False}, ConditionStatus.FALSE, "Programming", "first complete"),
        ({"phase": EnginePhase.SWITCHING, "synced": False}, ConditionStatus.FALSE, "Switching", "moves to ipvs"),
        (
            {"phase": EnginePhase.FAILED, "synced": False, "error": "nf_tables: EPERM"},
            ConditionStatus.FALSE,
            "SyncFailed",
            "nf_tables: EPERM.",
        ),
        (
            {"phase": EnginePhase.OBSERVING, "synced": False, "observed": ObservedMode.KUBE_PROXY_IPVS},
            ConditionStatus.UNKNOWN,
            "Observing",
            "The kernel has kube-proxy-ipvs;",
        ),
        (
            {"phase": EnginePhase.OBSERVING, "synced": False, "observed": ObservedMode.NONE},
            ConditionStatus.UNKNOWN,
            "Observing",
            "The kernel has no Service dataplane;",
        ),
        ({"phase": EnginePhase.ACTIVE, "synced": False}, ConditionStatus.FALSE, "Programming", "first complete"),
    ],
)
def test_ready_says_why_it_is_not(changes: dict[str, Any], ready: ConditionStatus, reason: str, words: str) -> None:
    found = condition(status_of(engine=msgspec.structs.replace(ACTIVE, **changes)), "Ready")
    assert (found.status, found.reason) == (ready, reason)
    assert words in found.message


def test_a_node_that_cannot_go_where_it_is_to_go_says_which_check_and_what_to_do_and_stays_ready() -> None:
    status = status_of(preflight=BLOCKED)
    assert status.phase is Phase.BLOCKED
    assert condition(status, "Ready").status is ConditionStatus.TRUE
    passed = condition(status, "PreflightPassed")
    assert (passed.status, passed.reason) == (ConditionStatus.FALSE, "Blocked")
    assert passed.message == "nftables is blocked by kernel-version: Linux 5.10. Upgrade the kernel."


def test_a_node_that_runs_the_mode_already_is_not_blocked_from_it() -> None:
    engine = msgspec.structs.replace(ACTIVE, observed=ObservedMode.NFTABLES, desired=Mode.NFTABLES)
    assert status_of(engine=engine, preflight=BLOCKED).phase is Phase.ACTIVE


def test_a_refused_mode_blocks_also_where_the_target_is_fine() -> None:
    status = status_of(refused=tuple(BLOCKED.results[:1]))
    assert status.phase is Phase.BLOCKED
    assert condition(status, "PreflightPassed").message.startswith("ipvs is blocked by kernel-version")


def test_warnings_are_named() -> None:
    preflight = Preflight(mode=Mode.NFTABLES, checked_at=NOW, results=BLOCKED.results[1:])
    passed = condition(status_of(preflight=preflight), "PreflightPassed")
    assert passed.status is ConditionStatus.TRUE
    assert passed.reason == "PassedWithWarnings"
    assert "ip-forward" in passed.message


def test_without_a_mode_to_check_nothing_is_claimed() -> None:
    status = status_of(spec=NodeProxyModeSpec(), preflight=None)
    assert condition(status, "PreflightPassed").status is ConditionStatus.UNKNOWN


@pytest.mark.parametrize(
    ("observed", "cluster", "deprecated", "since"),
    [
        (ObservedMode.IPVS, Minor(1, 36), "1.43", ConditionStatus.TRUE),
        (ObservedMode.KUBE_PROXY_IPVS, Minor(1, 36), "1.43", ConditionStatus.TRUE),
        (ObservedMode.IPVS, Minor(1, 34), "", ConditionStatus.FALSE),
        (ObservedMode.NFTABLES, Minor(1, 36), "", ConditionStatus.FALSE),
        (ObservedMode.NONE, Minor(1, 36), "", ConditionStatus.FALSE),
    ],
)
def test_a_deprecated_mode_is_called_so_from_the_minor_on_that_deprecates_it(
    observed: ObservedMode, cluster: Minor, deprecated: str, since: ConditionStatus
) -> None:
    status = status_of(engine=msgspec.structs.replace(ACTIVE, observed=observed), cluster=cluster)
    assert status.deprecated == deprecated
    assert condition(status, "DeprecatedMode").status is since


def test_who_is_told_that_the_mode_is_deprecated_is_told_what_blocks_the_next_one() -> None:
    free = condition(status_of(cluster=Minor(1, 36)), "DeprecatedMode").message
    assert free == (
        "ipvs is deprecated since 1.35, off by default from 1.40, removed in 1.43 (KEP-5495): move to nftables. "
        "Nothing blocks nftables on this node."
    )
    old = PreflightResult(id="kernel-version", verdict=Verdict.BLOCK, found="Linux 4.19", remedy="Use 5.13 or newer.")
    blocked = condition(status_of(cluster=Minor(1, 36), nftables_blocked=(old,)), "DeprecatedMode").message
    assert blocked.endswith("On this node nftables is blocked by kernel-version: Use 5.13 or newer.")


def test_a_scheduler_that_the_kernel_lacks_degrades_and_leaves_the_node_ready() -> None:
    status = status_of(
        engine=msgspec.structs.replace(ACTIVE, instead="the kernel has no IPVS scheduler sed: rr serves shop/web")
    )
    degraded = condition(status, "Degraded")
    assert (degraded.status, degraded.reason) == (ConditionStatus.TRUE, "SchedulerMissing")
    assert degraded.message == "the kernel has no IPVS scheduler sed: rr serves shop/web."
    assert condition(status, "Ready").status is ConditionStatus.TRUE


def test_what_the_kernel_does_not_take_degrades() -> None:
    name = ServicePortName("default", "web", "http", Protocol.TCP, Family.IPV4)

    def degraded(refused: int) -> Condition:
        engine = msgspec.structs.replace(ACTIVE, refused=((name, "no such scheduler"),) * refused)
        return condition(status_of(engine=engine), "Degraded")

    assert degraded(7).status is ConditionStatus.TRUE
    assert "default/web:http: no such scheduler" in degraded(7).message
    assert degraded(7).message.endswith("and 2 more.")
    assert " more" not in degraded(5).message


def test_options_that_cannot_be_followed_degrade_and_fail() -> None:
    status = status_of(options_error="detectLocal.mode: BridgeInterface is not supported")
    assert status.phase is Phase.FAILED
    assert condition(status, "Degraded").reason == "OptionsRefused"
    # Else the operator would take a node in the right mode with the wrong options for updated.
    assert condition(status, "Ready").status is ConditionStatus.FALSE


@pytest.mark.parametrize(
    ("found", "holds", "reason", "fact"),
    [
        (KubeProxyFound(), ConditionStatus.FALSE, "Absent", ""),
        (KubeProxyFound(running="process 7", mode="ipvs"), ConditionStatus.TRUE, "Running", "ipvs (process 7)"),
        (KubeProxyFound(running="pid 7", rules=("x",)), ConditionStatus.TRUE, "Running", "mode unknown (pid 7)"),
        (KubeProxyFound(rules=("ip x", "ip6 x")), ConditionStatus.TRUE, "RulesLeft", "gone, left ip x, ip6 x"),
    ],
)
def test_kube_proxy(found: KubeProxyFound, holds: ConditionStatus, reason: str, fact: str) -> None:
    status = status_of(facts=Facts(kernel="6.1.0", kube_proxy=found))
    present = condition(status, "KubeProxyPresent")
    assert (present.status, present.reason, status.facts.kube_proxy) == (holds, reason, fact)


@pytest.mark.parametrize(
    ("found", "observed", "holds"),
    [
        (KubeProxyFound(running="pid 7"), ObservedMode.NFTABLES, ConditionStatus.TRUE),
        (KubeProxyFound(), ObservedMode.KUBE_PROXY_IPVS, ConditionStatus.TRUE),
        (KubeProxyFound(), ObservedMode.NFTABLES, ConditionStatus.FALSE),
    ],
)
def test_kube_proxy_is_present_as_long_as_it_runs_or_its_rules_are_what_the_node_has(
    found: KubeProxyFound, observed: ObservedMode, holds: ConditionStatus
) -> None:
    stand = Stand(Reason.READY_TO_HAND_BACK, "It is not here.", soon=True)
    engine = msgspec.structs.replace(ACTIVE, observed=observed)
    present = condition(
        status_of(facts=Facts(kernel="6.1.0", kube_proxy=found), engine=engine, stand=stand), "KubeProxyPresent"
    )
    assert (present.status, present.reason, present.message) == (holds, "ReadyToHandBack", "It is not here.")


def test_a_switch_that_is_done_is_told_with_its_steps_and_connections() -> None:
    engine = msgspec.structs.replace(
        ACTIVE, observed=ObservedMode.NFTABLES, desired=Mode.NFTABLES, last_switch=SWITCHED
    )
    status = status_of(engine=engine)
    switch = status.last_switch
    assert switch is not None
    assert switch.outcome is SwitchOutcome.SUCCEEDED
    assert [step.name for step in switch.steps] == ["program"]
    assert (switch.connections_found, switch.connections_kept, switch.connections_lost) == (280, 279, 1)
    assert condition(status, "Switching").reason == "SwitchSucceeded"


def test_a_switch_tells_how_often_it_was_begun_what_drained_and_what_answered() -> None:
    record = msgspec.structs.replace(
        SWITCHED,
        connections=Connections(280, 200, 70),
        attempts=3,
        steps=(StepRecord("carry-connections", NOW, 31, tries=2),),
        verification=(Probes("NodePort", 4, 3, 2, ("NodePort 192.0.2.1:30080 of ns/web",)),),
    )
    switch = status_of(engine=msgspec.structs.replace(ACTIVE, last_switch=record)).last_switch
    assert switch is not None
    assert (switch.connections_drained, switch.connections_lost, switch.attempts) == (70, 10, 3)
    assert switch.steps[0].tries == 2
    (probes,) = switch.verification
    assert (probes.kind, probes.probed, probes.before, probes.after) == (FrontendKind.NODE_PORT, 4, 3, 2)
    assert probes.failed == ["NodePort 192.0.2.1:30080 of ns/web"]


def test_a_switch_that_waits_for_connections_says_until_when() -> None:
    until = NOW + timedelta(minutes=5)
    waiting = msgspec.structs.replace(SWITCHED, outcome=None, completed_at=None, connections=None, drain_until=until)
    engine = msgspec.structs.replace(
        ACTIVE, phase=EnginePhase.SWITCHING, desired=Mode.NFTABLES, observed=ObservedMode.NFTABLES, last_switch=waiting
    )
    status = status_of(engine=engine)
    assert status.phase is Phase.SWITCHING
    assert status.last_switch is not None
    assert (status.last_switch.completed_at, status.last_switch.drain_deadline) == (None, until)
    switching = condition(status, "Switching")
    assert switching.status is ConditionStatus.TRUE
    assert until.isoformat(timespec="seconds") in switching.message


def test_a_switch_under_way_shows_the_steps_done() -> None:
    engine = msgspec.structs.replace(
        ACTIVE, phase=EnginePhase.SWITCHING, desired=Mode.NFTABLES, steps=SWITCHED.steps, synced=False
    )
    status = status_of(engine=engine)
    assert status.phase is Phase.SWITCHING
    assert status.last_switch is not None
    assert status.last_switch.completed_at is None
    assert condition(status, "Switching").status is ConditionStatus.TRUE


def test_what_an_earlier_run_reported_about_its_switch_stays() -> None:
    engine = msgspec.structs.replace(ACTIVE, observed=ObservedMode.NFTABLES, desired=Mode.NFTABLES)
    before = build(seen(engine=msgspec.structs.replace(engine, last_switch=SWITCHED)), NodeProxyModeStatus(), NOW)
    after = build(seen(engine=engine), before, NOW + timedelta(minutes=5))
    assert after.last_switch == before.last_switch


def test_transition_times_move_only_when_the_status_does() -> None:
    first = status_of()
    later = NOW + timedelta(minutes=5)
    second = build(seen(preflight=BLOCKED), first, later)
    assert condition(second, "Ready").last_transition_time == condition(first, "Ready").last_transition_time
    assert condition(second, "PreflightPassed").last_transition_time == later.replace(microsecond=0)


def test_news_is_written_at_once_and_counts_with_the_heartbeat() -> None:
    written = status_of()
    soon = NOW + timedelta(seconds=5)
    busier = build(seen(engine=msgspec.structs.replace(ACTIVE, services=13, last_sync=soon)), written, soon)
    rechecked = build(seen(preflight=PASSED.model_copy(update={"checked_at": soon})), written, soon)
    assert not worth_writing(busier, written, soon)
    assert not worth_writing(rechecked, written, soon)
    assert worth_writing(busier, written, NOW + HEARTBEAT)
    assert worth_writing(build(seen(preflight=BLOCKED), written, soon), written, soon)
    assert worth_writing(build(seen(generation=4), written, soon), written, soon)


def test_the_first_status_is_always_written() -> None:
    assert worth_writing(status_of(), NodeProxyModeStatus(), NOW)


def test_a_status_is_the_same_after_a_round_trip_through_the_api() -> None:
    engine = msgspec.structs.replace(ACTIVE, observed=ObservedMode.NFTABLES, last_switch=SWITCHED)
    status = status_of(engine=engine, preflight=BLOCKED)
    again = NodeProxyModeStatus.model_validate(status.wire())
    assert again == status
    assert not worth_writing(build(seen(engine=engine, preflight=BLOCKED), again, NOW), again, NOW)
