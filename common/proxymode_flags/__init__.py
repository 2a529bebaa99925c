"""Values of flags that operator and agent both have: text to a checked value, or one line that says what is right.

For `type=` of argparse. Pure, and quick to import. What only one of the two has stays there.
"""

from __future__ import annotations

import argparse
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from proxymode_api.durations import parse_duration
from proxymode_log import LogFormat

if TYPE_CHECKING:
    from datetime import timedelta


class BindAddress(NamedTuple):
    """Where a server listens; port 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def listening(self) -> str | None:
        """As asyncio wants it: None where all of the machine's addresses are meant. In Kubernetes' own programs 0.0.0.0
        and [::] both are (Go's net.Listen); probes of a cluster without IPv4 come by IPv6."""
        return None if self.host in ("0.0.0.0", "::") else self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind_address(text: str) -> BindAddress | None:
    """`ADDRESS:PORT`, or `:PORT` for all addresses; empty: None, which is nowhere."""
    if not text:
        return None
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"
    try:
        ipaddress.ip_address(host)
        if separator and port.isdigit() and int(port) <= 65535:
            return BindAddress(host, int(port))
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is not an address to listen on; write it as in 127.0.0.1:10249 or [::1]:10249"
    )


def duration(text: str) -> timedelta:
    """A length of time, written as in the API; 0 is one."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def log_format(text: str) -> LogFormat:
    """A way of writing log lines."""
    try:
        return LogFormat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a logging format; use logfmt or json") from None
