"""Pure: which conntrack entries are carried over, how their packets are caught meanwhile, and what got lost.

Between the moment an entry of IPVS is deleted and the moment its successor is created, and again when the end of an
IPVS connection makes the kernel delete the entry with its addresses and ports, a packet may come and make an entry of
its own. Each flow therefore has a translation for either side's packet, keyed by that packet's own addresses and
ports, which conntrack calls the original direction of the entry that it makes. Conntrack's tuples are unique, so the
keys are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.conntrack.entries import Entry, Key, Path, forwards
from proxymode_agent.switch.connections import upright

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.switch.connections import Frontends


class Catch(NamedTuple):
    """What netfilter's NAT does with a flow's packet that finds no entry: new destination and source, if any."""

    protocol: int
    packet: Path
    destination: tuple[bytes, int] | None
    source: tuple[bytes, int] | None


class Repair(NamedTuple):
    """Entries that are not there at all, and entries in the place of which something else is, with its identity."""

    missing: list[Entry]
    wrong: list[Entry]


def on_ipvs(entries: Iterable[Entry], services: Frontends) -> list[Entry]:
    """Entries of connections to Services that IPVS translates, all the right way round."""
    turned = (forwards(entry) if entry.backwards else entry for entry in entries)
    return [entry for entry in turned if entry.by_ipvs and services.include(entry)]


def on_nat(entries: Iterable[Entry], services: Frontends) -> list[Entry]:
    """Entries of open connections to Services that netfilter's NAT translates. UDP has no end that could be seen."""
    return [
        entry
        for entry in (upright(one, services) for one in entries)
        if entry.by_nftables and (entry.tcp is None or entry.established) and services.include(entry)
    ]


def catches(entry: Entry) -> tuple[Catch, Catch]:
    """The translations for a packet of the client and for one of the endpoint."""
    original, reply = entry.original, entry.reply
    client, frontend = original[:2], original[2:]
    endpoint, seen_as = reply[:2], reply[2:]
    masqueraded = seen_as != client
    return (
        Catch(entry.protocol, original, endpoint, seen_as if masqueraded else None),
        Catch(entry.protocol, reply, client if masqueraded else None, frontend),
    )


def repair(wanted: Mapping[Key, Entry], seen: Mapping[Key, Entry]) -> Repair:
    """What of `wanted` is missing in what was `found`, or is translated in some other way."""
    return Repair(
        missing=[entry for key, entry in wanted.items() if key not in seen],
        wrong=[
            entry._replace(id=seen[key].id)
            for key, entry in wanted.items()
            if key in seen and not (seen[key].by_nftables and seen[key].reply == entry.reply)
        ],
    )


def ended(seen: Mapping[Key, Entry]) -> set[Key]:
    """Which of what was `found` are being closed by their own ends: nothing to put back any more."""
    return {key for key, entry in seen.items() if entry.tcp is not None and not entry.established and entry.by_nftables}
