"""I/O: the temporary nf_tables table that catches packets of flows which have no conntrack entry at the moment.

Two maps, both keyed by what conntrack calls the original direction: protocol and both ends of the packet that makes an
entry. `destinations` is asked just before the nftables mode's own chains, `sources` just before they masquerade.

Conntrack makes no entry from the middle of an SCTP association, so nothing would translate such a packet, and whoever
got it would abort the association. It is dropped, and sent again by its sender when the entry is back.
"""

from __future__ import annotations

import errno
from socket import IPPROTO_SCTP
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP_DADDR,
    L4PROTO,
    TH_DPORT,
    Chain,
    Connection,
    CtKey,
    CtState,
    Field,
    Hook,
    HookNumber,
    NfnetlinkError,
    NfProto,
    Rule,
    Set,
    Table,
    Transaction,
    add_elements,
    add_packed,
    cmp,
    ct,
    ct_state,
    load,
    lookup_map,
    meta,
    nat,
    one_by_one,
    pack_elements,
    unpack_elements,
    userdata,
    verdict,
)
from proxymode_agent.dataplane.nfnetlink.attributes import HEADER
from proxymode_agent.dataplane.nfnetlink.uapi import MetaKey, NatType, VerdictCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.switch.handover.flows import Catches

NAME: Final = "proxymode-handover"
_BEFORE_DNAT: Final = -110
_BEFORE_SNAT: Final = 90
_ORIGINAL: Final = 0  # IP_CT_DIR_ORIGINAL
_ROOM: Final = 3  # a masqueraded flow takes twice what another takes, and an agent that was killed may come back later
_LEAST_ROOM: Final = 1 << 14


class _Family(NamedTuple):
    length: int
    proto: NfProto
    address: Field
    source: CtKey
    destination: CtKey

    @property
    def table(self) -> Table:
        return Table(self.proto, NAME, "proxymode: connections on their way from ipvs to nftables")

    @property
    def key(self) -> tuple[Field, ...]:
        """meta l4proto . ct original saddr . proto-src . daddr . proto-dst"""
        return (
            L4PROTO,
            self._end("saddr", self.source, self.address),
            self._end("proto-src", CtKey.PROTO_SRC, TH_DPORT),
            self._end("daddr", self.destination, self.address),
            self._end("proto-dst", CtKey.PROTO_DST, TH_DPORT),
        )

    def map(self, name: str, size: int | None = None) -> Set:
        return Set(self.table, name, self.key, (self.address, TH_DPORT), size=size)

    def rule(self, chain: Chain, kind: NatType, name: str) -> Rule:
        words = self.length // 4
        return Rule(chain, (*load(self.key), lookup_map(name, 0, 0), nat(kind, self.proto, 0, words)))

    def _end(self, name: str, key: CtKey, like: Field) -> Field:
        typeof = userdata.ct(key, _ORIGINAL)
        return Field(f"ct original {name}", like.type, like.length, typeof, lambda reg: ct(key, reg, _ORIGINAL))


_FAMILIES: Final = (
    _Family(4, NfProto.IPV4, IP_DADDR, CtKey.SRC_IP, CtKey.DST_IP),
    _Family(16, NfProto.IPV6, IP6_DADDR, CtKey.SRC_IP6, CtKey.DST_IP6),
)
_CHAINS: Final = (
    ("prerouting", HookNumber.PREROUTING, _BEFORE_DNAT, NatType.DNAT, "destinations"),
    ("output", HookNumber.OUTPUT, _BEFORE_DNAT, NatType.DNAT, "destinations"),
    ("input", HookNumber.INPUT, _BEFORE_SNAT, NatType.SNAT, "sources"),
    ("postrouting", HookNumber.POSTROUTING, _BEFORE_SNAT, NatType.SNAT, "sources"),
)
MAPS: Final = {family.length: (family.map("destinations"), family.map("sources")) for family in _FAMILIES}
"""As they are but for their room, by length of addresses."""
_INVALID_SCTP: Final = (("invalid-sctp", HookNumber.PREROUTING), ("invalid-sctp-output", HookNumber.OUTPUT))
_DROP_INVALID_SCTP: Final = (
    meta(MetaKey.L4PROTO, 0),
    cmp(0, bytes((IPPROTO_SCTP,))),
    *ct_state(CtState.INVALID),
    verdict(VerdictCode.DROP),
)


class Packed(NamedTuple):
    """Elements of the two maps as they are sent, many to a piece."""

    destinations: list[bytes]
    sources: list[bytes]

    @property
    def number(self) -> int:
        """Of elements in each."""
        size = HEADER.unpack_from(self.sources[0])[0]
        return sum(map(len, self.sources)) // size if self.sources else 0


def pack(length: int, catches: Catches) -> Packed:
    """The elements of the maps for addresses of that length."""
    destinations, sources = MAPS[length]
    made = Packed([], [])
    if catches.sources:
        made.destinations.append(pack_elements(destinations, catches.destinations.items()))
        made.sources.append(pack_elements(sources, catches.sources.items()))
    return made


class CatchTable:
    """The table in both address families of the current network namespace. Raises DataplaneError."""

    def __init__(self) -> None:
        self._kernel = Connection()

    def close(self) -> None:
        self._kernel.close()

    def add(self, packed: Mapping[int, Packed]) -> None:
        """Make the tables if they are not there, and add what they lack, by length of addresses.

        What is there stays: after a crash it may be all that keeps a flow alive.
        """
        for family in _FAMILIES:
            if packed[family.length].sources:
                self._add(family, packed[family.length])

    def present(self) -> bool:
        """Whether the table is there in either family."""
        return any(self._exists(family) for family in _FAMILIES)

    def remove(self) -> None:
        """Delete the tables; the entries that they made live on."""
        for family in _FAMILIES:
            if self._exists(family):
                self._kernel.commit(Transaction.of(family.table.delete()))

    def _add(self, family: _Family, packed: Packed) -> None:
        if not self._exists(family):
            self._make(family, max(_LEAST_ROOM, _ROOM * packed.number))
            try:
                for of, elements in zip(MAPS[family.length], packed, strict=True):
                    self._kernel.commit_all(one_by_one(add_packed(of, elements)))
            except NfnetlinkError as error:
                if error.errno != errno.EEXIST:  # a dump has two entries of which one took the other's place meanwhile
                    raise
            else:
                return
        for of, elements in zip(MAPS[family.length], packed, strict=True):
            old = {key for key, _ in self._kernel.elements(of)}
            new = dict(element for some in elements for element in unpack_elements(of, some) if element[0] not in old)
            self._kernel.commit_all(one_by_one(add_elements(of, new.items())))

    def _make(self, family: _Family, size: int) -> None:
        chains = [
            (Chain(family.table, name, Hook("nat", hook, priority)), nat, map_name)
            for name, hook, priority, nat, map_name in _CHAINS
        ]
        filters = [Chain(family.table, name, Hook("filter", hook, _BEFORE_DNAT)) for name, hook in _INVALID_SCTP]
        self._kernel.commit(
            Transaction.of(
                family.table.add(),
                family.map("destinations", size).add(),
                family.map("sources", size).add(),
                *(chain.add() for chain, _, _ in chains),
                *(family.rule(chain, nat, map_name).add() for chain, nat, map_name in chains),
                *(chain.add() for chain in filters),
                *(Rule(chain, _DROP_INVALID_SCTP).add() for chain in filters),
            )
        )

    def _exists(self, family: _Family) -> bool:
        return any(dumped.table.name == NAME for dumped in self._kernel.tables(family.proto))
