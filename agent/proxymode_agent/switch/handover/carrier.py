"""I/O: moves conntrack entries from IPVS to netfilter's NAT, and puts back what the end of IPVS takes away.

When IPVS forgets a connection the kernel deletes the conntrack entry with its addresses and ports, whoever made it
(ip_vs_conn_drop_conntrack, net/netfilter/ipvs/ip_vs_nfct.c): so the moved entries too, once the virtual servers are
gone. An active flow makes a right one anew, with its next packet, by the maps; an idle one is put back from here. The
list of flows is on disk before that, so that an agent that is killed in between can still put them back.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.messages import original_of
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.switch.connections import concerning, frontends
from proxymode_agent.switch.handover import flows
from proxymode_agent.switch.handover.maps import CatchTable, pack
from proxymode_agent.switch.handover.notes import Notes
from proxymode_agent.switch.handover.remembered import Remembered
from proxymode_agent.switch.handover.taken import Taken

if TYPE_CHECKING:
    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_agent.services.model import ServiceState
    from proxymode_agent.switch.connections import Frontends, Held

logger = logging.getLogger(__name__)
_MOVE_ROUNDS: Final = 20
_RESTORE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.25
_PUT_BACK_TIMES: Final = 4
_SPARE_ENTRIES: Final = 64  # as many as one batch deletes and creates


class Carrier:
    """The hand-over's steps, each idempotent, in the network namespace that this object was made in.

    Raises DataplaneError and OSError.
    """

    def __init__(self, state_dir: Path) -> None:
        self._notes = Notes(state_dir / "flows")
        self._catch = CatchTable()
        # all by CTA_TUPLE_ORIG: moves of open flows, which of them IPVS translates, and other flows that were caught
        self._noted: dict[bytes, bytes] = {}
        self._moving: list[bytes] = []
        self._not_open: set[bytes] = set()
        self._frontends: tuple[ServiceState, Frontends] | None = None
        self.ended: set[bytes] = set()
        """CTA_TUPLE_ORIG of connections that their own ends closed while they were being carried over."""

    def close(self) -> None:
        self._catch.close()

    def under_way(self) -> bool:
        """Whether a hand-over was begun and not ended."""
        return self._notes.exist() or self._catch.present()

    def catch(self, state: ServiceState) -> Held:
        """Load the maps for all connections to Services. Those on netfilter's NAT already are among them: one may have
        the addresses and ports of a connection that IPVS still remembers. Returns the established ones of IPVS."""
        _check_room()
        self._forget()
        noted = self._notes.read()  # a former attempt may have got further: what it wrote down still counts
        taken = Taken(self._services(state), noted)
        with ConntrackTable() as table:
            taken.take(table.found())
        self._noted, self._moving, self._not_open = taken.moves, taken.moving, taken.not_open
        self._catch.add(taken.packed())
        return taken.held

    def carry(self, state: ServiceState) -> None:
        """Move all entries that were caught, then those that were being opened or closed, as they are now.

        Which flows there are is written down before: the kernel may refuse to create what was deleted.
        """
        self._notes.write(self._noted)
        services = self._services(state)
        with ConntrackTable() as table:
            table.replace(messages.requests_in(self._noted[original], original) for original in self._moving)
            for _ in range(_MOVE_ROUNDS):
                dump = concerning(table.found(untranslated=True), services)
                left = {original_of(flow): flow for flow in (flows.on_ipvs(one, services) for one in dump) if flow}
                if not left:
                    return
                self._take_in(left)
                moves = map(messages.move, left.values())
                table.replace(messages.requests_in(move, original) for original, move in moves)
        raise DataplaneError(f"{len(left)} connections stay with IPVS after {_MOVE_ROUNDS} attempts")

    def restore(self, state: ServiceState) -> None:
        """Put back missing entries until IPVS has forgotten its connections and nothing is missing any more.

        From then on nobody but time and its own ends takes an entry away: one that was put back again and again and is
        still missing has ended, or another connection has its addresses and ports. With many short flows there is
        always such a one.
        """
        self._noted = self._noted or self._notes.read()
        wanted = {
            original: messages.reply_in(move, original)
            for original, move in self._noted.items()
            if original not in self.ended
        }
        put_back_for_good: Counter[bytes] = Counter()
        put_back = 0
        ipvs = Remembered(self._services(state))
        deadline = time.monotonic() + _RESTORE_SECONDS
        forgotten = ipvs.forgotten(within=0)
        with ConntrackTable() as table:
            while True:
                repair = flows.repair(wanted, table.check(wanted))
                often = {original for original, times in put_back_for_good.items() if times >= _PUT_BACK_TIMES}
                gone = often.intersection(repair.missing)
                for original in repair.ended | gone:
                    del wanted[original]
                self.ended |= repair.ended | gone
                missing = [original for original in repair.missing if original not in gone]
                refused = table.create(messages.create_in(self._noted[one], one) for one in missing)
                table.replace(
                    messages.delete(one, ident) + messages.create_in(self._noted[one], one)
                    for one, ident in repair.wrong.items()
                )
                put_back += len(missing) + len(repair.wrong)
                if forgotten:
                    if not refused and not repair.wrong:
                        break
                    put_back_for_good.update(missing)
                if time.monotonic() > deadline:
                    raise DataplaneError(
                        f"after {_RESTORE_SECONDS:g} s IPVS has {'no' if forgotten else 'still'} connections to "
                        f"Services, and {len(missing)} conntrack entries are missing and {len(repair.wrong)} wrong"
                    )
                forgotten = ipvs.forgotten(within=_LOOK_SECONDS)
        logger.info("connections restored", extra={"connections": len(wanted), "put_back": put_back})

    def end(self) -> None:
        """Remove the maps and the list."""
        self._catch.remove()
        self._notes.remove()
        self._forget()

    def _services(self, state: ServiceState) -> Frontends:
        """Mostly the same state in all steps."""
        if self._frontends is None or self._frontends[0] is not state:
            self._frontends = state, frontends(state)
        return self._frontends[1]

    def _forget(self) -> None:
        self._noted, self._moving, self._not_open, self._frontends = {}, [], set(), None

    def _take_in(self, left: dict[bytes, Flow]) -> None:
        """Catch and write down what was not there yet; nothing is put back that its ends are about to close."""
        catches = flows.nothing_caught()
        for original in left.keys() - self._noted.keys() - self._not_open:
            flows.catch(left[original], catches)
        self._catch.add({length: pack(length, some) for length, some in catches.items()})
        not_open = {original for original, flow in left.items() if not flow.open}
        self._not_open |= not_open
        self.ended |= not_open
        new = left.keys() - self._noted.keys() - not_open
        if new:
            self._noted |= (messages.move(left[original]) for original in new)
            self._notes.write(self._noted)


def _check_room() -> None:
    """Raises DataplaneError where the conntrack table is full: entries could not be put back."""
    folder = Path("/proc/sys/net/netfilter")  # of the calling thread's network namespace
    count, most = (int((folder / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    if most and count + _SPARE_ENTRIES > most:
        raise DataplaneError(
            f"the conntrack table has {count} of {most} entries and a hand-over needs {_SPARE_ENTRIES} to spare: "
            "raise net.netfilter.nf_conntrack_max"
        )
