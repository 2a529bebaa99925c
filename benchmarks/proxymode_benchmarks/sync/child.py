"""A process that is measured from outside: started, watched until it is ready, and stopped as a node stops it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxymode_benchmarks.sync.proxy import ProcessError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_STOP_SECONDS: Final = 10.0


class Child:
    """A context manager; the process dies with this one. `deadline`: seconds in which it has to be ready."""

    def __init__(self, name: str, command: Sequence[str], log: Path, deadline: float) -> None:
        self._name = name
        self._command = command
        self._log = log
        self._deadline = deadline

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._began = time.monotonic()
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Raises ProcessError with the end of its log if it has ended, or is not ready and should be."""
        late = self.age > self._deadline
        if late or self._process.poll() is not None:
            why = f"not synced within {self._deadline:.0f} s" if late else f"status {self._process.returncode}"
            raise ProcessError(f"{self._name}: {why}; its log ends with:\n{self._log.read_text()[-2000:]}")


def peak_rss(pid: int) -> int:
    """The highest resident set so far, in bytes; 0: the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
