"""The ipvs mode as a Dataplane: reads the kernel back, writes the difference, in an order that drops nothing.

What is ours is read back, see README.md: no file and no memory is needed to find it again.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError, Finding, Look, SyncResult
from proxymode_agent.dataplane.conntrack.stale import StaleFlows
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.ipvs import stickiness, sysctls, templates, timeouts
from proxymode_agent.dataplane.ipvs.addresses import unused
from proxymode_agent.dataplane.ipvs.diff import Changes, diff, draining, opens, rerouted
from proxymode_agent.dataplane.ipvs.drain import Drain
from proxymode_agent.dataplane.ipvs.layout import FAMILIES
from proxymode_agent.dataplane.ipvs.model import (
    AddVirtualServer,
    IpvsState,
    RealServerName,
    Set,
    frontend_key,
)
from proxymode_agent.dataplane.ipvs.ownership import excluded, is_ours, node_addresses
from proxymode_agent.dataplane.ipvs.parts import Parts
from proxymode_agent.dataplane.ipvs.refusals import by_port, conflicts, instead
from proxymode_agent.dataplane.ipvs.schedulers import Schedulers
from proxymode_agent.dataplane.ipvs.wanted import Wanted
from proxymode_agent.services.model import Family
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxymode_agent.dataplane.affinity import Remembered
    from proxymode_agent.dataplane.ipvs.addresses import Found
    from proxymode_agent.dataplane.ipvs.model import AddressChange, Element, ServerChange
    from proxymode_agent.dataplane.ipvs.servers import Servers
    from proxymode_agent.services.model import DataplaneConfig, Frontend, ServicePortName, ServiceState


class IpvsDataplane:
    """IPVS, kube-ipvs0 and the table `proxymode-ipvs` in the network namespace that this object was made in."""

    mode: Final = Mode.IPVS

    def __init__(self, config: DataplaneConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._parts = Parts(config)
        self._table, self._addresses = self._parts.table, self._parts.addresses
        self._wanted: Wanted | None = None
        self._virtual_servers: int | None = None
        self._schedulers = Schedulers(config.ipvs_scheduler)
        self._refused: dict[ServicePortName, str] = {}
        self._drain = Drain(config.ipvs_drain_seconds)
        self._conntrack = ConntrackTable()
        self._stale_flows = {family: StaleFlows(family, self._conntrack) for family in Family}
        self._clock = clock

    def close(self) -> None:
        """Close sockets; leaves the kernel as it is."""
        self._parts.close()
        self._conntrack.close()

    def present(self) -> bool:
        """Whether the kernel holds anything of ours in this mode."""
        return self._parts.present()

    def sync(self, state: ServiceState, changed: frozenset[ServicePortName] | None = None) -> SyncResult:
        """Make the kernel do what `state` says; see Dataplane.sync."""
        wanted, self._wanted = self._wanted, None  # unknown again if anything below raises
        result = None
        if changed is not None and wanted is not None:
            result = self._sync_changed(wanted, state, changed)
        if result is None:
            found = self._addresses.read()
            wanted = self._fresh(state, found)
            result = self._sync_all(wanted, found, partial(is_ours, self._config))
        self._wanted = wanted
        self._virtual_servers = self._parts.virtual_servers()
        return result

    def adopt(self, state: ServiceState) -> None:
        """Make kube-proxy's virtual servers, addresses and device ours, without touching those that `state` wants too.

        Whatever virtual server is not excluded counts as kube-proxy's, and goes if no Service wants it: kube-proxy did
        the same. Raises DataplaneError.
        """
        self._wanted = None
        found = self._addresses.read()
        result = self._sync_all(
            self._fresh(state, found),
            found,
            lambda elements, bound: lambda frontend: not excluded(self._config, frontend.address),
        )
        if result.refused:
            name, reason = result.refused[0]
            raise DataplaneError(f"{len(result.refused)} Service ports refused; {name}: {reason}")

    def look(self) -> Look:
        """Whether others changed our table or the number of IPv4 virtual servers; see Dataplane.look. Real servers,
        virtual servers of IPv6, addresses and sysctls are for `sync` to read back."""
        look = self._table.watch.look()
        before, self._virtual_servers = self._virtual_servers, self._parts.virtual_servers()
        if look.finding is Finding.CHANGED or look.finding is Finding.DOUBTFUL:
            return look
        return Look(Finding.NOTHING_SEEN if self._virtual_servers == before else Finding.DOUBTFUL)

    def remembered(self, state: ServiceState) -> list[Remembered]:
        """Which client stays with which endpoint: the last that any of the port's virtual servers knows."""
        return stickiness.remembered(self._sticky_frontends(state), templates.read())

    def remember(self, state: ServiceState, known: Iterable[Remembered]) -> int:
        """Take over which client stays with which endpoint; how many persistence templates that made. Raises
        DataplaneError."""
        missing = stickiness.missing(state, self._sticky_frontends(state), known, templates.read())
        for seconds, some in missing.items():
            templates.write(some, seconds)
        return sum(map(len, missing.values()))

    def _sticky_frontends(self, state: ServiceState) -> dict[Frontend, ServicePortName]:
        return stickiness.frontends(state, node_addresses(self._config, self._addresses.read()).node_ports)

    def remove(self) -> None:
        """Take away virtual servers, addresses, device and table, in this order. Sysctls stay as they are."""
        self.remove_virtual_servers()
        self.release_addresses()
        self.remove_table()

    def remove_virtual_servers(self) -> int:
        """Delete our virtual servers and with them the connections that IPVS has; how many. Raises DataplaneError."""
        self._wanted = None
        return self._parts.remove_virtual_servers()

    def release_addresses(self) -> None:
        """Remove the addresses, our routes and kube-ipvs0, unless it has excluded addresses. Raises DataplaneError.

        A route to an address that a socket of the node speaks from stays; see `presence`.
        """
        self._wanted = None
        self._parts.release_addresses()

    def remove_table(self) -> None:
        """Delete the nf_tables table, and with it the memory of what is ours. Raises DataplaneError."""
        self._wanted = None
        self._table.remove()

    def _fresh(self, state: ServiceState, found: Found) -> Wanted:
        asked = self._schedulers.asked(state.ports.values())
        replacements = self._schedulers.replacements(asked, self._parts.servers().has_scheduler)
        self._table.watch.begin()
        return Wanted(self._config.ipvs_scheduler, node_addresses(self._config, found), replacements, state.ports)

    def _sync_all(
        self,
        wanted: Wanted,
        found: Found,
        whose: Callable[[Iterable[Element], Iterable[bytes]], Callable[[Frontend], bool]],
    ) -> SyncResult:
        """`found`: the node's addresses, as just read; `whose`: from elements of the table and bound addresses, which
        virtual servers may be changed."""
        after = wanted.state()
        servers = self._parts.servers()  # loads the module, which brings the sysctls
        written = sysctls.apply(sysctls.wanted(os.uname().release, strict_arp=self._config.ipvs_strict_arp))
        written += self._set_timeouts(servers)
        mended, intact = self._table.mend()
        written += mended
        elements = self._table.elements()
        for length in FAMILIES.keys() - intact:
            # Which frontends were ours is known until their virtual servers are gone.
            kept = [e for e in elements if e.family == length and e.set is Set.NODE_FRONTENDS]
            # What lets packets in comes after the virtual servers, as in any other change.
            shut = {e: value for e, value in after.elements.items() if e.family == length and not opens(e, value)}
            new = dict.fromkeys(kept) | shut
            self._table.create(length, new)
            written += 1 + len(new)
            elements = {e: value for e, value in elements.items() if e.family != length} | new
        written += self._addresses.claim_device()
        bound = self._parts.bound(found, keep=after.addresses.keys())
        ours = whose(elements, bound)
        before = IpvsState(
            virtual_servers=servers.read(lambda frontend: frontend in after.virtual_servers or ours(frontend)),
            addresses=bound,
            elements=elements,
        )
        now = self._clock()
        self._drain.seen(draining(before, after), now)
        changes = diff(before, after, self._drain.overdue(now))
        applied, refused = self._apply(wanted, changes)
        self._forget_flows(before, after)
        strays = unused(found.stray - after.addresses.keys())
        self._addresses.delete_routes(strays)
        self._refused = refused
        return self._result(wanted, written + applied + len(strays))

    def _sync_changed(
        self, wanted: Wanted, state: ServiceState, changed: frozenset[ServicePortName]
    ) -> SyncResult | None:
        """Only the changed ports' operations; None when the kernel was not as believed: read it back."""
        ports = {name: state.ports.get(name) for name in changed}
        if self._refused.keys() & changed:
            return None
        if not self._schedulers.known(self._schedulers.asked(port for port in ports.values() if port is not None)):
            return None
        before, after = wanted.replace(ports)
        changes = diff(before, after)
        try:
            applied, refused = self._apply(wanted, changes)
            self._forget_flows(before, after)
        except DataplaneError:
            return None
        return None if refused else self._result(wanted, applied)

    def _result(self, wanted: Wanted, written: int) -> SyncResult:
        return SyncResult(
            written=written,
            services=wanted.services,
            endpoints=wanted.endpoints,
            refused=(*self._refused.items(), *conflicts(wanted)),
            instead=instead(wanted),
            read_back_in=self._drain.due_in(self._clock()),
        )

    def _apply(self, wanted: Wanted, changes: Changes) -> tuple[int, dict[ServicePortName, str]]:
        """Make the changes; how many were made, and which ports lack what the kernel refused."""
        servers = self._parts.servers()
        self._table.put(changes.close, changes.there, changes.outdated)
        refused: list[tuple[ServerChange | AddressChange, str]] = [*servers.apply(changes.servers)]
        # Nobody is let in where there is no virtual server: a process of the node would answer.
        shut = {frontend_key(change.frontend) for change, _ in refused if isinstance(change, AddVirtualServer)}
        opened = {
            element: value
            for element, value in changes.open.items()
            if element.set is not Set.FRONTENDS or element.key not in shut
        }
        self._table.put(opened, changes.there)
        if changes.bind:
            refused += self._addresses.bind(changes.bind)
        self._table.delete(changes.forget)
        refused += servers.apply(changes.delete_servers)
        if changes.release:
            refused += self._addresses.unbind(changes.release)
        self._table.delete(changes.delete)
        refused += servers.apply(changes.sweep)
        self._drain.changed(changes.servers, self._clock())
        self._drain.gone(RealServerName(change.frontend, change.endpoint) for change in changes.sweep)
        applied = changes.count - len({change for change, _ in refused}) - (len(changes.open) - len(opened))
        return applied, by_port(wanted, refused)

    def _forget_flows(self, before: IpvsState, after: IpvsState) -> None:
        """Make the next packet of a UDP flow to a frontend that leads elsewhere now a first packet."""
        for frontend, endpoints in rerouted(before, after):
            flows = self._stale_flows[Family(len(frontend.address))]
            flows.add([(frontend_key(frontend), endpoints)])
        for flows in self._stale_flows.values():
            flows.delete()

    def _set_timeouts(self, servers: Servers) -> int:
        """Set timeouts that are not as they were asked for; how many."""
        to_set = timeouts.differing(self._config.ipvs_timeouts, timeouts.read())
        if any(to_set):
            servers.set_timeouts(to_set)
        return sum(map(bool, to_set))
