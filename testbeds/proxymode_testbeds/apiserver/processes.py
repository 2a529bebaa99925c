"""Server processes of the API server test bed: their output in a file, their death tied to ours."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running program, and where its output goes."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def log_tail(self) -> str:
        """The last lines that it wrote, under a heading with its name and state."""
        state = "running" if self.alive else f"ended with status {self.process.returncode}"
        with self.log.open(errors="replace") as file:
            return f"--- {self.log.name} ({state})\n" + "".join(deque(file, LOG_TAIL_LINES))


@asynccontextmanager
async def running(command: Sequence[str], log: Path) -> AsyncIterator[ServerProcess]:
    """Run a program in the folder of its log file until the block ends; then kill it, for its data is thrown away.

    It is also killed when the thread that entered the block dies (PR_SET_PDEATHSIG), so a killed test run leaves none.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", *command),
            cwd=log.parent,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield ServerProcess(process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
