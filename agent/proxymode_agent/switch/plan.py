"""Pure: what is in the kernel and what is wanted, to the steps between.

The orders are those of measured experiments. Towards nftables: its table takes new connections the moment it is there,
because netfilter's NAT comes before IPVS. Then established connections are carried over flow by flow (policy Handover),
or are given time to end (policy Drain), or what was just being opened is given the time to open (policy Cut). Then the
virtual servers go, the addresses, and the masquerading last. Towards ipvs: the whole mode is put up unseen behind the
nftables table, which goes last; what it translated lives on in conntrack, as the side table of the ipvs mode keeps
conntrack's translation working.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from proxymode_api.modes import ConnectionPolicy, Mode

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from proxymode_agent.takeover.found import Found


class Step(StrEnum):
    """Every step is idempotent: done again after it was done, or half done, it leaves the same state."""

    PROBE_BEFORE = "probe-before"
    TAKE_OVER = "take-over"
    REMOVE_KUBE_PROXY = "remove-kube-proxy-rules"
    PROGRAM = "program-target"
    VERIFY = "verify-target"
    PROBE_TARGET = "probe-target"
    SETTLE = "settle-new-connections"
    COUNT = "count-connections"
    DRAIN = "drain-connections"
    CATCH = "catch-packets"
    CARRY = "carry-connections"
    REMOVE_VIRTUAL_SERVERS = "remove-virtual-servers"
    RESTORE = "restore-connections"
    END_HANDOVER = "end-handover"
    RELEASE_ADDRESSES = "release-addresses"
    REMOVE_SIDE_TABLE = "remove-ipvs-table"
    REMOVE_TABLE = "remove-nftables-table"
    PROBE_AFTER = "probe-after"
    COMPARE = "compare-connections"


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


class TakeOver(NamedTuple):
    """The steps from kube-proxy's dataplane to the mode of ours that is nearest to it; with `final` its rules go."""

    nearest: Mode
    reversible: tuple[Step, ...]
    final: tuple[Step, ...]


def take_over(found: Found, present: AbstractSet[Mode], to: Mode) -> TakeOver | None:
    """What comes before everything else where a kube-proxy has left something; None where it has not.

    Its virtual servers become ours with all their connections, also where the way goes on to nftables. Its NAT rules
    keep their connections in conntrack, so any mode of ours can be put beside them: what matters is that some nat base
    chain exists throughout.
    """
    if not (found.rules or found.device):
        return None
    if found.device or Mode.IPVS in present:
        return TakeOver(Mode.IPVS, (Step.PROBE_BEFORE,), (Step.TAKE_OVER, Step.REMOVE_KUBE_PROXY))
    if present:
        return TakeOver(Mode.NFTABLES, (Step.PROBE_BEFORE,), (Step.TAKE_OVER, Step.REMOVE_KUBE_PROXY))
    return TakeOver(to, (Step.PROBE_BEFORE, Step.TAKE_OVER, Step.COUNT), (Step.REMOVE_KUBE_PROXY, Step.COMPARE))


def plan(
    present: AbstractSet[Mode],
    to: Mode,
    policy: ConnectionPolicy,
    *,
    handover_begun: bool = False,
    draining: bool = False,
    probed: bool = False,
) -> Plan:
    """The steps to `to`, where anything of the modes in `present` is in the kernel, be it whole or half.

    `handover_begun`: connections were being carried over when a former switch was interrupted. That is brought to its
    end first, also on the way back to ipvs: as long as IPVS remembers a connection that NAT carries, the end of that
    memory would take the connection's entry with it. `draining`: this switch waits for connections to end; the target
    was verified and is kept up to date meanwhile. `probed`: this switch was interrupted, and knows what
    answered before.
    """
    old = old_mode(present, to)
    if old is None:
        return Plan((Step.PROGRAM, Step.VERIFY), (Step.PROBE_AFTER,) if probed else ())
    begin = (Step.PROBE_BEFORE, Step.PROGRAM, Step.VERIFY)
    end = (Step.PROBE_AFTER, Step.COMPARE)
    if old is Mode.NFTABLES:
        there, away = (*begin, Step.COUNT), (Step.REMOVE_TABLE, *end)
        if handover_begun:
            return Plan((), (Step.REMOVE_VIRTUAL_SERVERS, Step.RESTORE, Step.END_HANDOVER, *there, *away))
        return Plan(there, away)
    # New connections meet the nftables mode as soon as it is there, so it can be tried while IPVS is whole.
    tried = (*begin, Step.PROBE_TARGET)
    gone = (Step.RELEASE_ADDRESSES, Step.REMOVE_SIDE_TABLE)
    if policy is ConnectionPolicy.HANDOVER or handover_begun:
        return Plan(
            (*tried, Step.CATCH),
            (Step.CARRY, Step.REMOVE_VIRTUAL_SERVERS, Step.RESTORE, Step.END_HANDOVER, *gone, *end),
        )
    final = (Step.REMOVE_VIRTUAL_SERVERS, *gone, *end)
    if policy is ConnectionPolicy.CUT:
        return Plan((*tried, Step.SETTLE, Step.COUNT), final)
    if draining:
        return Plan((Step.DRAIN,), final)
    return Plan((*tried, Step.COUNT, Step.DRAIN), final)
