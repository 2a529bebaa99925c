"""Servers and clients as processes of a test: start, wait for a word, stop, get the result.

For tests that run where the namespaces are. From outside of a guest use `VirtualMachine.spawn` with
:func:`server_command` or :func:`client_command` and read the lines from its stdout.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from types import TracebackType

WORD_SECONDS = 300.0  # a deadline under emulation, not an estimate


class TrafficError(Exception):
    """The process said it cannot, or ended without the awaited word."""


class TrafficProcess:
    """A running server or client, whose stdout must be a pipe. Leaving it as a context manager kills it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        # A thread reads, so that waiting has a deadline and the pipe never fills.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str, condition: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next line of that event that meets the condition, skipping others; TrafficError when it does not come.

        `client.wait_for("second", lambda counters: counters["lost"] == 5)` waits for five losses.
        """
        deadline = time.monotonic() + WORD_SECONDS
        while True:
            try:
                found = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TrafficError(f"no such {event!r} within {WORD_SECONDS:g} s") from None
            if found is None:
                raise TrafficError(f"ended with code {self._process.wait()} without saying {event!r}")
            if found["event"] == "error":
                raise TrafficError(found["message"])
            if found["event"] == event and condition(found):
                return found

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> dict[str, Any]:
        """Asks it to stop and returns its result."""
        self._process.send_signal(signal.SIGTERM)
        return self.result()

    def result(self) -> dict[str, Any]:
        """The result of a process that ends by itself or was asked to."""
        result = self.wait_for("result")
        self._process.wait(timeout=WORD_SECONDS)
        return result

    def __enter__(self) -> TrafficProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)


def server_command(name: str, *, tcp: int | None = None, udp: int | None = None, address: str = "::") -> list[str]:
    """`name` is what clients find in `backends`."""
    return [*_COMMAND, "server", "--name", name, "--address", address, *_flags(tcp=tcp, udp=udp)]


def client_command(address: str, **load: float | bool | None) -> list[str]:
    """`load` as in `client --help`, with underscores: tcp=80, established=20, new_rate=10, seconds=5, ..."""
    return [*_COMMAND, "client", address, *_flags(**load)]


_COMMAND = (sys.executable, "-m", "proxymode_testbeds.traffic")


def _flags(**values: float | bool | None) -> list[str]:
    flags = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return flags
