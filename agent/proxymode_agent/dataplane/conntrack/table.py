"""I/O: the conntrack table of a network namespace over ctnetlink."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.flow import Flow, Status
from proxymode_agent.dataplane.conntrack.layout import ATTRIBUTE, BY_FAMILY, CTA_STATUS, CTA_TUPLE_ORIG, Layout
from proxymode_agent.dataplane.conntrack.shapes import Shapes
from proxymode_agent.dataplane.netlink import NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NETLINK_NETFILTER: Final = 12
_CT_GET: Final = 0x101
_CTA_STATUS_MASK: Final = 26
_ALL_FAMILIES: Final = bytes(4)  # struct nfgenmsg with AF_UNSPEC: one walk over the table instead of two
_UNTRANSLATED: Final = b"".join(
    ATTRIBUTE.pack(8, kind) + struct.pack(">I", value)
    for kind, value in ((CTA_STATUS, 0), (_CTA_STATUS_MASK, Status.DST_NAT))
)


class Checked(NamedTuple):
    """`good`: which of the wanted are open connections that netfilter's NAT translates. `others`: entries that have the
    addresses and ports of another wanted one, in whichever direction."""

    good: set[bytes]
    others: list[Flow]


class ConntrackTable:
    """The conntrack table of the network namespace that this object was made in. Errors are OSErrors.

    One thing at a time: nothing else before a dump is read to its end.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(_NETLINK_NETFILTER)
        self._shapes = Shapes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    def dump(self, *, untranslated: bool = False) -> Iterator[tuple[Flow, bytes]]:
        """TCP, UDP and SCTP entries of both address families, each with the message that it came in. Entries that
        change during the dump may come twice or not.

        `untranslated`: at least those whose destination netfilter's NAT does not translate; kernels before 5.18 give
        all.
        """
        for message in self._messages(_ALL_FAMILIES + (_UNTRANSLATED if untranslated else b"")):
            flow = self._shapes.parse(message)
            if flow is not None:
                yield flow, message

    def flows(self) -> Iterator[Flow]:
        """As `dump`, without the messages."""
        return (flow for flow, _ in self.dump())

    def check(self, wanted: Mapping[bytes, bytes]) -> Checked:
        """Look for entries with the `wanted` CTA_TUPLE_ORIG and CTA_TUPLE_REPLY.

        Most are as wanted, which is told without taking them apart: half the time of `dump`.
        """
        good: set[bytes] = set()
        others: list[Flow] = []
        for message in self._messages(_ALL_FAMILIES):
            layout = BY_FAMILY[message[0]]
            original, answers = message[layout.original], message[layout.reply]
            reply = wanted.get(original)
            if reply is not None or layout.headers(CTA_TUPLE_ORIG)[0] + answers[4:] in wanted:
                flow = self._shapes.parse(message)
                if flow is not None:
                    if answers == reply and flow.by_nftables and flow.open:
                        good.add(original)
                    else:
                        others.append(flow)
        return Checked(good, others)

    def select(self, layout: Layout, criteria: bytes) -> Iterator[Flow]:
        """Entries of one address family that meet `criteria`, the attributes of a dump request (CTA_FILTER).

        The kernel picks them while it walks its table; kernels before 5.8 do not and give all.
        """
        return (flow for flow in map(self._shapes.parse, self._messages(layout.header + criteria)) if flow is not None)

    def delete(self, flows: Iterable[Flow]) -> None:
        """Delete entries; those that are gone meanwhile are left at that."""
        self._netlink.submit(map(messages.delete, flows))

    def replace(self, flows: Iterable[Flow]) -> None:
        """Delete each entry and create it with netfilter's NAT, one right after the other.

        An entry that is gone, or has a successor before it could get one, is left at that: a dump tells.
        """
        self._netlink.submit(messages.delete(flow) + messages.create(flow) for flow in flows)

    def create(self, flows: Iterable[Flow]) -> int:
        """Create entries with netfilter's NAT, where none is in the way: how many were not created for that reason.

        Raises OSError for any other refusal, such as a full table.
        """
        refused = self._netlink.submit(map(messages.create, flows))
        for error in refused:
            if error != errno.EEXIST:
                raise OSError(error, f"conntrack entry not created: {os.strerror(error)}")
        return refused[errno.EEXIST]

    def _messages(self, request: bytes) -> Iterator[bytes]:
        for kind, _, message in self._netlink.stream(_CT_GET, request):
            if kind == messages.CT_NEW:
                yield bytes(message)
