"""Values of command line flags: text to a checked value, or one line that says what would be right. Pure."""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_api.modes import DetectLocalMode, IpvsScheduler, Mode
from proxymode_flags import duration

if TYPE_CHECKING:
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIMARY: Final = "primary"
"""The word for the node's own addresses in --nodeport-addresses."""
# Compiled when they are asked for, each of which takes as long as the import of a module.
_NODE_NAME: Final = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_INTERFACE: Final = r"^[^/:\s]{1,15}$"  # dev_valid_name and IFNAMSIZ of the kernel


def _bad(value: str, right: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{value!r} {right}")


def mode(value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise _bad(value, "is not a mode this agent programs; use nftables or ipvs") from None


def node_name(value: str) -> str:
    if not re.match(_NODE_NAME, value.strip().lower()):
        raise _bad(value, "is not a node name; use lower case letters, digits, '-' and '.'")
    return value.strip().lower()


def folder(value: str) -> Path:
    if not value.startswith("/"):
        raise _bad(value, "is not an absolute path; write it as in /var/lib/proxymode")
    return Path(value)


def _network(value: str) -> Network:
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise _bad(value, "is not a network; write it as in 10.244.0.0/16 or fd00:10:244::/56") from None


def networks(value: str) -> tuple[Network, ...]:
    return tuple(_network(text.strip()) for text in value.split(",") if text.strip())


def detect_local_mode(value: str) -> DetectLocalMode:
    try:
        return DetectLocalMode(value)
    except ValueError:
        raise _bad(value, f"is not a way to tell pods; use one of {', '.join(DetectLocalMode)}") from None


def interface(value: str) -> str:
    if not re.match(_INTERFACE, value):
        raise _bad(value, "is not an interface's name; use up to 15 characters without '/', ':' and spaces")
    return value


def node_port_addresses(value: str) -> list[str]:
    texts = [text.strip() for text in value.split(",") if text.strip()]
    for text in texts:
        if text != PRIMARY:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise _bad(text, "is neither a network such as 192.168.0.0/16 nor the word primary") from None
    return texts


def boolean(value: str) -> bool:
    if value.lower() in ("true", "1", "t"):
        return True
    if value.lower() in ("false", "0", "f"):
        return False
    raise _bad(value, "is neither true nor false")


def masquerade_bit(value: str) -> int:
    if not value.isdigit() or int(value) > 31:
        raise _bad(value, "is not a bit of the packet mark; use 0 to 31")
    return int(value)


def scheduler(value: str) -> IpvsScheduler:
    try:
        return IpvsScheduler(value)
    except ValueError:
        raise _bad(value, f"is not an IPVS scheduler; use one of {', '.join(IpvsScheduler)}") from None


def verbosity(value: str) -> int:
    if not value.isdigit():
        raise _bad(value, "is not a log level; use a number from 0 (normal) to 10")
    return int(value)


def count(value: str) -> int:
    if not value.isdigit():
        raise _bad(value, "is not a number of entries; use 0 or more")
    return int(value)


def seconds(value: str) -> int:
    """A duration, 0 included."""
    return int(duration(value).total_seconds())


def period(value: str) -> float:
    """A duration that is not 0, in seconds."""
    found = duration(value).total_seconds()
    if not found:
        raise _bad(value, "is too short; use a second or more, such as 30s")
    return found
