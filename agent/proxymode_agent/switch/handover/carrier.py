"""I/O: moves conntrack entries from IPVS to netfilter's NAT, and puts back what the end of IPVS takes away.

When IPVS forgets a connection the kernel deletes the conntrack entry with its addresses and ports, whoever made it
(ip_vs_conn_drop_conntrack, net/netfilter/ipvs/ip_vs_nfct.c): so the moved entries too, once the virtual servers are
gone. An active flow makes a right one anew, with its next packet, by the maps; an idle one is put back from here. The
list of flows is on disk before that, so that an agent that is killed in between can still put them back.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.entries import Tcp, entry_of, key_of
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.switch.connections import found, frontends
from proxymode_agent.switch.handover import flows
from proxymode_agent.switch.handover.maps import CatchTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.dataplane.conntrack.entries import Entry, Key
    from proxymode_agent.services.model import ServiceState
    from proxymode_agent.switch.connections import Frontends

_log = logging.getLogger(__name__)
_MOVE_ROUNDS: Final = 20
_RESTORE_SECONDS: Final = 30.0
_RESTORE_POLL_SECONDS: Final = 0.005
_PUT_BACK_TIMES: Final = 4
_QUIET_LOOKS: Final = 2
_SPARE_ENTRIES: Final = 64  # as many as one batch deletes and creates
_PROTOCOLS: Final = {"TCP": 6, "UDP": 17}


class Carrier:
    """The hand-over's steps, each idempotent, in the network namespace that this object was made in.

    Raises DataplaneError and OSError.
    """

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "flows.json"
        self._catch = CatchTable()
        self.ended: set[Key] = set()
        """Connections that their own ends closed while they were being carried over."""

    def close(self) -> None:
        self._catch.close()

    def under_way(self) -> bool:
        """Whether a hand-over was begun and not ended."""
        return self._file.exists() or self._catch.present()

    def catch(self, entries: Iterable[Entry], services: Frontends) -> None:
        """Load the maps for all connections to Services among `entries`. Those on netfilter's NAT already are among
        them: one may have the addresses and ports of a connection that IPVS still remembers."""
        _check_room()
        entries = list(entries)
        held = flows.on_ipvs(entries, services) + flows.on_nat(entries, services)
        self._catch.add(caught for entry in held for caught in flows.catches(entry))

    def carry(self, state: ServiceState) -> None:
        """Move all entries, and write down which connections there are: before, because the kernel may refuse to create
        what was deleted, and after, because new ones have come."""
        services = frontends(state)
        known = self._read()  # a former attempt may have got further than this one: what it wrote down still counts
        with ConntrackTable() as table:
            entries = list(table.entries())
            left = flows.on_ipvs(entries, services)
            known |= {key_of(entry): entry for entry in left if entry.tcp is None or entry.established}
            self._write(known.values())
            for _ in range(_MOVE_ROUNDS):
                self.ended.update(key_of(entry) for entry in left if entry.tcp is not None and not entry.established)
                table.replace(left)
                _, entries = table.check(_tuples(known.values()), others=True)
                left = flows.on_ipvs(entries, services)
                if not left:
                    break
            else:
                raise DataplaneError(f"{len(left)} connections stay with IPVS after {_MOVE_ROUNDS} attempts")
        new = {key_of(entry): entry for entry in flows.on_nat(entries, services) if key_of(entry) not in known}
        if new:
            self._write([*known.values(), *new.values()])

    def restore(self, state: ServiceState) -> None:
        """Put back missing entries until IPVS has forgotten its connections and nothing is missing any more.

        From then on nobody but time and its own ends takes an entry away: one that was put back again and again and is
        still missing has ended, or another connection has its addresses and ports. With many short flows there is
        always such a one. Again and again, because the kernel's list of IPVS connections is empty before the last of
        their entries is gone; for the same reason it is over only when twice nothing was missing.
        """
        wanted = {key: entry for key, entry in self._read().items() if key not in self.ended}
        keys = {messages.original_of(entry): key for key, entry in wanted.items()}
        tuples = _tuples(wanted.values())
        put_back_for_good: Counter[Key] = Counter()
        quiet = 0
        remembered = _Remembered(frontends(state))
        deadline = time.monotonic() + _RESTORE_SECONDS
        put_back = 0
        with ConntrackTable() as table:
            while True:
                began = time.monotonic()
                forgotten = not remembered.any()  # before the dump: what it forgets later is seen next time
                good, others = table.check(tuples)
                unsure = {key: wanted[key] for original, key in keys.items() if original not in good}
                seen = found(unsure, others)
                gone = {key for key in unsure.keys() - seen.keys() if put_back_for_good[key] >= _PUT_BACK_TIMES}
                over = flows.ended(seen) | gone
                for key in over:
                    original = messages.original_of(wanted.pop(key))
                    del tuples[original], keys[original], unsure[key]
                self.ended |= over
                repair = flows.repair(unsure, seen)
                if forgotten:
                    put_back_for_good.update(map(key_of, repair.missing))
                table.create(repair.missing)
                table.replace(repair.wrong)
                put_back += len(repair.missing) + len(repair.wrong)
                quiet = quiet + 1 if forgotten and not repair.missing and not repair.wrong else 0
                if quiet == _QUIET_LOOKS:
                    break
                if time.monotonic() > deadline:
                    raise DataplaneError(
                        f"after {_RESTORE_SECONDS:g} s IPVS has "
                        f"{'no' if forgotten else 'still'} connections to Services, and {len(repair.missing)} "
                        f"conntrack entries are missing and {len(repair.wrong)} wrong"
                    )
                time.sleep(max(_RESTORE_POLL_SECONDS, time.monotonic() - began))
        _log.info("connections restored", extra={"connections": len(wanted), "put_back": put_back})

    def end(self) -> None:
        """Remove the maps and the list."""
        self._catch.remove()
        self._file.unlink(missing_ok=True)

    def _read(self) -> dict[Key, Entry]:
        try:
            rows = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            _log.warning("list of connections ignored", extra={"file": str(self._file), "reason": repr(error)})
            return {}
        return {key_of(entry): entry for entry in map(_from_row, rows)}

    def _write(self, entries: Iterable[Entry]) -> None:
        """On disk when this returns."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        with new.open("w") as file:
            file.write(json.dumps([_to_row(entry) for entry in entries]))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)


