"""I/O: what each step of a switch does to the kernel. Nothing here knows of order, journal or undo."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.ipvs import IpvsDataplane
from proxymode_agent.dataplane.nftables import NftablesDataplane
from proxymode_agent.switch import connections, observe
from proxymode_agent.switch.handover.carrier import Carrier
from proxymode_agent.switch.plan import Step, old_mode
from proxymode_api.modes import Mode, ObservedMode

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.dataplane.base import Dataplane
    from proxymode_agent.dataplane.conntrack.entries import Key
    from proxymode_agent.services.model import DataplaneConfig, ServiceState
    from proxymode_agent.switch.connections import Held
    from proxymode_agent.switch.record import Connections

_VERIFY_TRIES: Final = 3  # a real server that was draining may end its last connection between two reads
_SETTLE_SECONDS: Final = 5.0
_SETTLE_QUIET_SECONDS: Final = 0.5
_SETTLE_POLL_SECONDS: Final = 0.1


class Kernel:
    """Both modes of one configuration in the network namespace that this object was made in."""

    def __init__(self, config: DataplaneConfig, state_dir: Path) -> None:
        self._ipvs = IpvsDataplane(config)
        self._nftables = NftablesDataplane(config)
        self._carrier = Carrier(state_dir)
        self._held: Held = {}
        self.connections: Connections | None = None
        """What the last COMPARE found."""

    def close(self) -> None:
        self._ipvs.close()
        self._nftables.close()
        self._carrier.close()

    def dataplane(self, mode: Mode) -> Dataplane:
        return self._ipvs if mode is Mode.IPVS else self._nftables

    def present(self) -> frozenset[Mode]:
        """The modes of which anything of ours is in the kernel, be it half-made."""
        return frozenset(mode for mode in Mode if self.dataplane(mode).present())

    def observe(self) -> ObservedMode:
        """Whose Service dataplane is there. While both modes of ours are: nftables, new connections meet it first."""
        present = self.present()
        if present:
            return ObservedMode(Mode.NFTABLES if Mode.NFTABLES in present else Mode.IPVS)
        return observe.kube_proxy()

    def handover_begun(self) -> bool:
        """Whether connections were being carried over when a switch was interrupted."""
        return self._carrier.under_way()

    def undo(self, old: Mode | None, to: Mode, state: ServiceState) -> None:
        """Make sure that the old mode is whole, and remove the target. Raises DataplaneError and OSError."""
        if old is not None:
            self.dataplane(old).sync(state, None)
        self._carrier.end()
        self.dataplane(to).remove()

    def run(self, step: Step, to: Mode, state: ServiceState) -> None:
        """Do one step. Raises DataplaneError and OSError."""
        match step:
            case Step.PROGRAM:
                result = self.dataplane(to).sync(state, None)
                if result.refused:
                    name, reason = result.refused[0]
                    raise DataplaneError(f"{len(result.refused)} Service ports refused; {name}: {reason}")
            case Step.VERIFY:
                self._verify(to, state)
            case Step.SETTLE:
                self._settle(state)
            case Step.COUNT:
                self._count(to, state)
            case Step.CATCH:
                self._carrier.catch(state)
            case Step.CARRY:
                self._carrier.carry(state)
            case Step.REMOVE_VIRTUAL_SERVERS:
                self._ipvs.remove_virtual_servers()
            case Step.RESTORE:
                self._carrier.restore(state)
            case Step.END_HANDOVER:
                self._carrier.end()
            case Step.RELEASE_ADDRESSES:
                self._ipvs.release_addresses()
            case Step.REMOVE_SIDE_TABLE:
                self._ipvs.remove_table()
            case Step.REMOVE_TABLE:
                self._nftables.remove()
            case Step.COMPARE:
                held = {key: path for key, path in self._held.items() if key not in self._carrier.ended}
                with ConntrackTable() as table:
                    self.connections = connections.compare(held, table.entries())

    def _verify(self, to: Mode, state: ServiceState) -> None:
        for _ in range(_VERIFY_TRIES):
            written = self.dataplane(to).sync(state, None).written
            if not written:
                return
        raise DataplaneError(f"{written} kernel objects were not as they had been written; who else writes them?")

    def _settle(self, state: ServiceState) -> None:
        """Let connections that were being opened through IPVS get over it: until none of them has come or gone for a
        while. Those that live long stay, so the wait has an end."""
        services = connections.frontends(state)
        deadline = time.monotonic() + _SETTLE_SECONDS
        before: set[Key] | None = None
        quiet_since = time.monotonic()
        with ConntrackTable() as table:
            while time.monotonic() < deadline:
                entries = list(table.entries())
                now = connections.held_by(Mode.IPVS, entries, services).keys() | connections.opening(entries, services)
                if now != before:
                    before, quiet_since = now, time.monotonic()
                elif time.monotonic() - quiet_since >= _SETTLE_QUIET_SECONDS:
                    return
                time.sleep(_SETTLE_POLL_SECONDS)

    def _count(self, to: Mode, state: ServiceState) -> None:
        old = old_mode(self.present(), to)
        self._carrier.ended = set()
        with ConntrackTable() as table:
            entries = list(table.entries())
        self._held = connections.held_by(old, entries, connections.frontends(state)) if old is not None else {}
