"""Tables, chains, rules and sets, as values that know how to be added and deleted.

A value here is a declaration: equal values are the same kernel object. `add()` and `delete()` make a
:class:`~.transaction.Command`; nothing is sent before a transaction of commands is committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from proxymode_agent.dataplane.nfnetlink import userdata
from proxymode_agent.dataplane.nfnetlink.attributes import Attributes, encode, text, u32
from proxymode_agent.dataplane.nfnetlink.fields import Field, concatenated_byte_order, concatenated_type
from proxymode_agent.dataplane.nfnetlink.transaction import Command
from proxymode_agent.dataplane.nfnetlink.uapi import (
    NFT_DATA_VERDICT,
    NFT_VERDICT_SIZE,
    ChainAttr,
    HookAttr,
    HookNumber,
    ListAttr,
    Message,
    MessageFlag,
    NfProto,
    Policy,
    RuleAttr,
    SetAttr,
    SetDescAttr,
    SetFieldAttr,
    SetFlag,
    TableAttr,
)

if TYPE_CHECKING:
    from proxymode_agent.dataplane.nfnetlink.expressions import Expression


class Table(msgspec.Struct, frozen=True):
    """A table. Adding one that exists is no error, and wakes it up if it was made dormant."""

    family: NfProto
    name: str
    comment: str | None = None

    def __str__(self) -> str:
        return f"table {self.family} {self.name}"

    def add(self) -> Command:
        attributes: Attributes = ((TableAttr.NAME, text(self.name)), (TableAttr.FLAGS, u32(0)))
        if self.comment is not None:
            attributes += ((TableAttr.USERDATA, userdata.comment(self.comment)),)
        return Command(Message.NEWTABLE, MessageFlag.CREATE, self.family, encode(attributes), "add", self)

    def delete(self) -> Command:
        """Delete the table and all that is in it; ENOENT if there is none."""
        body = encode(((TableAttr.NAME, text(self.name)),))
        return Command(Message.DELTABLE, MessageFlag(0), self.family, body, "delete", self)


class Hook(msgspec.Struct, frozen=True):
    """What makes a base chain: `type` is nat, filter or route; priorities as in nft(8), lower goes first."""

    type: str
    number: HookNumber
    priority: int
    policy: Policy = Policy.ACCEPT


class Chain(msgspec.Struct, frozen=True):
    """A chain; a base chain if it has a hook. Adding one that exists is no error."""

    table: Table
    name: str
    hook: Hook | None = None

    def __str__(self) -> str:
        return f"chain {self.table.family} {self.table.name} {self.name}"

    @property
    def _reference(self) -> Attributes:
        return (ChainAttr.TABLE, text(self.table.name)), (ChainAttr.NAME, text(self.name))

    def add(self) -> Command:
        attributes = self._reference
        if self.hook is not None:
            hook: Attributes = (
                (HookAttr.HOOKNUM, u32(self.hook.number)),
                (HookAttr.PRIORITY, u32(self.hook.priority)),
            )
            attributes += (
                (ChainAttr.HOOK, hook),
                (ChainAttr.POLICY, u32(self.hook.policy)),
                (ChainAttr.TYPE, text(self.hook.type)),
            )
        return Command(Message.NEWCHAIN, MessageFlag.CREATE, self.table.family, encode(attributes), "add", self)

    def delete(self) -> Command:
        """Delete the chain and its rules; EBUSY while something refers to it."""
        body = encode(self._reference)
        return Command(Message.DELCHAIN, MessageFlag(0), self.table.family, body, "delete", self)

    def flush(self) -> Command:
        """Delete the chain's rules."""
        body = encode(((RuleAttr.TABLE, text(self.table.name)), (RuleAttr.CHAIN, text(self.name))))
        return Command(Message.DELRULE, MessageFlag(0), self.table.family, body, "flush", self)


class Rule(msgspec.Struct, frozen=True):
    """A rule at the end of a chain."""

    chain: Chain
    expressions: tuple[Expression, ...]
    comment: str | None = None

    def __str__(self) -> str:
        return f"rule in {self.chain}: " + " ".join(map(str, self.expressions))

    def add(self) -> Command:
        table = self.chain.table
        attributes: Attributes = (
            (RuleAttr.TABLE, text(table.name)),
            (RuleAttr.CHAIN, text(self.chain.name)),
            (RuleAttr.EXPRESSIONS, tuple((ListAttr.ELEM, expression.attribute) for expression in self.expressions)),
        )
        if self.comment is not None:
            attributes += ((RuleAttr.USERDATA, userdata.comment(self.comment)),)
        flags = MessageFlag.CREATE | MessageFlag.APPEND
        return Command(Message.NEWRULE, flags, table.family, encode(attributes), "add", self)


