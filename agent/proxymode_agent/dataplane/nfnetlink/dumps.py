"""What the kernel dumps, as values that compare with declarations: pure, bytes in, values out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.dataplane.nfnetlink import userdata
from proxymode_agent.dataplane.nfnetlink.attributes import (
    Attributes,
    encode,
    fields,
    matches,
    parse,
    text,
    to_text,
    to_u32,
)
from proxymode_agent.dataplane.nfnetlink.objects import Chain, Hook, Rule, Set, Table
from proxymode_agent.dataplane.nfnetlink.transaction import Command
from proxymode_agent.dataplane.nfnetlink.uapi import (
    ChainAttr,
    DataAttr,
    ExprAttr,
    HookAttr,
    HookNumber,
    ImmediateAttr,
    Message,
    MessageFlag,
    NfProto,
    Policy,
    RuleAttr,
    SetAttr,
    TableAttr,
    VerdictAttr,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class DumpedTable(msgspec.Struct, frozen=True):
    """A table as it is; `dormant`: somebody switched its chains off."""

    table: Table
    dormant: bool


class DumpedRule(msgspec.Struct, frozen=True):
    """A rule as it is: `expressions` is the content of NFTA_RULE_EXPRESSIONS. `handle`: its number in its table."""

    chain: str
    expressions: memoryview
    comment: str | None
    handle: bytes = bytes(8)

    def is_(self, rule: Rule) -> bool:
        """Whether it is what `rule` declares."""
        if self.chain != rule.chain.name or self.comment != rule.comment:
            return False
        dumped = [expression for _, expression in parse(self.expressions)]
        return len(dumped) == len(rule.expressions) and all(
            matches(expression.attribute, found) for expression, found in zip(rule.expressions, dumped, strict=True)
        )

    @property
    def leads_to(self) -> str | None:
        """The chain that it jumps or goes to, where it says so by itself and not by a map."""
        for _, expression in parse(self.expressions):
            parts = fields(expression)
            if to_text(parts[ExprAttr.NAME]) == "immediate":
                verdict = fields(fields(fields(parts[ExprAttr.DATA])[ImmediateAttr.DATA]).get(DataAttr.VERDICT, b""))
                if VerdictAttr.CHAIN in verdict:
                    return to_text(verdict[VerdictAttr.CHAIN])
        return None

    def delete(self, table: Table) -> Command:
        """Delete it from this table, whatever it is made of; ENOENT if it is gone."""
        body = encode(
            (
                (RuleAttr.TABLE, text(table.name)),
                (RuleAttr.CHAIN, text(self.chain)),
                (RuleAttr.HANDLE, self.handle),
            )
        )
        return Command(Message.DELRULE, MessageFlag(0), table.family, body, "delete a rule of", f"{table} {self.chain}")


class DumpedSet(msgspec.Struct, frozen=True):
    """A set or map as it is, without its elements."""

    name: str
    attributes: Mapping[int, memoryview]

    def is_(self, declared: Set) -> bool:
        """Whether it has the name, flags, types, lengths and userdata that are declared."""
        return self.name == declared.name and all(
            _same(value, self.attributes.get(kind)) for kind, value in declared.declaration
        )


def _same(declared: bytes | Attributes, found: memoryview | None) -> bool:
    """Whether one attribute is as declared; the kernel leaves zeros out."""
    if not isinstance(declared, tuple):
        return declared == (bytes(len(declared)) if found is None else found)
    dumped = list(parse(found or b""))
    return [kind for kind, _ in declared] == [kind for kind, _ in dumped] and all(
        _same(value, other) for (_, value), (_, other) in zip(declared, dumped, strict=True)
    )


def parse_table(family: NfProto, body: memoryview) -> DumpedTable:
    """An NFT_MSG_NEWTABLE of a dump."""
    attributes = fields(body)
    comment = userdata.comment_of(attributes.get(TableAttr.USERDATA))
    table = Table(family, to_text(attributes[TableAttr.NAME]), comment)
    return DumpedTable(table, dormant=bool(to_u32(attributes[TableAttr.FLAGS]) & 1))  # NFT_TABLE_F_DORMANT


def parse_chain(table: Table, body: memoryview) -> Chain | None:
    """An NFT_MSG_NEWCHAIN of a dump; None if it is another table's."""
    attributes = fields(body)
    if to_text(attributes[ChainAttr.TABLE]) != table.name:
        return None
    hook: Hook | None = None
    if ChainAttr.HOOK in attributes:
        parts = fields(attributes[ChainAttr.HOOK])
        priority = to_u32(parts[HookAttr.PRIORITY])
        hook = Hook(
            to_text(attributes[ChainAttr.TYPE]),
            HookNumber(to_u32(parts[HookAttr.HOOKNUM])),
            priority - (1 << 32) if priority >> 31 else priority,
            Policy(to_u32(attributes[ChainAttr.POLICY])),
        )
    return Chain(table, to_text(attributes[ChainAttr.NAME]), hook)


def parse_rule(body: memoryview) -> DumpedRule:
    """An NFT_MSG_NEWRULE of a dump."""
    attributes = fields(body)
    return DumpedRule(
        to_text(attributes[RuleAttr.CHAIN]),
        attributes.get(RuleAttr.EXPRESSIONS, memoryview(b"")),
        userdata.comment_of(attributes.get(RuleAttr.USERDATA)),
        bytes(attributes[RuleAttr.HANDLE]),
    )


def parse_set(body: memoryview) -> DumpedSet:
    """An NFT_MSG_NEWSET of a dump."""
    attributes = fields(body)
    return DumpedSet(to_text(attributes[SetAttr.NAME]), attributes)
