"""I/O: the temporary nf_tables table that catches packets of flows which have no conntrack entry at the moment.

Two maps, both keyed by what conntrack calls the original direction: protocol and both ends of the packet that makes an
entry. `destinations` is asked just before the nftables mode's own chains, `sources` just before they masquerade.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP_DADDR,
    L4PROTO,
    TH_DPORT,
    Chain,
    Connection,
    CtKey,
    Expression,
    Field,
    Hook,
    HookNumber,
    NfProto,
    Rule,
    Set,
    Table,
    Transaction,
    add_elements,
    ct,
    load,
    lookup_map,
    one_by_one,
    userdata,
)
from proxymode_agent.dataplane.nfnetlink.attributes import u32
from proxymode_agent.dataplane.nfnetlink.expressions import register
from proxymode_agent.dataplane.nfnetlink.uapi import NatAttr, NatFlag, NatType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.switch.handover.flows import Catch

NAME: Final = "proxymode-handover"
_BEFORE_DNAT: Final = -110
_BEFORE_SNAT: Final = 90
_ORIGINAL: Final = 0  # IP_CT_DIR_ORIGINAL


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

    def map(self, name: str) -> Set:
        return Set(self.table, name, self.key, (self.address, TH_DPORT))

    def rule(self, chain: Chain, nat: NatType, name: str) -> Rule:
        words = self.length // 4
        return Rule(chain, (*load(self.key), lookup_map(name, 0, 0), _nat(nat, self.proto, 0, words)))

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


class CatchTable:
    """The table in both address families of the current network namespace. Raises DataplaneError."""

    def __init__(self) -> None:
        self._kernel = Connection()

    def close(self) -> None:
        self._kernel.close()

    def add(self, catches: Iterable[Catch]) -> int:
        """Make the tables if they are not there, and add what they lack; how many elements were added.

        What is there stays: after a crash it may be all that keeps a flow alive.
        """
        by_length: dict[int, list[Catch]] = {family.length: [] for family in _FAMILIES}
        for catch in catches:
            by_length[len(catch.packet.source)].append(catch)
        return sum(self._add(family, by_length[family.length]) for family in _FAMILIES)

    def present(self) -> bool:
        """Whether the table is there in either family."""
        return any(self._exists(family) for family in _FAMILIES)

    def remove(self) -> None:
        """Delete the tables; the entries that they made live on."""
        for family in _FAMILIES:
            if self._exists(family):
                self._kernel.commit(Transaction.of(family.table.delete()))

    def _add(self, family: _Family, catches: list[Catch]) -> int:
        destinations, sources = family.map("destinations"), family.map("sources")
        if not self._exists(family):
            if not catches:
                return 0
            chains = [
                (Chain(family.table, name, Hook("nat", hook, priority)), nat, map_name)
                for name, hook, priority, nat, map_name in _CHAINS
            ]
            self._kernel.commit(
                Transaction.of(
                    family.table.add(),
                    destinations.add(),
                    sources.add(),
                    *(chain.add() for chain, _, _ in chains),
                    *(family.rule(chain, nat, map_name).add() for chain, nat, map_name in chains),
                )
            )
        added = 0
        for of, elements in (
            (sources, {_key(catch): _value(*catch.source) for catch in catches if catch.source}),
            (destinations, {_key(catch): _value(*catch.destination) for catch in catches if catch.destination}),
        ):
            there = {key for key, _ in self._kernel.elements(of)}
            new = [(key, value) for key, value in elements.items() if key not in there]
            added += self._kernel.commit_all(one_by_one(add_elements(of, new)))
        return added

    def _exists(self, family: _Family) -> bool:
        return any(dumped.table.name == NAME for dumped in self._kernel.tables(family.proto))


def _key(catch: Catch) -> bytes:
    path = catch.packet
    return b"".join(
        (
            bytes((catch.protocol, 0, 0, 0)),
            _value(path.source, path.source_port),
            _value(path.destination, path.destination_port),
        )
    )


def _value(address: bytes, port: int) -> bytes:
    return address + port.to_bytes(2, "big") + b"\0\0"


def _nat(kind: NatType, family: NfProto, address: int, port: int) -> Expression:
    return Expression(
        "nat",
        (
            (NatAttr.TYPE, u32(kind)),
            (NatAttr.FAMILY, u32(family)),
            (NatAttr.REG_ADDR_MIN, register(address)),
            (NatAttr.REG_ADDR_MAX, register(address)),
            (NatAttr.REG_PROTO_MIN, register(port)),
            (NatAttr.REG_PROTO_MAX, register(port)),
            (NatAttr.FLAGS, u32(NatFlag.MAP_IPS | NatFlag.PROTO_SPECIFIED)),
        ),
    )
