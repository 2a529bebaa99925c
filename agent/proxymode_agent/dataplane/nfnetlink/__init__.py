"""nf_tables over a raw netlink socket: declarations, transactions, bulk elements, dumps.

It exists because the general encoders cost 42 microseconds an element, send a batch per command, and do not write what
nft(8) needs to print maps with a random number in the key; this one packs an element in well under one. It does not
parse nft syntax and does not know Services.

    table = Table(NfProto.IPV4, "mine", comment="who made it")
    ports = Set(table, "ports", key=(IP_DADDR, L4PROTO, TH_DPORT), data=Verdict)
    refused = Chain(table, "refused")
    incoming = Chain(table, "incoming", Hook("filter", HookNumber.INPUT, 0))
    with Connection() as kernel:
        kernel.commit(Transaction.of(
            table.add(), ports.add(), refused.add(), incoming.add(),
            Rule(refused, (reject(NfProto.IPV4),)).add(),
            Rule(incoming, (*ct_state(CtState.NEW), *load(ports.key), lookup_verdict(ports.name, 0))).add(),
            *add_elements(ports, [(key, verdict_element(VerdictCode.GOTO, "refused"))]),
        ))
        dict(kernel.elements(ports))                      # {key: data} as sent
        [rule.is_(mine) for rule in kernel.rules(table)]  # kernel against declaration
        kernel.check(transaction)                         # what would be refused; nothing is changed

- a key or value is bytes: each field padded to four bytes, one after another (a single field: not padded);
- "delete if there": `Transaction.of(table.add(), table.delete())` works on every kernel;
- bulk: `kernel.commit_all(one_by_one(add_elements(set, pairs)))`, one message of at most 64 KB a transaction;
- replacing an element's data: `delete_elements` and `add_elements` in one transaction (a plain add is EEXIST);
- errors are :class:`NfnetlinkError`, a DataplaneError, which names the command and, for elements, the key.
"""

from proxymode_agent.dataplane.nfnetlink.connection import Connection, KernelError, NfnetlinkError
from proxymode_agent.dataplane.nfnetlink.dumps import DumpedRule, DumpedSet, DumpedTable
from proxymode_agent.dataplane.nfnetlink.elements import (
    Element,
    add_elements,
    add_packed,
    add_rows,
    delete_elements,
    pack_elements,
    unpack_elements,
)
from proxymode_agent.dataplane.nfnetlink.elements import verdict as verdict_element
from proxymode_agent.dataplane.nfnetlink.expressions import (
    Expression,
    address_is_local,
    bitwise,
    came_in_by,
    cmp,
    ct,
    ct_state,
    ct_status,
    delete_element,
    dnat,
    fib_address_type,
    flip_mark_bit,
    host_u32,
    immediate,
    lookup,
    lookup_map,
    lookup_verdict,
    mark_has,
    masquerade,
    meta,
    nat,
    numgen_random,
    payload,
    reject,
    set_mark_bit,
    set_meta,
    update_element,
    verdict,
)
from proxymode_agent.dataplane.nfnetlink.fields import (
    IP6_DADDR,
    IP6_SADDR,
    IP_DADDR,
    IP_SADDR,
    L4PROTO,
    META_PRIORITY,
    TH_DPORT,
    AddressField,
    Field,
    load,
    random_index,
)
from proxymode_agent.dataplane.nfnetlink.objects import Chain, Hook, Rule, Set, Table, Verdict
from proxymode_agent.dataplane.nfnetlink.transaction import Command, Located, Transaction, one_by_one
from proxymode_agent.dataplane.nfnetlink.uapi import (
    CmpOp,
    CtKey,
    CtState,
    CtStatus,
    FibFlag,
    HookNumber,
    MetaKey,
    NfProto,
    PayloadBase,
    VerdictCode,
)

__all__ = [
    "IP6_DADDR",
    "IP6_SADDR",
    "IP_DADDR",
    "IP_SADDR",
    "L4PROTO",
    "META_PRIORITY",
    "TH_DPORT",
    "AddressField",
    "Chain",
    "CmpOp",
    "Command",
    "Connection",
    "CtKey",
    "CtState",
    "CtStatus",
    "DumpedRule",
    "DumpedSet",
    "DumpedTable",
    "Element",
    "Expression",
    "FibFlag",
    "Field",
    "Hook",
    "HookNumber",
    "KernelError",
    "Located",
    "MetaKey",
    "NfProto",
    "NfnetlinkError",
    "PayloadBase",
    "Rule",
    "Set",
    "Table",
    "Transaction",
    "Verdict",
    "VerdictCode",
    "add_elements",
    "add_packed",
    "add_rows",
    "address_is_local",
    "bitwise",
    "came_in_by",
    "cmp",
    "ct",
    "ct_state",
    "ct_status",
    "delete_element",
    "delete_elements",
    "dnat",
    "fib_address_type",
    "flip_mark_bit",
    "host_u32",
    "immediate",
    "load",
    "lookup",
    "lookup_map",
    "lookup_verdict",
    "mark_has",
    "masquerade",
    "meta",
    "nat",
    "numgen_random",
    "one_by_one",
    "pack_elements",
    "payload",
    "random_index",
    "reject",
    "set_mark_bit",
    "set_meta",
    "unpack_elements",
    "update_element",
    "verdict",
    "verdict_element",
]
