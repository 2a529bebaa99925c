"""I/O: which addresses sockets of the node itself are bound to, from /proc/net (net/ipv4/tcp_ipv4.c, udp.c).

A connection that the node itself opened to a virtual server while the address had no route with another source is
spoken from the virtual server's own address, and stalls when that is no longer local.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

_FOLDER: Final = Path("/proc/thread-self/net")
_LISTS: Final = ("tcp", "tcp6", "udp", "udp6")
_TIME_WAIT: Final = "06"
_MAPPED: Final = bytes(10) + b"\xff\xff"


def in_use(addresses: Collection[bytes]) -> set[bytes]:
    """Those of the addresses that a socket in the calling thread's network namespace is bound to."""
    if not addresses:
        return set()
    wanted = set(addresses)
    found: set[bytes] = set()
    for name in _LISTS:
        try:
            lines = (_FOLDER / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            _, local, _, state, *_ = line.split(None, 4)
            address = _packed(local.partition(":")[0])
            if state != _TIME_WAIT and address in wanted:
                found.add(address)
    return found


def _packed(text: str) -> bytes:
    """The kernel prints an address as words in its own byte order."""
    packed = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return packed[12:] if packed.startswith(_MAPPED) else packed
