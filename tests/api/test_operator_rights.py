"""The operator has the rights that it needs and no other: RBAC is enforced, and every rule of its roles is used."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from operator_bed import bed, server
from proxymode_testbeds.apiserver.rights import granted, used

if TYPE_CHECKING:
    from pathlib import Path

GATE = {
    "name": "judge",
    "webhook": {"url": "https://127.0.0.1:1", "bearerTokenSecret": {"name": "proxymode-gates", "key": "none"}},
}
STAGES = [{"name": "one", "count": 1}, {"name": "all", "percent": 100, "approval": "Manual"}]


async def test_the_operator_uses_every_right_that_it_has_and_asks_for_no_other(tmp_path: Path) -> None:
    async with server(tmp_path / "api") as api, bed(api, tmp_path) as fleet:
        await fleet.add_nodes("n0", "n1")
        async with fleet.operator() as process:
            await fleet.create(stages=STAGES)
            await fleet.until_status("AwaitingApproval")
            await fleet.edit({"metadata": {"annotations": {"proxymode.io/promote": "all"}}})
            await fleet.until_status("Complete")
            await fleet.until_event("RolloutComplete")
            await fleet.create("gated", stages=STAGES, gates=[GATE])
            await fleet.until_event("GateUnanswered")
            process.process.send_signal(signal.SIGTERM)
            assert await process.process.wait() == 0, process.log_tail()
        assert used("operator", api.requests()) == granted("operator")
