"""The agent between kube-proxy and its own modes, against a real API server: when it waits, and what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from node_bed import HEALTHY, NodeBed, condition
from proxymode_agent.engine.snapshot import EnginePhase
from proxymode_agent.node.writer import Pace
from proxymode_agent.preflight.model import KubeProxyFound
from proxymode_api.labels import SERVICE_PROXY_LABEL
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode
from proxymode_api.nodeproxymode import Phase, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

RUNNING = replace(HEALTHY, kube_proxy=KubeProxyFound(running="process 7", mode="ipvs", rules=("table ip nat",)))
LEFT = replace(HEALTHY, kube_proxy=KubeProxyFound(rules=("table ip nat",)))
IMPATIENT = Pace(kube_proxy=timedelta(seconds=0.2), retry_cap=0.5)


async def label(api: ApiServer, name: str, value: str) -> None:
    await api.kubectl("label", "node", name, f"{SERVICE_PROXY_LABEL}{value}")


async def test_a_node_is_taken_over_when_it_is_labelled_and_kube_proxy_has_left(
    manifests: ApiServer, tmp_path: Path
) -> None:
    bed = NodeBed(manifests, tmp_path, observed=ObservedMode.KUBE_PROXY_IPVS, facts=RUNNING, pace=IMPATIENT)
    await bed.add_node()
    await bed.ask(targetMode="nftables", kubeProxy={"policy": "TakeOver"})
    async with bed.agent():
        found = await bed.until(lambda found: found.status.preflight is not None)
        assert condition(found, "PreflightPassed").startswith("True")
        assert condition(found, "KubeProxyPresent") == "True Running"

        await bed.ask_again(mode="nftables")
        found = await bed.until(lambda found: condition(found, "KubeProxyPresent") == "True ReadyToTakeOver")
        assert found.status.observed_generation == found.metadata.generation
        bed.facts = LEFT  # it only restarts
        await bed.until(
            lambda found: any("label" in c.message and "process" not in c.message for c in found.status.conditions)
        )
        bed.facts = RUNNING
        await label(manifests, bed.name, "=agent")
        await bed.until(
            lambda found: any("process 7" in c.message and "label" not in c.message for c in found.status.conditions)
        )
        assert {mode for mode, _ in bed.engine.told} == {None}

        bed.facts = LEFT
        found = await bed.until(lambda found: found.status.mode is ObservedMode.NFTABLES)
        assert bed.engine.told[-1][0] is Mode.NFTABLES
        bed.facts = RUNNING  # somebody brought it back: we go on, and say so
        found = await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        assert condition(found, "Ready") == "True Programmed"


async def test_a_node_is_handed_back_by_way_of_nftables(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, observed=ObservedMode.IPVS, pace=IMPATIENT)
    await bed.add_node()
    await bed.ask(mode="ipvs", kubeProxy={"policy": "TakeOver"})
    async with bed.agent():
        await bed.until(lambda found: found.status.phase is Phase.ACTIVE)
        await bed.ask_again(mode="nftables", kubeProxy={"policy": "HandBack"})
        found = await bed.until(lambda found: condition(found, "KubeProxyPresent") == "False ReadyToHandBack")
        assert found.status.mode is ObservedMode.NFTABLES
        told, config = bed.engine.told[-1]
        assert (told, config.kube_proxy) == (Mode.NFTABLES, KubeProxyPolicy.HAND_BACK)
        bed.facts = RUNNING
        await bed.until(lambda found: any("has not programmed" in c.message for c in found.status.conditions))
        bed.engine.change(observed=ObservedMode.KUBE_PROXY_IPVS, phase=EnginePhase.OBSERVING, synced=False)
        found = await bed.until(lambda found: condition(found, "KubeProxyPresent") == "True HandedBack")
        assert condition(found, "Ready") == "True HandedBack"
        assert found.status.mode is ObservedMode.KUBE_PROXY_IPVS


async def test_without_take_over_a_running_kube_proxy_blocks(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path, observed=ObservedMode.KUBE_PROXY_IPVS, facts=RUNNING)
    await bed.add_node()
    await bed.ask(mode="nftables")
    async with bed.agent():
        found = await bed.until(lambda found: found.status.phase is Phase.BLOCKED)
        assert condition(found, "PreflightPassed") == "False Blocked"
        assert {mode for mode, _ in bed.engine.told} == {None}


async def test_a_node_is_not_taken_over_by_an_agent_that_needs_kube_proxy_itself(
    manifests: ApiServer, tmp_path: Path
) -> None:
    """As if the API server were reached by the Service kubernetes: after a reboot nobody would program that."""
    needy = replace(RUNNING, kubernetes_service="127.0.0.1")
    bed = NodeBed(manifests, tmp_path, observed=ObservedMode.KUBE_PROXY_IPVS, facts=needy)
    await bed.add_node()
    await bed.ask(mode="nftables", kubeProxy={"policy": "TakeOver"})
    async with bed.agent():
        found = await bed.until(lambda found: found.status.phase is Phase.BLOCKED)
        assert found.status.preflight is not None
        blocking = [result.id for result in found.status.preflight.results if result.verdict is Verdict.BLOCK]
        assert blocking == ["api-server-address"]
        assert {mode for mode, _ in bed.engine.told} == {None}
