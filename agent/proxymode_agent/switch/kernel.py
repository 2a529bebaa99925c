"""I/O: what each step of a switch does to the kernel. Nothing here knows of order, journal or undo."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from proxymode_agent.dataplane.base import DataplaneError, Finding
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.ipvs import presence
from proxymode_agent.dataplane.ipvs.addresses import Addresses
from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.dataplane.nftables import NftablesDataplane
from proxymode_agent.dataplane.nftables.dataplane import present as nftables_present
from proxymode_agent.switch import connections
from proxymode_agent.switch.plan import Step, old_mode
from proxymode_agent.switch.probes.connect import answering, still_answering
from proxymode_agent.switch.probes.sample import Target, failure, judge, sample
from proxymode_api.modes import KubeProxyPolicy, Mode, ObservedMode

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.dataplane.base import Dataplane, SyncResult
    from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane
    from proxymode_agent.services.model import DataplaneConfig, ServiceState
    from proxymode_agent.switch.connections import Held
    from proxymode_agent.switch.handover.carrier import Carrier
    from proxymode_agent.switch.record import Connections, Probes
    from proxymode_agent.takeover import Found, Remains

_VERIFY_TRIES: Final = 3  # a real server that was draining may end its last connection between two reads
_SETTLE_SECONDS: Final = 5.0
_SETTLE_QUIET_SECONDS: Final = 0.5
_SETTLE_POLL_SECONDS: Final = 0.1


class _Closes(Protocol):
    def close(self) -> None: ...


_C = TypeVar("_C", bound=_Closes)


class Kernel:
    """Both modes of one configuration in one network namespace, that of the thread which uses this object.

    What most starts of the agent have no use for is imported and made when it is first asked for: it would take as long
    as all the rest of a start.
    """

    def __init__(self, config: DataplaneConfig, state_dir: Path) -> None:
        self._config = config
        self._state_dir = state_dir
        self._opened = ExitStack()
        self._nf_tables = self._keep(Connection())
        self._addresses = self._keep(Addresses())
        self._held: Held = {}
        self._written: set[Mode] = set()
        self.connections: Connections | None = None
        """What the last COMPARE found."""
        self.answered: frozenset[Target] | None = None
        """Frontends that answered in the old mode; None: not tried yet."""
        self.verification: tuple[Probes, ...] = ()
        """What the last probe of the target found."""

    @property
    def held(self) -> int:
        """Connections that the old mode held when they were counted last."""
        return len(self._held)

    def close(self) -> None:
        self._opened.close()

    def dataplane(self, mode: Mode) -> Dataplane:
        return self._ipvs if mode is Mode.IPVS else self._nftables

    def present(self) -> frozenset[Mode]:
        """The modes of which anything of ours is in the kernel, be it half-made."""
        found: dict[Mode, bool] = {
            Mode.IPVS: presence.present(self._nf_tables, self._addresses),
            Mode.NFTABLES: nftables_present(self._nf_tables),
        }
        return frozenset(mode for mode in Mode if found[mode])

    def observe(self) -> ObservedMode:
        """Whose Service dataplane is there. While both modes of ours are: nftables, new connections meet it first."""
        present = self.present()
        if present:
            return ObservedMode(Mode.NFTABLES if Mode.NFTABLES in present else Mode.IPVS)
        return self._remains.look().mode

    def kube_proxy(self) -> Found:
        """What a kube-proxy has in the kernel, or has left there."""
        return self._remains.look()

    def not_handed_back(self, state: ServiceState) -> str:
        """What a kube-proxy has not programmed yet; empty: it has everything."""
        return self._remains.missing(state)

    def tidy(self) -> None:
        """Remove what outlived the ipvs mode for the sake of connections that have ended since, and, on a node that was
        taken over, the rules of a kube-proxy that came back for a while: they would lead where endpoints once were."""
        presence.forget_routes(self._addresses)
        taken = self._config.kube_proxy is KubeProxyPolicy.TAKE_OVER and bool(self.present())
        if taken and self._remains.look().rules:
            from proxymode_agent.preflight.facts import kube_proxy_runs  # dear to import, and hardly ever needed

            if not kube_proxy_runs():
                self._remains.remove()

    def handover_begun(self) -> bool:
        """Whether connections were being carried over when a switch was interrupted."""
        return self._carrier.under_way()

    def end_handover(self) -> None:
        """Remove the maps and the list of flows, if they are there. Raises DataplaneError and OSError."""
        self._carrier.end()

    def undo(self, old: Mode | None, to: Mode, state: ServiceState) -> None:
        """Make sure that the old mode is whole, and remove the target. Raises DataplaneError and OSError."""
        if old is not None:
            self.dataplane(old).sync(state, None)
        self.end_handover()
        self.dataplane(to).remove()

    def run(self, step: Step, to: Mode, state: ServiceState) -> None:
        """Do one step. Raises DataplaneError and OSError."""
        match step:
            case Step.PROBE_BEFORE:
                if self.answered is None:
                    self.answered = answering(probe.target for probe in sample(state, self._config))
            case Step.TAKE_OVER:
                if to is Mode.IPVS:
                    self._ipvs.adopt(state)
                self.run(Step.PROGRAM, to, state)
                self._verify(to, state)
            case Step.REMOVE_KUBE_PROXY:
                self._remains.remove()
            case Step.PROGRAM:
                result = self._write(to, state)
                if result.refused:
                    name, reason = result.refused[0]
                    raise DataplaneError(f"{len(result.refused)} Service ports refused; {name}: {reason}")
                if to is Mode.NFTABLES and Mode.IPVS in self.present():  # new connections meet the target from now on
                    self._nftables.remember(state, self._ipvs.remembered(state))
            case Step.VERIFY:
                self._verify(to, state)
            case Step.SETTLE:
                self._settle(state)
            case Step.PROBE_TARGET:
                self._probe(state)
            case Step.COUNT | Step.DRAIN:
                self._count(to, state)
            case Step.CATCH:
                self._carrier.ended = set()
                self._held = self._carrier.catch(state)
            case Step.CARRY:
                self._carrier.carry(state)
            case Step.REMOVE_VIRTUAL_SERVERS:
                self._keep_whole(Mode.NFTABLES, state)
                if self._ipvs.look().finding is Finding.CHANGED:
                    self._ipvs.sync(state, None)  # its table says which virtual servers are ours
                self._ipvs.remove_virtual_servers()
            case Step.RESTORE:
                self._carrier.restore(state)
            case Step.END_HANDOVER:
                self.end_handover()
            case Step.RELEASE_ADDRESSES:
                self._ipvs.release_addresses()
            case Step.REMOVE_SIDE_TABLE:
                self._ipvs.remove_table()
            case Step.REMOVE_TABLE:
                self._keep_whole(Mode.IPVS, state)
                self._ipvs.remember(state, self._nftables.remembered(state))
                self._nftables.remove()
            case Step.PROBE_AFTER:
                self.dataplane(to).sync(state, None)
                self._probe(state)
            case Step.COMPARE:
                held = {key: path for key, path in self._held.items() if key not in self._carrier.ended}
                with ConntrackTable() as table:
                    self.connections = connections.compare(held, table.check(held))

    @cached_property
    def _nftables(self) -> NftablesDataplane:
        return self._keep(NftablesDataplane(self._config))

    @cached_property
    def _ipvs(self) -> IpvsDataplane:
        from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane

        return self._keep(IpvsDataplane(self._config))

    @cached_property
    def _carrier(self) -> Carrier:
        from proxymode_agent.switch.handover.carrier import Carrier

        return self._keep(Carrier(self._state_dir))

    @cached_property
    def _remains(self) -> Remains:
        from proxymode_agent.takeover import Remains

        return self._keep(Remains())

    def _keep(self, opened: _C) -> _C:
        """Close it with this object."""
        self._opened.callback(opened.close)
        return opened

    def _verify(self, to: Mode, state: ServiceState) -> None:
        for _ in range(_VERIFY_TRIES):
            written = self._write(to, state).written
            if not written:
                return
        raise DataplaneError(f"{written} kernel objects were not as they had been written; who else writes them?")

    def _keep_whole(self, mode: Mode, state: ServiceState) -> None:
        """The node is about to depend on this mode alone: mend what others have done to it since it was verified."""
        if mode not in self._written or self.dataplane(mode).look().finding in (Finding.CHANGED, Finding.DOUBTFUL):
            self._write(mode, state)

    def _write(self, mode: Mode, state: ServiceState) -> SyncResult:
        self._written.add(mode)
        return self.dataplane(mode).sync(state, None)

    def _probe(self, state: ServiceState) -> None:
        """Try what answered before. Raises DataplaneError if something does not and should."""
        before = self.answered or frozenset()
        probes = sample(state, self._config)
        after = still_answering(probe.target for probe in probes if probe.target in before)
        silent = [probe for probe in probes if probe.target in before - after]
        direct = answering(endpoint for probe in silent for endpoint in probe.endpoints)
        self.verification = judge(probes, before, after, direct)
        reason = failure(self.verification)
        if reason:
            raise DataplaneError(reason)

    def _settle(self, state: ServiceState) -> None:
        """Let connections that were being opened through IPVS get over it: until none of them has come or gone for a
        while. Those that live long stay, so the wait has an end."""
        services = connections.frontends(state)
        deadline = time.monotonic() + _SETTLE_SECONDS
        before: set[bytes] | None = None
        quiet_since = time.monotonic()
        with ConntrackTable() as table:
            while time.monotonic() < deadline:
                flows = list(connections.concerning(table.found(), services))
                now = connections.held_by(Mode.IPVS, flows, services).keys() | connections.opening(flows, services)
                if now != before:
                    before, quiet_since = now, time.monotonic()
                elif time.monotonic() - quiet_since >= _SETTLE_QUIET_SECONDS:
                    return
                time.sleep(_SETTLE_POLL_SECONDS)

    def _count(self, to: Mode, state: ServiceState) -> None:
        old = old_mode(self.present(), to) or Mode.NFTABLES  # without one of ours: by kube-proxy's NAT, like nftables
        self._carrier.ended = set()
        services = connections.frontends(state)
        with ConntrackTable() as table:
            self._held = connections.held_by(old, connections.concerning(table.found(), services), services)
