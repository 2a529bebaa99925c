"""What was put back shows on the NodeProxyMode and in one Event on the Node, and is over after a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node_bed import NodeBed, condition

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer


async def test_drift_is_a_condition_for_a_while_and_one_event(manifests: ApiServer, tmp_path: Path) -> None:
    bed = NodeBed(manifests, tmp_path)
    await bed.add_node()
    await bed.ask(mode="ipvs")
    async with bed.agent():
        await bed.until(lambda found: condition(found, "Drifted") == "False AsProgrammed")
        bed.engine.change(drift="table ip proxymode is gone")
        found = await bed.until(lambda found: condition(found, "Drifted") == "True Repaired")
        (message,) = [one.message for one in found.status.conditions if one.type == "Drifted"]
        assert message.endswith("it was put back: table ip proxymode is gone.")
        assert condition(found, "Ready") == "True Programmed"
        bed.engine.change(drift="chain ip proxymode services was changed")
        await bed.until(lambda found: any("chain ip proxymode" in one.message for one in found.status.conditions))
        bed.engine.change(drift="")
        await bed.until(lambda found: condition(found, "Drifted") == "False AsProgrammed")
        told = [event for event in await bed.until_events("DriftRepaired") if event["reason"] == "DriftRepaired"]
    assert len(told) == 1, "a second theft soon after the first is the same Event"
    assert told[0]["type"] == "Warning"
    assert told[0]["note"] == message
