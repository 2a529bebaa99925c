"""The agent's side of NodeProxyMode against a real API server and its admission policies."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from node_bed import HEALTHY, TOO_OLD, NodeBed, ObedientEngine, condition
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.node.memory import FILE_NAME, recall
from proxymode_agent.node.writer import Pace
from proxymode_agent.switch import Connections, Outcome, StepRecord, SwitchRecord
from proxymode_api.deprecation import parse_minor
from proxymode_api.modes import Mode, ObservedMode
from proxymode_api.nodeproxymode import STATUS_MANAGER, Phase, SwitchOutcome

if TYPE_CHECKING:
    from proxymode_testbeds.apiserver import ApiServer

CRDS = Path(__file__).parents[2] / "crds"
IMPATIENT = Pace(preflight=timedelta(seconds=0.3), preflight_blocked=timedelta(seconds=0.3), retry_cap=0.5)


async def test_status_appears_and_only_the_status_is_the_agents(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="ipvs", targetMode="nftables")
    async with bed.agent():
        found = await bed.until(lambda found: found.status.heartbeat_time is not None)
    assert found.status.phase is Phase.ACTIVE
    assert found.status.mode is ObservedMode.IPVS
    assert found.status.observed_generation == found.metadata.generation
    assert found.status.facts.cluster_version.startswith("v1.")
    assert found.status.deprecated == "1.43"
    minors = 43 - parse_minor(found.status.facts.cluster_version).minor
    labels = {"mode": "ipvs", "step": "removed"}
    assert bed.metrics.registry.get_sample_value("proxymode_agent_deprecation_minors", labels) == minors
    assert condition(found, "Ready") == "True Programmed"
    assert condition(found, "PreflightPassed") == "True PassedWithWarnings"
    assert found.status.preflight is not None
    assert found.status.preflight.mode is Mode.NFTABLES
    fields = (
        await manifests.kubectl("get", "nodeproxymode", bed.name, "--output=json", "--show-managed-fields")
    ).json()["metadata"]["managedFields"]
    (ours,) = [entry for entry in fields if entry["manager"] == "proxymode-agent"]
    assert ours["subresource"] == "status"
    assert set(ours["fieldsV1"]) == {"f:status"}


async def test_the_engine_is_told_the_mode_and_the_options(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="nftables", ipvs={"scheduler": "lc"}, masqueradeAll=True)
    async with bed.agent():
        await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        await bed.ask_again(masqueradeAll=False)
        await bed.until(lambda found: found.status.observed_generation == found.metadata.generation == 2)
    assert [(mode, config.masquerade_all) for mode, config in bed.engine.told] == [
        (Mode.NFTABLES, True),
        (Mode.NFTABLES, False),
    ]
    assert bed.engine.told[0][1].ipvs_scheduler == "lc"


async def test_a_blocked_mode_is_not_set_and_the_node_says_which_check_blocks(
    manifests: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(manifests, tmp_path, facts=TOO_OLD, pace=IMPATIENT)
    await bed.add_node()
    await bed.ask(mode="nftables", targetMode="nftables")
    async with bed.agent():
        found = await bed.until(lambda found: found.status.phase is Phase.BLOCKED)
        assert found.status.mode is ObservedMode.IPVS
        assert condition(found, "PreflightPassed") == "False Blocked"
        assert condition(found, "Ready") == "True Programmed"
        assert {mode for mode, _ in bed.engine.told} == {None}
        (blocked,) = [event for event in await bed.until_events("Blocked") if event["reason"] == "Blocked"]
        assert "kernel-version" in blocked["note"]
        assert "5.13" in blocked["note"]

        bed.facts = HEALTHY
        found = await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        assert condition(found, "PreflightPassed").startswith("True")
    assert bed.engine.told[-1][0] is Mode.NFTABLES


async def test_a_target_is_checked_ahead_of_its_turn(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, facts=TOO_OLD)
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        # IPVS can run on this kernel, but whether it is there cannot be told from these facts: a warning only.
        await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        await bed.ask_again(targetMode="nftables")
        found = await bed.until(lambda found: found.status.observed_generation == found.metadata.generation == 2)
    assert found.status.phase is Phase.BLOCKED
    assert condition(found, "Ready") == "True Programmed"
    assert [mode for mode, _ in bed.engine.told] == [Mode.IPVS]


async def test_without_a_mode_the_node_is_only_observed(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, observed=ObservedMode.KUBE_PROXY_IPVS)
    await bed.add_node()
    await bed.ask()
    async with bed.agent():
        found = await bed.until(lambda found: found.status.phase is Phase.OBSERVING)
    assert condition(found, "Ready") == "Unknown Observing"
    assert condition(found, "PreflightPassed") == "Unknown NotRun"
    assert condition(found, "DeprecatedMode").startswith("True")
    assert [mode for mode, _ in bed.engine.told] == [None]


async def test_the_heartbeat_goes_on_where_nothing_happens(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, pace=Pace(heartbeat=timedelta(seconds=1), write=timedelta(seconds=0.1)))
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        first = (await bed.until(lambda found: found.status.heartbeat_time is not None)).status.heartbeat_time
        assert first is not None
        found = await bed.until(
            lambda found: (
                found.status.heartbeat_time is not None and found.status.heartbeat_time >= first + timedelta(seconds=2)
            )
        )
    # By this the plugin knows when the agent wrote last, whatever its node's clock says.
    (written,) = [entry.time for entry in found.metadata.managed_fields if entry.manager == STATUS_MANAGER]
    assert written is not None
    assert written >= first + timedelta(seconds=2)


async def test_a_clock_that_is_set_back_neither_silences_the_agent_nor_keeps_it_from_looking(
    manifests: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(manifests, tmp_path, pace=Pace(heartbeat=timedelta(seconds=1), write=timedelta(seconds=0.1)))
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        first = (await bed.until(lambda found: found.status.heartbeat_time is not None)).status.heartbeat_time
        assert first is not None
        bed.facts, bed.slow = TOO_OLD, timedelta(hours=1)
        found = await bed.until(
            lambda found: found.status.heartbeat_time is not None and found.status.heartbeat_time < first
        )
        assert found.status.facts.kernel == TOO_OLD.kernel


async def test_a_spec_that_could_not_be_kept_is_kept_as_soon_as_it_can(manifests: ApiServer, tmp_path: Path) -> None:
    obstacle = tmp_path / "state"
    obstacle.write_text("a file where the folder should be")
    bed = NodeBed(manifests, obstacle, pace=Pace(heartbeat=timedelta(seconds=1), write=timedelta(seconds=0.1)))
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        await bed.until(lambda found: found.status.heartbeat_time is not None)
        obstacle.unlink()
        kept_at = obstacle / FILE_NAME
        await bed.until(lambda _: kept_at.is_file())
    kept = recall(obstacle).spec
    assert kept is not None
    assert kept.mode is Mode.IPVS


async def test_a_spec_is_kept_as_soon_as_the_engine_follows_it_and_not_only_once_the_status_says_so(
    manifests: ApiServer, tmp_path: Path
) -> None:
    """The API server may go away in between, and a restart must not lead back to what was asked before."""
    bed = NodeBed(manifests, tmp_path, pace=Pace(write=timedelta(hours=1)))

    def kept() -> Mode | None:
        spec = recall(tmp_path).spec
        return None if spec is None else spec.mode

    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        await bed.until(lambda found: found.status.heartbeat_time is not None)
        await bed.ask_again(mode="nftables")
        await bed.until(lambda _: kept() is Mode.NFTABLES)
    assert bed.writes == 1


async def test_endpoints_that_come_and_go_cause_no_writes(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, pace=Pace(write=timedelta(seconds=0)))
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        before = bed.writes
        for endpoints in range(200):
            bed.engine.change(endpoints=endpoints, last_sync=datetime.now(UTC))
            await asyncio.sleep(0)
        # A change of another kind is written, and with it everything that had waited.
        bed.engine.change(error="nf_tables: ENOMEM", phase=EnginePhase.FAILED, synced=False)
        found = await bed.until(lambda found: found.status.phase is Phase.FAILED)
        assert bed.writes == before + 1
    assert found.status.programmed.endpoints == 199
    assert condition(found, "Degraded") == "True SyncFailed"


async def test_a_switch_is_reported_with_its_steps_and_in_events(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, pace=Pace(write=timedelta(seconds=0)))
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        began = datetime.now(UTC)
        steps = (StepRecord("program", began, 31), StepRecord("remove-virtual-servers", began, 1200))
        bed.engine.change(phase=EnginePhase.SWITCHING, desired=Mode.NFTABLES, steps=steps[:1], synced=False)
        await bed.until(lambda found: found.status.phase is Phase.SWITCHING)
        bed.engine.change(
            phase=EnginePhase.ACTIVE,
            observed=ObservedMode.NFTABLES,
            steps=(),
            synced=True,
            last_switch=SwitchRecord(
                from_mode=ObservedMode.IPVS,
                to_mode=Mode.NFTABLES,
                started_at=began - timedelta(milliseconds=2),
                completed_at=began + timedelta(seconds=2),
                outcome=Outcome.SUCCEEDED,
                message="",
                steps=steps,
                connections=Connections(found=280, kept=0),
            ),
        )
        found = await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        events = await bed.until_events("SwitchSucceeded")
    switch = found.status.last_switch
    assert switch is not None
    assert switch.outcome is SwitchOutcome.SUCCEEDED
    assert [step.name for step in switch.steps] == ["program", "remove-virtual-servers"]
    assert (switch.connections_found, switch.connections_kept, switch.connections_lost) == (280, 0, 280)
    reasons = [event["reason"] for event in events if event["reason"].startswith("Switch")]
    assert reasons == ["SwitchStarted", "SwitchSucceeded"]


async def test_deprecation_is_told_on_the_node_as_upstream_does_and_once_a_day(
    manifests: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="ipvs")
    for _ in range(2):
        async with bed.agent():
            await bed.until_events("IPVSDeprecation")
            await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
    events = [event for event in await bed.events() if event["reason"] == "IPVSDeprecation"]
    assert len(events) == 1
    assert events[0]["action"] == "ProxyModeCheck"
    assert events[0]["type"] == "Warning"
    assert events[0]["regarding"]["kind"] == "Node"
    assert "move to nftables" in events[0]["note"]


async def test_a_restart_changes_no_condition(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        before = await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
    # A new process begins with an engine that has not read the kernel back yet.
    again = replace(bed, pace=Pace(heartbeat=timedelta(seconds=0)))
    again.engine = ObedientEngine(ObservedMode.NONE, at_once=False)
    async with again.agent():
        await again.until_told()
        for endpoints in range(50):
            again.engine.change(endpoints=endpoints)
            await asyncio.sleep(0)
        assert again.writes == 0
        again.engine.obey()
        after = await again.until(lambda found: found.status.heartbeat_time != before.status.heartbeat_time)
    assert after.status.conditions == before.status.conditions


async def test_options_that_cannot_be_followed_leave_the_node_as_it_was_also_over_a_restart(
    manifests: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="ipvs", masqueradeAll=True)
    async with bed.agent():
        await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        await bed.ask_again(masqueradeAll=False, detectLocal={"mode": "NodeCIDR"})
        found = await bed.until(lambda found: found.status.phase is Phase.FAILED)
        assert condition(found, "Degraded") == "True OptionsRefused"
        assert condition(found, "Ready") == "False OptionsRefused"
    again = replace(bed)
    async with again.agent():
        await again.until_told()
    for engine in (bed.engine, again.engine):
        assert [(mode, config.masquerade_all) for mode, config in engine.told] == [(Mode.IPVS, True)]


async def test_a_node_whose_nodeproxymode_is_deleted_keeps_what_it_has(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="nftables")
    async with bed.agent():
        await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        await manifests.kubectl("delete", "nodeproxymode", bed.name)
        await bed.ask(mode="nftables", revision=2)
        found = await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        assert found.spec.revision == 2
    assert {mode for mode, _ in bed.engine.told} == {Mode.NFTABLES}


async def test_without_crds_the_agent_waits_and_follows_as_soon_as_they_are_there(
    empty_api: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(empty_api, tmp_path / "state", pace=IMPATIENT)
    await bed.add_node()
    async with bed.agent():
        await bed.until_told()
        await empty_api.kubectl("apply", f"--filename={CRDS}")
        await empty_api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=180s")
        await bed.ask(mode="nftables")
        found = await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
    assert condition(found, "Ready") == "True Programmed"
    assert [mode for mode, _ in bed.engine.told] == [None, Mode.NFTABLES]


async def test_while_nodeproxymode_cannot_be_read_a_restarted_agent_goes_on_as_it_was_asked(
    empty_api: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(empty_api, tmp_path / "state")
    await bed.add_node()
    await empty_api.kubectl("apply", f"--filename={CRDS}")
    await empty_api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=180s")
    await bed.ask(mode="nftables", masqueradeAll=True)
    async with bed.agent():
        await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        async with asyncio.timeout(180):
            while recall(tmp_path / "state").spec is None:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)
    await empty_api.kubectl("delete", "crd", "nodeproxymodes.proxymode.io")
    again = NodeBed(empty_api, tmp_path / "state", name=bed.name)
    async with again.agent():
        await again.until_told()
    assert [(mode, config.masquerade_all) for mode, config in again.engine.told] == [(Mode.NFTABLES, True)]