class Verdict:
    """The kind of data of a verdict map."""


class Set(msgspec.Struct, frozen=True):
    """A set, or with `data` a map. A set that exists with another type makes the transaction fail with EEXIST.

    `intervals`: an element is a range in each field; its key is the first and the last key, one after another.
    `dynamic`: rules add elements, at most so many, which time out. `size`: at most so many elements (ENFILE); kernels
    load 100,000 of them in two thirds of the time then, for their table need not grow.
    """

    table: Table
    name: str
    key: tuple[Field, ...]
    data: tuple[Field, ...] | type[Verdict] | None = None
    intervals: bool = False
    dynamic: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        kind = "set" if self.data is None else "map"
        return f"{kind} {self.table.family} {self.table.name} {self.name}"

    @property
    def key_length(self) -> int:
        """Bytes of a key."""
        return sum(field.padded for field in self.key) if len(self.key) > 1 else self.key[0].length

    @property
    def data_length(self) -> int:
        """Bytes of a value; 0 for a set, NFT_VERDICT_SIZE for a verdict map."""
        if self.data is None:
            return 0
        if isinstance(self.data, tuple):
            return sum(field.padded for field in self.data) if len(self.data) > 1 else self.data[0].length
        return NFT_VERDICT_SIZE

    @property
    def declaration(self) -> Attributes:
        """What identifies the set's type, as it is sent and as the kernel dumps it."""
        attributes: Attributes = (
            (SetAttr.FLAGS, u32(self._flags)),
            (SetAttr.KEY_TYPE, u32(concatenated_type(self.key))),
            (SetAttr.KEY_LEN, u32(self.key_length)),
        )
        if self.data is not None:
            kind = concatenated_type(self.data) if isinstance(self.data, tuple) else NFT_DATA_VERDICT
            attributes += ((SetAttr.DATA_TYPE, u32(kind)), (SetAttr.DATA_LEN, u32(self.data_length)))
        description: Attributes = ()
        size = self.size if self.dynamic is None else self.dynamic
        if size is not None:
            description += ((SetDescAttr.SIZE, u32(size)),)
        if self.intervals:
            lengths: Attributes = tuple((ListAttr.ELEM, ((SetFieldAttr.LEN, u32(field.length)),)) for field in self.key)
            description += ((SetDescAttr.CONCAT, lengths),)
        if description:
            attributes += ((SetAttr.DESC, description),)
        return (*attributes, (SetAttr.USERDATA, self._userdata))

    @property
    def _flags(self) -> SetFlag:
        flags = SetFlag(0)
        if self.data is not None:
            flags |= SetFlag.MAP
        if self.intervals:
            flags |= SetFlag.INTERVAL | SetFlag.CONCAT
        if self.dynamic is not None:
            flags |= SetFlag.TIMEOUT | SetFlag.EVAL
        return flags

    @property
    def _userdata(self) -> bytes:
        key = [field.typeof for field in self.key]
        byte_order = concatenated_byte_order(self.key)
        if self.data is None:
            return userdata.typeof_set(key, byte_order)
        if not isinstance(self.data, tuple):
            return userdata.typeof_map(key, [userdata.VERDICT], byte_order, 0)
        data = [field.typeof for field in self.data]
        return userdata.typeof_map(key, data, byte_order, concatenated_byte_order(self.data))

    def add(self) -> Command:
        attributes: Attributes = (
            (SetAttr.TABLE, text(self.table.name)),
            (SetAttr.NAME, text(self.name)),
            *self.declaration,
            (SetAttr.ID, u32(1)),  # names an anonymous set within a transaction; ours have names
        )
        return Command(Message.NEWSET, MessageFlag.CREATE, self.table.family, encode(attributes), "add", self)

    def delete(self) -> Command:
        """Delete the set and its elements; EBUSY while a rule refers to it."""
        body = encode(((SetAttr.TABLE, text(self.table.name)), (SetAttr.NAME, text(self.name))))
        return Command(Message.DELSET, MessageFlag(0), self.table.family, body, "delete", self)
