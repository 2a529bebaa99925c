"""Programs of the demo: in the guest's namespaces and on this host, each with a log file, all ended at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from proxymode_testbeds.vm import VirtualMachine
    from proxymode_testbeds.vm.process import GuestProcess

STOP_SECONDS = 10.0


class Processes:
    """Starts programs; `places` maps the names of nodes, pods and clients to network namespaces in the guest."""

    def __init__(
        self, vm: VirtualMachine, places: dict[str, str], logs: Path, stack: contextlib.AsyncExitStack
    ) -> None:
        self._vm = vm
        self._places = places
        self._logs = logs
        self._stack = stack

    async def traffic(self, place: str, arguments: Sequence[str]) -> GuestProcess:
        """A client or server of proxymode_testbeds.traffic; its lines are the caller's to read."""
        process = await self._spawn(place, ["-m", "proxymode_testbeds.traffic", *arguments])
        self._log(process.stderr, f"traffic-{place}-{arguments[0]}.err")
        return process

    async def agent(self, place: str, arguments: Sequence[str]) -> GuestProcess:
        """proxymode-agent on a node; its log is agent-NODE.log."""
        process = await self._spawn(place, ["-m", "proxymode_agent", *arguments])
        self._log(process.stdout, f"agent-{place}.out")
        self._log(process.stderr, f"agent-{place}.log")
        return process

    async def output(self, place: str, *argv: str) -> str:
        """What a command prints in a place's namespace."""
        done = await self._vm.run(argv, netns=self._places[place])
        return done.stdout

    async def _spawn(self, place: str, arguments: Sequence[str]) -> GuestProcess:
        process = await self._vm.spawn([sys.executable, *arguments], netns=self._places[place])
        return await self._stack.enter_async_context(process)

    def _log(self, stream: asyncio.StreamReader, name: str) -> None:
        async def copy() -> None:
            with (self._logs / name).open("wb") as file:
                async for line in stream:
                    file.write(line)
                    file.flush()

        task = asyncio.create_task(copy(), name=f"log of {name}")
        self._stack.callback(task.cancel)


@contextlib.asynccontextmanager
async def hold_topology(vm: VirtualMachine, nodes: int, pods: int) -> AsyncIterator[dict[str, str]]:
    """The fleet's namespaces in the guest, one outside client a node; yields namespace by name."""
    arguments = ["--nodes", str(nodes), "--pods", str(pods), "--clients", str(nodes), "--uplink"]
    argv = [sys.executable, "-m", "proxymode_testbeds.topology", *arguments]
    async with await vm.spawn(argv) as process:
        line = await process.stdout.readline()
        if not line:
            message = (await process.stderr.read()).decode(errors="replace")
            raise RuntimeError(f"the fleet's namespaces could not be made: {message.strip()}")
        yield json.loads(line)


@contextlib.asynccontextmanager
async def host_program(argv: Sequence[str | Path], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program on this host until the end of the context: SIGTERM, SIGKILL after ten seconds; dies with us."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", *map(str, argv)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
