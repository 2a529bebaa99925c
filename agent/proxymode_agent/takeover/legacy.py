"""I/O: kube-proxy's chains among those of iptables-legacy, by the socket options that iptables itself uses.

Only tables that exist are asked for: asking for another one would make the kernel load its module. A table is replaced
as a whole; where somebody else replaced it since it was read, the kernel says so as long as the number of rules
differs, and it is read anew. The counters of the rules that stay begin at zero. Numbers and structures from
include/uapi/linux/netfilter_ipv4/ip_tables.h; the options need CAP_NET_ADMIN and no raw socket.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.takeover.blob import HOOKS, Blob, chains, drops_forwarded, without
from proxymode_agent.takeover.names import FORWARD, IPTABLES_TABLES, SERVICES, is_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GET_INFO: Final = 64
_GET_ENTRIES: Final = 65
_SET_REPLACE: Final = 64
_INFO: Final = struct.Struct(f"=32sI{HOOKS}I{HOOKS}III")  # name, valid_hooks, hook_entry, underflow, num_entries, size
_INFO_NUMBERS: Final = 2 * HOOKS + 3
_ENTRIES: Final = struct.Struct("=32sI4x")  # name, size
_REPLACE: Final = struct.Struct(f"=32sIII{HOOKS}I{HOOKS}IIQ")
_COUNTERS: Final = 16  # sizeof(struct xt_counters)
_TRIES: Final = 5


class _Family(NamedTuple):
    length: int
    domain: int
    level: int
    names: Path


_FAMILIES: Final = (
    _Family(4, socket.AF_INET, socket.SOL_IP, Path("/proc/thread-self/net/ip_tables_names")),
    _Family(16, socket.AF_INET6, socket.IPPROTO_IPV6, Path("/proc/thread-self/net/ip6_tables_names")),
)


class Seen(NamedTuple):
    """kube-proxy's chains, as table and name."""

    chains: frozenset[tuple[str, str]]

    def __bool__(self) -> bool:
        return bool(self.chains)

    @property
    def serves(self) -> bool:
        """Whether these chains are those of a kube-proxy that handled Services."""
        return ("nat", SERVICES) in self.chains


def look() -> Seen:
    """kube-proxy's chains in the network namespace of the calling thread. Raises OSError.

    KUBE-FORWARD does not count where the policy of FORWARD is drop.
    """
    return Seen(
        frozenset(
            (table, name)
            for family in _FAMILIES
            for table, blob in _tables(family)
            for name in filter(_goes(table, blob), chains(blob))
        )
    )


def nat_chains() -> set[tuple[int, str]]:
    """All chains of table nat, with the length of their family's addresses. Raises OSError."""
    return {
        (family.length, name)
        for family in _FAMILIES
        for table, blob in _tables(family)
        if table == "nat"
        for name in chains(blob)
    }


def lengths(chain: str) -> set[int]:
    """The families, by the length of an address, that have a chain of this name in table nat. Raises OSError."""
    return {length for length, name in nat_chains() if name == chain}


def remove() -> None:
    """Remove these chains and what leads to them. Raises DataplaneError and OSError."""
    for family in _FAMILIES:
        for table, blob in _tables(family):
            if any(map(_goes(table, blob), chains(blob))):
                _remove(family, table)


def _remove(family: _Family, table: str) -> None:
    for _ in range(_TRIES):
        old = _read(family, table)
        new = without(old, _goes(table, old))
        if new == old or _replace(family, table, old, new):
            return
    raise DataplaneError(f"iptables-legacy: table {table} was changed by somebody else {_TRIES} times in a row")


def _goes(table: str, blob: Blob) -> Callable[[str], bool]:
    spared = FORWARD if table == "filter" and drops_forwarded(blob) else None
    return lambda name: is_chain(table, name) and name != spared


def _tables(family: _Family) -> Iterator[tuple[str, Blob]]:
    try:
        names = family.names.read_text().split()
    except FileNotFoundError:
        return  # the kernel has no iptables-legacy, or has not loaded it
    for table in IPTABLES_TABLES:
        if table in names:
            yield table, _read(family, table)


def _read(family: _Family, table: str) -> Blob:
    with socket.socket(family.domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as options:
        for _ in range(_TRIES):
            info = _get(options, family, _GET_INFO, _INFO.pack(table.encode(), *[0] * _INFO_NUMBERS))
            _, valid, *offsets, number, size = _INFO.unpack(info)
            try:
                asked = _ENTRIES.pack(table.encode(), size) + bytes(size)
                entries = _get(options, family, _GET_ENTRIES, asked)[_ENTRIES.size :]
            except OSError as error:
                if error.errno == errno.EAGAIN:  # its size has changed in between
                    continue
                raise
            return Blob(family.length, valid, tuple(offsets[:HOOKS]), tuple(offsets[HOOKS:]), number, entries)
    raise DataplaneError(f"iptables-legacy: table {table} changes too fast to be read")


def _get(options: socket.socket, family: _Family, option: int, request: bytes) -> bytes:
    """getsockopt(2) with a request in its buffer, which the socket module's own has no way for."""
    import ctypes  # few nodes have iptables-legacy, and every start looks

    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(options.fileno(), family.level, option, buffer, ctypes.byref(length)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"iptables-legacy: {os.strerror(error)}")
    return buffer.raw[: length.value]


def _replace(family: _Family, table: str, old: Blob, new: Blob) -> bool:
    """Whether the kernel took it; not if the table has another number of rules than was read."""
    import ctypes

    counters = ctypes.create_string_buffer(old.number * _COUNTERS)
    head = _REPLACE.pack(
        table.encode(),
        new.valid_hooks,
        new.number,
        len(new.entries),
        *new.hook_entry,
        *new.underflow,
        old.number,
        ctypes.addressof(counters),
    )
    with socket.socket(family.domain, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as options:
        try:
            options.setsockopt(family.level, _SET_REPLACE, head + new.entries)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            raise OSError(error.errno, f"iptables-legacy: table {table}: {os.strerror(error.errno or 0)}") from error
    return True
