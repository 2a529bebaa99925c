"""A fake of nf_tables' tables, chains and maps that is as strict as the kernel: it decodes the very bytes.

A transaction applies whole or not at all. What the kernel refuses is refused: an element that exists with other data
(EEXIST) or does not exist (ENOENT), a verdict to a chain that is not there, a chain that a verdict refers to (EBUSY).
Rules are counted, not interpreted.
"""

from __future__ import annotations

import copy
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from proxymode_agent.dataplane.nfnetlink import KernelError, NfnetlinkError, Verdict
from proxymode_agent.dataplane.nfnetlink.attributes import fields, to_text
from proxymode_agent.dataplane.nfnetlink.elements import parse_elements
from proxymode_agent.dataplane.nfnetlink.uapi import (
    ChainAttr,
    DataAttr,
    ElemListAttr,
    Message,
    RuleAttr,
    VerdictAttr,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_agent.dataplane.nfnetlink import Command, Element, Set, Transaction


@dataclass
class State:
    """One generation of the ruleset."""

    maps: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    chains: dict[str, int] = field(default_factory=dict)  # name: number of rules


class FakeKernel:
    """`sets` and `chains` exist from the beginning; `state` is the current generation, never changed once there."""

    def __init__(self, sets: tuple[Set, ...], chains: tuple[str, ...]) -> None:
        self._sets = {of.name: of for of in sets}
        self.state = State({of.name: {} for of in sets}, dict.fromkeys(chains, 0))

    def commit(self, transaction: Transaction) -> None:
        """Apply all of it or raise NfnetlinkError."""
        state = copy.deepcopy(self.state)
        for command in transaction.commands:
            number = self._apply(state, command)
            if number:
                raise NfnetlinkError((KernelError(command, number),))
        self.state = state

    def elements(self, of: Set) -> Iterator[Element]:
        return iter(self.state.maps[of.name].items())

    def _apply(self, state: State, command: Command) -> int:
        attributes = fields(command.body)
        if command.message in (Message.NEWSETELEM, Message.DELSETELEM):
            of = self._sets[to_text(attributes[ElemListAttr.SET])]
            return self._change_elements(state, of, command)
        if command.message is Message.NEWCHAIN:
            state.chains.setdefault(to_text(attributes[ChainAttr.NAME]), 0)
            return 0
        if command.message is Message.NEWRULE:
            chain = to_text(attributes[RuleAttr.CHAIN])
            if chain not in state.chains:
                return errno.ENOENT
            state.chains[chain] += 1
            return 0
        raise AssertionError(f"the planner has no business to {command}")

    def _change_elements(self, state: State, of: Set, command: Command) -> int:
        held = state.maps[of.name]
        if command.message is Message.DELSETELEM:
            plain = structs.replace(of, data=None)  # a delete names keys only
            for key, _ in parse_elements(plain, memoryview(command.body)):
                if held.pop(key, None) is None:
                    return errno.ENOENT
            return 0
        for key, data in parse_elements(of, memoryview(command.body)):
            if of.data is Verdict and target(data) not in (None, *state.chains):
                return errno.ENOENT
            if held.setdefault(key, data) != data:
                return errno.EEXIST
        return 0


def target(verdict: bytes) -> str | None:
    """The chain in a verdict element's data; None if it leads to none."""
    chain = fields(fields(verdict)[DataAttr.VERDICT]).get(VerdictAttr.CHAIN)
    return None if chain is None else to_text(chain)
