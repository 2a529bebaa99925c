"""I/O: the conntrack table of a network namespace over ctnetlink."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.flow import Flow, Status
from proxymode_agent.dataplane.conntrack.layout import ATTRIBUTE, CTA_STATUS, Layout
from proxymode_agent.dataplane.conntrack.shapes import Block, Shapes
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
    """`rest`: the wanted but for those that are open connections which netfilter's NAT translates. `others`: entries
    with the addresses and ports of one of the rest, in whichever direction."""

    rest: dict[bytes, bytes]
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

    def flows(self, *, untranslated: bool = False) -> Iterator[Flow]:
        """TCP, UDP and SCTP entries of both address families; those that change meanwhile may come twice or not at all.

        `untranslated`: at least those whose destination netfilter's NAT does not translate; kernels before 5.18 give
        all.
        """
        return self._select(_ALL_FAMILIES + (_UNTRANSLATED if untranslated else b""))

    def found(self, *, untranslated: bool = False) -> Iterator[Block | Flow]:
        """As `flows`, those together that are alike."""
        return self._found(_ALL_FAMILIES + (_UNTRANSLATED if untranslated else b""))

    def check(self, wanted: Mapping[bytes, bytes]) -> Checked:
        """Look for entries with the `wanted` CTA_TUPLE_ORIG and CTA_TUPLE_REPLY.

        Most are as wanted, which is told without taking them apart.
        """
        rest = dict(wanted)
        others: list[Flow] = []
        is_wanted = wanted.items().__contains__
        for found in self._found(_ALL_FAMILIES):
            if isinstance(found, Flow):
                if _names(messages.original_of(found), messages.reply_of(found), rest):
                    others.append(found)
                continue
            pairs = list(found.tuples())
            columns = zip(pairs, map(is_wanted, pairs), found.translated(), found.open(), strict=True)
            fine = [pair[0] for pair, same, translated, is_open in columns if same and translated and is_open]
            for original in fine:
                rest.pop(original, None)  # an entry that changes may come twice
            if len(fine) < len(pairs):
                others += found.picked([at for at, pair in enumerate(pairs) if _names(*pair, rest)]).flows()
        return Checked(rest, others)

    def select(self, layout: Layout, criteria: bytes) -> Iterator[Flow]:
        """Entries of one address family that meet `criteria`, the attributes of a dump request (CTA_FILTER).

        The kernel picks them while it walks its table; kernels before 5.8 do not and give all.
        """
        return self._select(layout.header + criteria)

    def delete(self, flows: Iterable[Flow]) -> None:
        """Delete entries; those that are gone meanwhile are left at that."""
        self._netlink.submit(messages.delete(messages.original_of(flow), flow.id) for flow in flows)

    def replace(self, moves: Iterable[bytes]) -> None:
        """Delete each entry and create it with netfilter's NAT, one right after the other, by such pairs of requests.

        An entry that is gone, or has a successor before it could get one, is left at that: a dump tells.
        """
        self._netlink.submit(moves)

    def create(self, requests: Iterable[bytes]) -> int:
        """Create entries with netfilter's NAT, where none is in the way: how many were not created for that reason.

        Raises OSError for any other refusal, such as a full table.
        """
        refused = self._netlink.submit(requests)
        for error in refused:
            if error != errno.EEXIST:
                raise OSError(error, f"conntrack entry not created: {os.strerror(error)}")
        return refused[errno.EEXIST]

    def _select(self, request: bytes) -> Iterator[Flow]:
        for found in self._found(request):
            if isinstance(found, Flow):
                yield found
            else:
                yield from found.flows()

    def _found(self, request: bytes) -> Iterator[Block | Flow]:
        for size, rows in self._netlink.rows(_CT_GET, request, messages.CT_NEW):
            yield from self._shapes.sort(size, rows)


def _names(original: bytes, reply: bytes, wanted: Mapping[bytes, bytes]) -> bool:
    """Whether an entry has the addresses and ports of a wanted one, in whichever direction."""
    return original in wanted or messages.as_original(reply) in wanted
