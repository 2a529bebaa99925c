"""What is measured, whichever proxy it is: a process that syncs a node's kernel with the API server's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from proxymode_benchmarks.sync.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of the process to its first complete sync.

    `wall` seconds in all, `sync` seconds of it for that sync, `cpu` seconds of user and system time of the process and
    its children, `written` kernel objects where the proxy tells, `rss` bytes, the highest until then.
    """

    wall: float
    sync: float
    cpu: float
    written: int | None
    rss: int


class Running(Protocol):
    """A process that was started; a context manager, at whose end it is stopped and leaves its rules."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wait_until_synced(self) -> Start:
        """Wait for the first complete sync. Raises ProcessError."""
        ...

    def cpu(self) -> float:
        """Seconds of user and system time so far, its children's included."""
        ...

    def peak_rss(self) -> int:
        """The highest resident set so far, in bytes, with its largest child's."""
        ...


class Endpoints(Protocol):
    """The endpoints that a proxy has put into the kernel, looked up one by one."""

    def close(self) -> None: ...

    def index(self, service: int, address: str, count: int) -> int:
        """Where one of a Service's `count` endpoints is. Raises LookupError: it is not there."""
        ...

    def holds(self, service: int, index: int, address: str) -> bool:
        """Whether this endpoint is there. Raises OSError."""
        ...


class Proxy(Protocol):
    """One of those that are compared. `restarts_write`: whether a start over what is there may write."""

    restarts_write: bool

    def start(self, cluster: Cluster, folder: Path, *, again: bool = False) -> Running:
        """`again`: over what it has written before."""
        ...

    def endpoints(self) -> Endpoints: ...

    def remove(self) -> None:
        """Leave none of its tables in the current namespace."""
        ...


class ProcessError(Exception):
    """A process ended, or did not get ready; the message has the end of its log."""
