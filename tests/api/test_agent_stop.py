"""SIGTERM ends the agent within five seconds, also while a kernel call hangs: here it has a kernel that does."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

STOP_SECONDS = 5.0
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
        async with asyncio.timeout(60):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"observing\n"
        process.send_signal(number)
        async with asyncio.timeout(STOP_SECONDS + 1):  # the second is the interpreter's, on a busy machine
            _, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == status
    assert b"stopping, rules stay in place" in log
