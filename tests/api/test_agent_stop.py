"""SIGTERM ends the agent within five seconds, also while a kernel call hangs: here it has a kernel that does.

No stopwatch, which would time the machine: the agent has a timer of less than that, and its exit status tells whether
it ended by itself (0) or by the timer (1).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from proxymode_agent import main

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

PROMISED_SECONDS = 5.0
DEADLINE_SECONDS = 60.0
AGENT = """
import sys, time
from proxymode_agent import main, parts
from proxymode_agent.dataplane.base import DataplaneError
class Switcher:
    def __init__(self, config, state_dir): pass
    def observe(self):
        print("observing", flush=True)
        time.sleep({seconds})
        raise DataplaneError("no kernel here")
    def close(self): pass
parts.Switcher = Switcher
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, 0), (3600, 1)], ids=["while it retries", "while a kernel call hangs"]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_agent_stops_in_time(
    api: ApiServer, tmp_path: Path, seconds: int, status: int, number: signal.Signals
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        AGENT.format(seconds=seconds),
        f"--kubeconfig={api.kubeconfig()}",
        "--mode=nftables",
        f"--state-dir={tmp_path / 'state'}",
        "--metrics-bind-address=127.0.0.1:0",
        "--healthz-bind-address=127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"observing\n"
        process.send_signal(number)
        async with asyncio.timeout(DEADLINE_SECONDS):
            _, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == status
    assert b"stopping, rules stay in place" in log
    assert (b"did not end in time" in log) is (status == 1)
    assert main.STOP_SECONDS < PROMISED_SECONDS