def _check_room() -> None:
    """Raises DataplaneError where the conntrack table is full: entries could not be put back."""
    folder = Path("/proc/sys/net/netfilter")  # of the calling thread's network namespace
    count, most = (int((folder / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    if most and count + _SPARE_ENTRIES > most:
        raise DataplaneError(
            f"the conntrack table has {count} of {most} entries and a hand-over needs {_SPARE_ENTRIES} to spare: "
            "raise net.netfilter.nf_conntrack_max"
        )


def _tuples(entries: Iterable[Entry]) -> dict[bytes, bytes]:
    return {messages.original_of(entry): messages.reply_of(entry) for entry in entries}


def _to_row(entry: Entry) -> list[Any]:
    tuples = messages.original_of(entry) + messages.reply_of(entry)
    return [tuples.hex(), entry.status, entry.timeout, entry.mark, entry.tcp]


def _from_row(row: list[Any]) -> Entry:
    tuples, status, timeout, mark, tcp = row
    return entry_of(bytes.fromhex(tuples), status, timeout, mark, Tcp(*tcp) if tcp is not None else None)


class _Remembered:
    """What IPVS remembers of connections to Services, in whichever state.

    /proc/net/ip_vs_conn is the kernel's only list of them (net/netfilter/ipvs/ip_vs_conn.c): protocol, client, frontend
    and real server, in hexadecimal.
    """

    def __init__(self, services: Frontends) -> None:
        self._services = services
        self._judged: dict[tuple[str, str, str], bool] = {}

    def any(self) -> bool:
        """Whether there is any connection."""
        try:
            lines = Path("/proc/thread-self/net/ip_vs_conn").read_text().splitlines()[1:]
        except FileNotFoundError:
            return False
        for line in lines:
            protocol, _, _, address, port = line.split(maxsplit=5)[:5]
            frontend = (protocol, address, port)
            if frontend not in self._judged:
                self._judged[frontend] = self._to_service(*frontend)
            if self._judged[frontend]:
                return True
        return False

    def _to_service(self, protocol: str, address: str, port: str) -> bool:
        number = _PROTOCOLS.get(protocol)
        if number is None:
            return False
        packed = bytes.fromhex(address.replace(":", "").strip("[]"))
        return self._services.addressed(number, packed, int(port, 16))
