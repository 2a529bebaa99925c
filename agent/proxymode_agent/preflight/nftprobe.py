"""Asks nf_tables what it can do and who else uses it.

What the kernel can do is learned by trying: a transaction with one rule per expression, which the kernel checks, loads
modules for, and rolls back. A version number or a list of modules would only be a guess. Blocking; one short netlink
connection in the calling thread's network namespace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.nfnetlink import (
    IP6_DADDR,
    IP_DADDR,
    META_PRIORITY,
    Chain,
    Connection,
    CtKey,
    Expression,
    FibFlag,
    MetaKey,
    NfProto,
    Rule,
    Set,
    Table,
    Transaction,
    VerdictCode,
    bitwise,
    cmp,
    ct,
    dnat,
    fib_address_type,
    host_u32,
    immediate,
    load,
    lookup,
    masquerade,
    meta,
    numgen_random,
    reject,
    update_element,
    verdict,
)
from proxymode_agent.preflight.model import NatChain, NftProbe

if TYPE_CHECKING:
    from collections.abc import Mapping

FAMILIES: Final = (NfProto.IPV4, NfProto.IPV6)
OWN_PREFIX: Final = "proxymode"
"""Tables whose name begins so are ours."""
KUBE_PROXY_TABLE: Final = "kube-proxy"
KUBE_PROXY_CHAIN: Final = "KUBE-SERVICES"
"""What kube-proxy has in nftables mode, and in iptables and ipvs mode by way of iptables-nft."""


@dataclass(frozen=True, slots=True)
class NftView:
    """What nf_tables can do, and what others have in it."""

    probe: NftProbe
    nat_chains: tuple[NatChain, ...] = ()
    kube_proxy_rules: tuple[str, ...] = ()


def view_nft() -> NftView:
    """What nf_tables can do and what others have in it; errors end up in `probe.error`."""
    try:
        with Connection() as kernel:
            probe = _probe(kernel)
            return NftView(NftProbe(error=probe.error)) if probe.error else _with_others(kernel, probe)
    except DataplaneError as error:
        return NftView(NftProbe(error=str(error)))


def _probe(kernel: Connection) -> NftProbe:
    missing: set[str] = set()
    for family in FAMILIES:
        table = Table(family, f"{OWN_PREFIX}-preflight-{os.getpid()}")
        chain = Chain(table, "probe")
        addresses = Set(table, "addresses", (IP_DADDR if family is NfProto.IPV4 else IP6_DADDR,))
        clients = Set(table, "clients", addresses.key, (META_PRIORITY,), dynamic=1)
        rules = {Rule(chain, parts).add(): name for name, parts in samples(family, addresses, clients).items()}
        errors = kernel.check(Transaction.of(table.add(), addresses.add(), clients.add(), chain.add(), *rules))
        fatal = [error for error in errors if error.command not in rules]
        if fatal and family is NfProto.IPV4:
            return NftProbe(error=str(fatal[0]))
        if not fatal:  # a kernel without IPv6 takes no ip6 table, and needs none
            missing |= {rules[error.command] for error in errors if error.command is not None}
    return NftProbe(missing=frozenset(missing))


def samples(family: NfProto, addresses: Set, clients: Set) -> Mapping[str, tuple[Expression, ...]]:
    """For each expression the shortest sequence of instructions that ends in it. `clients` is a dynamic map."""
    mark = meta(MetaKey.MARK, 0)
    destination = load(addresses.key)
    return {
        "meta": (mark,),
        "payload": destination,
        "immediate": (verdict(VerdictCode.RETURN),),
        "ct": (ct(CtKey.STATE, 0),),
        "dynset": (*destination, mark, update_element(clients.name, 0, 0, 1)),
        "cmp": (mark, cmp(0, host_u32(1))),
        "bitwise": (mark, bitwise(0, host_u32(1), host_u32(0))),
        "lookup": (*destination, lookup(addresses.name, 0)),
        "numgen": (numgen_random(2, 0),),
        "fib": (fib_address_type(FibFlag.DADDR, 0),),
        "nat": (*destination, immediate(4, bytes(2)), dnat(family, 0, 4)),
        "masq": (masquerade(),),
        "reject": (reject(family),),
    }


def _with_others(kernel: Connection, probe: NftProbe) -> NftView:
    nat_chains: list[NatChain] = []
    kube_proxy: list[str] = []
    for family in (*FAMILIES, NfProto.INET):
        for table in (dumped.table for dumped in kernel.tables(family)):
            if table.name.startswith(OWN_PREFIX):
                continue
            chains = kernel.chains(table)
            nat_chains += [
                NatChain(str(family), table.name, chain.name, chain.hook.number.name.lower(), chain.hook.priority)
                for chain in chains
                if chain.hook is not None and chain.hook.type == "nat"
            ]
            if table.name == KUBE_PROXY_TABLE or any(chain.name == KUBE_PROXY_CHAIN for chain in chains):
                kube_proxy.append(str(table))
    return NftView(probe, tuple(nat_chains), tuple(kube_proxy))
