"""A simulated fleet, small: the operator as shipped, two replicas, the leader killed twice, every write checked.

The long form is `make sim`.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from proxymode_testbeds.apiserver.processes import running
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [
    *(sys.executable, "-m", "proxymode_sim", "--nodes=100", "--max-unavailable=25", "--switch-seconds", "0.2", "0.8"),
    *("--kill-leader=2", "--lease-seconds=4", "--idle-seconds=0", "--progress-deadline=10", "--deadline=200"),
]


async def test_no_promise_is_broken_by_two_replicas_whose_leader_is_killed(tmp_path: Path) -> None:
    async with running(COMMAND, tmp_path / "sim.log") as simulator:

        async def ended() -> bool:
            return not simulator.alive

        await eventually(ended, f"the simulator ends, see {simulator.log}", 240)
        assert simulator.process.returncode == 0, simulator.log_tail()
    result = json.loads(simulator.log.read_text().splitlines()[-1])
    assert (result["nodes"], result["kills"], result["violations"]) == (100, 2, 0)
    assert result["most_writes_to_a_node"] in (2, 3, 4), "prepared and told, at least"
    assert 2 <= result["api_writes_per_node"] <= 4
