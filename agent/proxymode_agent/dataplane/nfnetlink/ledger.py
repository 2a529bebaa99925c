"""What a connection has committed, so that what others commit can be told from it. Pure.

The kernel numbers the commits of a network namespace (NFT_MSG_GETGEN: nft_net->base_seq, one up with each). Numbers
that our own commits do not account for are somebody else's. It does not say what they changed: see
proxymode_agent.dataplane.shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxymode_agent.dataplane.nfnetlink.attributes import fields, to_text
from proxymode_agent.dataplane.nfnetlink.uapi import ElemListAttr, Message, NfProto

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.dataplane.nfnetlink.transaction import Transaction

_GENERATIONS = 1 << 32
_ELEMENTS = {Message.NEWSETELEM: 1, Message.DELSETELEM: -1}


class SetName(NamedTuple):
    """Identity of a set or map in a network namespace."""

    family: NfProto
    table: str
    name: str


class Activity(msgspec.Struct, frozen=True):
    """What happened between two looks. `others`: transactions of others; `rebuilt`: we committed something beside
    elements; `grown`: by how many elements our commits made sets larger, negative: smaller."""

    others: int
    rebuilt: bool
    grown: Mapping[SetName, int]


class Ledger:
    """The commits of one connection since `balance` was last asked for."""

    def __init__(self) -> None:
        self._generation: int | None = None
        self._transactions = 0
        self._rebuilt = False
        self._grown: dict[SetName, int] = {}

    def note(self, transaction: Transaction) -> None:
        """A transaction was committed. One that only adds tables is none to the kernel when they exist, and not
        counted: where they did not, it passes for somebody else's."""
        elements_only = True
        effective = False
        for command in transaction.commands:
            sign = _ELEMENTS.get(command.message)
            effective |= command.message is not Message.NEWTABLE
            if sign is None:
                elements_only = False
                continue
            found = fields(command.body)
            of = SetName(command.family, to_text(found[ElemListAttr.TABLE]), to_text(found[ElemListAttr.SET]))
            self._grown[of] = self._grown.get(of, 0) + sign * command.objects
        self._transactions += effective
        self._rebuilt |= not elements_only

    def balance(self, generation: int) -> Activity:
        """What happened since the last call, now that the kernel is at `generation`; of others nothing at the first."""
        passed = 0 if self._generation is None else (generation - self._generation) % _GENERATIONS
        others = 0 if self._generation is None else max(0, passed - self._transactions)
        activity = Activity(others, self._rebuilt, self._grown)
        self._generation = generation
        self._transactions = 0
        self._rebuilt = False
        self._grown = {}
        return activity
