"""I/O: kube-proxy's chains among those of iptables-nft, and its own nf_tables tables, found and removed over netlink.

No iptables program is needed: a rule is deleted by its handle, whatever matches of iptables it has. First all jumps
into kube-proxy's chains go, in one transaction of both address families, so that a packet sees all of them or none;
what cannot be reached any more then goes in pieces. Tables and base chains of iptables stay: others use them too.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP_DADDR,
    L4PROTO,
    TH_DPORT,
    Chain,
    Connection,
    NfProto,
    Set,
    Table,
    Transaction,
    Verdict,
)
from proxymode_agent.dataplane.nfnetlink.uapi import Policy
from proxymode_agent.services.model import Frontend, Protocol
from proxymode_agent.takeover.names import FORWARD, IPTABLES_TABLES, SERVICES, TABLE, is_chain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nfnetlink import Command

_FAMILIES: Final = (NfProto.IPV4, NfProto.IPV6)
_LENGTHS: Final = {NfProto.IPV4: 4, NfProto.IPV6: 16}
_SERVICE_IPS: Final = "service-ips"
_AT_ONCE: Final = 500  # chains in a transaction: a listener to nf_tables events makes the kernel keep each of them


class Seen(NamedTuple):
    """kube-proxy's part of nf_tables: its own tables, and its chains in those of iptables."""

    tables: tuple[Table, ...]
    chains: tuple[Chain, ...]

    @property
    def serves(self) -> bool:
        """Whether these chains are those of a kube-proxy that handled Services."""
        return any(chain.name == SERVICES and chain.table.name == "nat" for chain in self.chains)


def look(kernel: Connection) -> Seen:
    """What is there of kube-proxy in the network namespace of the connection. Raises DataplaneError.

    KUBE-FORWARD does not count where the policy of FORWARD is drop: there it is what lets forwarded connections pass,
    also ours, and it stays with the jump to it.
    """
    tables: list[Table] = []
    chains: list[Chain] = []
    for family in _FAMILIES:
        for dumped in kernel.tables(family):
            if dumped.table.name == TABLE:
                tables.append(dumped.table)
            elif dumped.table.name in IPTABLES_TABLES:
                found = kernel.chains(dumped.table)
                dropping = _drops_forwarded(found)
                chains += (
                    chain
                    for chain in found
                    if is_chain(dumped.table.name, chain.name) and not (dropping and chain.name == FORWARD)
                )
    return Seen(tuple(tables), tuple(chains))


def with_rules(kernel: Connection) -> set[tuple[int, str]]:
    """Chains of iptables-nft's table nat that have rules, with the length of their family's addresses."""
    return {
        (_LENGTHS[table.family], rule.chain)
        for table in (Table(family, "nat") for family in _FAMILIES)
        if any(dumped.table.name == table.name for dumped in kernel.tables(table.family))
        for rule in kernel.rules(table)
    }


def service_ips(kernel: Connection) -> set[Frontend]:
    """What kube-proxy's own tables lead to Services: the keys of their map service-ips."""
    found: set[Frontend] = set()
    for family, address in ((NfProto.IPV4, IP_DADDR), (NfProto.IPV6, IP6_DADDR)):
        services = Set(Table(family, TABLE), _SERVICE_IPS, (address, L4PROTO, TH_DPORT), Verdict)
        if not any(dumped.table.name == TABLE for dumped in kernel.tables(family)):
            continue
        if not any(dumped.name == _SERVICE_IPS for dumped in kernel.sets(services.table)):
            continue
        length = _LENGTHS[family]
        for key, _ in kernel.elements(services):
            protocol, port = key[length], int.from_bytes(key[length + 4 : length + 6], "big")
            found.add(Frontend(key[:length], Protocol(protocol), port))
    return found


def remove(kernel: Connection, seen: Seen) -> None:
    """Remove what was seen. Raises DataplaneError.

    A chain that somebody else's chain leads to stays, as one more of theirs: there are CNI plugins that mark by
    KUBE-MARK-MASQ.
    """
    jumps: list[Command] = [table.delete() for table in seen.tables]
    going: list[Chain] = []
    for table, chains in _by_table(seen.chains).items():
        base = {chain.name for chain in kernel.chains(table) if chain.hook is not None}
        rules = [(rule, to) for rule in kernel.rules(table) if (to := rule.leads_to) in chains]
        jumps += (rule.delete(table) for rule, _ in rules if rule.chain in base)
        kept = _reached(
            {to for rule, to in rules if rule.chain not in base and rule.chain not in chains},
            [(rule.chain, to) for rule, to in rules],
        )
        going += (chain for name, chain in chains.items() if name not in kept)
    kernel.commit(Transaction(tuple(jumps)))
    for some in _batches(going):
        kernel.commit(Transaction.of(*(chain.flush() for chain in some)))
    for some in _batches(going):
        kernel.commit(Transaction.of(*(chain.delete() for chain in some)))


def _by_table(chains: tuple[Chain, ...]) -> dict[Table, dict[str, Chain]]:
    found: dict[Table, dict[str, Chain]] = {}
    for chain in chains:
        found.setdefault(chain.table, {})[chain.name] = chain
    return found


def _reached(roots: set[str], edges: list[tuple[str, str]]) -> set[str]:
    """The roots and all that they lead to."""
    found: set[str] = set()
    while roots:
        found |= roots
        roots = {to for source, to in edges if source in roots} - found
    return found


def _drops_forwarded(chains: list[Chain]) -> bool:
    return any(
        chain.name == "FORWARD" and chain.hook is not None and chain.hook.policy is Policy.DROP for chain in chains
    )


def _batches(chains: list[Chain]) -> Iterator[tuple[Chain, ...]]:
    rest = iter(chains)
    while some := tuple(itertools.islice(rest, _AT_ONCE)):
        yield some
