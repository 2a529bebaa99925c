"""Pure: what is in the kernel and what is wanted, to the steps between.

The orders are those of measured experiments. Towards nftables: its table takes new connections the moment it is there,
because netfilter's NAT comes before IPVS; the old mode waits until connections that IPVS had just begun to open are
open; then its virtual servers go, then the addresses, and the masquerading last. Towards ipvs: the whole mode is put
up unseen behind the nftables table, which goes last; what it translated lives on in conntrack, as the side table of
the ipvs mode keeps conntrack's translation working.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


class Step(StrEnum):
    """Every step is idempotent: done again after it was done, or half done, it leaves the same state."""

    PROGRAM = "program-target"
    VERIFY = "verify-target"
    SETTLE = "settle-new-connections"
    COUNT = "count-connections"
    REMOVE_VIRTUAL_SERVERS = "remove-virtual-servers"
    RELEASE_ADDRESSES = "release-addresses"
    REMOVE_SIDE_TABLE = "remove-ipvs-table"
    REMOVE_TABLE = "remove-nftables-table"
    COMPARE = "compare-connections"


_REMOVAL: Final = {
    Mode.IPVS: (Step.REMOVE_VIRTUAL_SERVERS, Step.RELEASE_ADDRESSES, Step.REMOVE_SIDE_TABLE),
    Mode.NFTABLES: (Step.REMOVE_TABLE,),
}


class Plan(NamedTuple):
    """Steps in two parts: while one of `reversible` runs, the old mode is whole; with `final` it goes."""

    reversible: tuple[Step, ...]
    final: tuple[Step, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.reversible + self.final


def old_mode(present: AbstractSet[Mode], to: Mode) -> Mode | None:
    """The mode of ours that has to go."""
    return next((mode for mode in Mode if mode in present and mode is not to), None)


def plan(present: AbstractSet[Mode], to: Mode) -> Plan:
    """The steps to `to`, where anything of the modes in `present` is in the kernel, be it whole or half."""
    old = old_mode(present, to)
    if old is None:
        return Plan((Step.PROGRAM, Step.VERIFY), ())
    settle = (Step.SETTLE,) if old is Mode.IPVS else ()
    return Plan((Step.PROGRAM, Step.VERIFY, *settle, Step.COUNT), (*_REMOVAL[old], Step.COMPARE))
