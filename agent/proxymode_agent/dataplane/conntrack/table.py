"""I/O: the conntrack table of a network namespace over ctnetlink."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, Self

from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.entries import LAYOUTS, Entry, Layout, parse, translated_open
from proxymode_agent.dataplane.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NETLINK_NETFILTER: Final = 12
_CT_NEW: Final = 0x100  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW
_CT_GET: Final = 0x101
_NFGENMSG: Final = 4


class ConntrackTable:
    """The conntrack table of the network namespace that this object was made in. Errors are OSErrors."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(_NETLINK_NETFILTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    def entries(self, *, translated_only: bool = True) -> Iterator[Entry]:
        """TCP and UDP entries of both address families. Entries that change during the dump may come twice or not."""
        for layout in LAYOUTS:
            for kind, _, message in self._netlink.stream(_CT_GET, layout.header):
                if kind == _CT_NEW:
                    entry = parse(layout, message, translated_only=translated_only)
                    if entry is not None:
                        yield entry

    def check(self, wanted: Mapping[bytes, bytes], *, others: bool = False) -> tuple[set[bytes], list[Entry]]:
        """Which of the `wanted` (CTA_TUPLE_ORIG to _REPLY) are open connections that netfilter's NAT translates, and
        the entries that have the addresses and ports of another in whatever way; with `others` all other translated
        entries too.

        A third of the time of `entries`, for most are as wanted.
        """
        good: set[bytes] = set()
        rest: list[Entry] = []
        for layout in LAYOUTS:
            middle, end = _NFGENMSG + layout.tuple_bytes, _NFGENMSG + 2 * layout.tuple_bytes
            head = layout.original_head
            for kind, _, message in self._netlink.stream(_CT_GET, layout.header):
                if kind != _CT_NEW:
                    continue
                body = bytes(message)
                original = body[_NFGENMSG:middle]
                reply = wanted.get(original)
                if reply is not None and body[middle:end] == reply and translated_open(layout, body):
                    good.add(original)
                elif others or reply is not None or head + body[middle + len(head) : end] in wanted:
                    entry = parse(layout, message, translated_only=reply is None)
                    if entry is not None:
                        rest.append(entry)
        return good, rest

    def select(self, layout: Layout, criteria: bytes) -> Iterator[Entry]:
        """Entries of one address family that meet `criteria`, the attributes of a dump request (CTA_FILTER).

        The kernel picks them while it walks its table; kernels before 5.8 do not and give all.
        """
        for kind, _, message in self._netlink.stream(_CT_GET, layout.header + criteria):
            if kind == _CT_NEW:
                entry = parse(layout, message, translated_only=False)
                if entry is not None:
                    yield entry

    def delete(self, entries: Iterable[Entry]) -> None:
        """Delete entries; those that are gone meanwhile are left at that."""
        self._netlink.transact(messages.delete(entries))

    def replace(self, entries: Iterable[Entry]) -> None:
        """Delete each entry and create it with netfilter's NAT, one right after the other.

        An entry that is gone, or has a successor before it could get one, is left at that: a dump tells.
        """
        self._netlink.transact(messages.replace(entries))

    def create(self, entries: Iterable[Entry]) -> None:
        """Create entries with netfilter's NAT, where none is in the way: a dump tells.

        Raises OSError for any other refusal, such as a full table.
        """
        for error in self._netlink.transact(messages.create(entries)).values():
            if error != errno.EEXIST:
                raise OSError(error, f"conntrack entry not created: {os.strerror(error)}")
