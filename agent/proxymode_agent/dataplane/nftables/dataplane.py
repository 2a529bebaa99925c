"""The nftables dataplane: keeps this network namespace's two tables `proxymode` as the Service state says.

Synchronous, one thread. What it knows of the kernel between syncs is a cache: whatever goes wrong, the next sync reads
the kernel back. Whoever calls asks `look` for what others did, and then syncs without `changed`. Where the kernel
refuses an element, the Service port whose it is is left out, and the others go on.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.base import DataplaneError, Finding, Look, SyncResult
from proxymode_agent.dataplane.conntrack.stale import StaleFlows
from proxymode_agent.dataplane.conntrack.table import ConntrackTable
from proxymode_agent.dataplane.nfnetlink import Connection, NfnetlinkError, NfProto, Transaction
from proxymode_agent.dataplane.nftables import clients, grace
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES
from proxymode_agent.dataplane.nftables.frontends import Frontends
from proxymode_agent.dataplane.nftables.layout import TABLE, Layout, layout
from proxymode_agent.dataplane.nftables.paths import TRAITS, node_port_networks
from proxymode_agent.dataplane.nftables.plan import Plan, TableState
from proxymode_agent.dataplane.nftables.readback import read_base, read_elements
from proxymode_agent.dataplane.nftables.samples import Samples
from proxymode_agent.dataplane.shape import in_short
from proxymode_agent.dataplane.watch import TableWatch
from proxymode_agent.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.dataplane.affinity import Remembered
    from proxymode_agent.services.model import DataplaneConfig, Family, ServicePort, ServicePortName, ServiceState
    from proxymode_api.common import Mode


logger = logging.getLogger(__name__)

MAX_ISOLATED = 16  # Service ports that one sync leaves out, each after another attempt, before it gives up
NOT_AS_LEFT = (errno.ENOENT, errno.EEXIST)
"""What the kernel says where something of ours is gone, or something else is in its place."""


class FamilyTable:
    """One family's table in the kernel."""

    def __init__(self, kernel: Connection, conntrack: ConntrackTable, table: Layout, config: DataplaneConfig) -> None:
        self._kernel = kernel
        self._layout = table
        self._node_ips = config.node_ips
        self._state: TableState | None = None
        self._left = False  # a sync of this object has left the table as the layout says
        self._frontends = Frontends(table.family, config.node_ips)
        self._stale_flows = StaleFlows(table.family, conntrack, node_port_networks(config, table.family))
        self._samples = Samples(kernel)

    @property
    def family(self) -> Family:
        """Whose Service ports it holds."""
        return self._layout.family

    @property
    def frontends(self) -> Frontends:
        """What the Service ports of the last sync claim."""
        return self._frontends

    @property
    def known(self) -> bool:
        """Whether what the kernel holds is known, so that changes can be written without reading it back."""
        return self._state is not None

    def sync_all(
        self,
        ports: Mapping[ServicePortName, ServicePort],
        isolated: Mapping[ServicePortName, str],
        damage: list[str],
    ) -> int:
        """Read the kernel back and write what differs. Returns the number of objects written.

        `isolated`: Service ports not to try, with the reason. What others did to what the last sync left is added to
        `damage`.
        """
        left_out = dict(isolated)
        doubted: set[ServicePortName | None] = set()
        while len(left_out) < len(isolated) + MAX_ISOLATED:
            try:
                return self._reconcile(ports, left_out, damage)
            except NfnetlinkError as error:
                culprit = self._culprit(error)
                if error.errno in NOT_AS_LEFT and culprit not in doubted and len(doubted) < MAX_ISOLATED:
                    # It may be no fault of the Service port: somebody wrote between our reading and our writing.
                    doubted.add(culprit)
                    continue
                if culprit is None:
                    raise
                left_out[culprit] = f"the kernel refused it: {error}"
                logger.warning("Service port isolated", extra={"service_port": str(culprit), "error": str(error)})
        return self._reconcile(ports, left_out, damage)

    def sync_changed(self, ports: Mapping[ServicePortName, ServicePort], changed: Iterable[ServicePortName]) -> int:
        """Write what the changed Service ports need, if the table is `known`; after an error it is not any more."""
        state, self._state = self._state, None
        if state is None:
            raise DataplaneError(f"{self._layout.table}: changes cannot be written before the kernel was read back")
        self._frontends.forgive(changed)
        plan = state.plan(self._frontends.update(ports, changed))
        self._commit(plan)
        self._state = state
        self._stale_flows.delete()
        return plan.objects

    def suspect(self) -> None:
        """Somebody wrote: what the kernel holds is to be looked at once more."""
        self._samples.suspect()

    def sample(self) -> list[str]:
        """What somebody else did, as far as the next look at the elements can tell, where one is due."""
        return self._samples.turn(self._state.parts()) if self._state is not None and self._samples.due else []

    def remembered(self, ports: Mapping[ServicePortName, ServicePort]) -> list[Remembered]:
        """Clients that sticky ports remember; none where the table is not there."""
        return clients.read(self._kernel, self._layout, ports) if self.present() else []

    def remember(self, ports: Mapping[ServicePortName, ServicePort], known: Iterable[Remembered]) -> int:
        """Remember clients; how many elements were added."""
        return clients.write(self._kernel, self._layout, ports, known)

    def present(self) -> bool:
        """Whether the table is in the kernel."""
        return any(found.table.name == TABLE for found in self._kernel.tables(self._layout.table.family))

    def remove(self) -> None:
        """Delete the table if it is there."""
        self._state, self._left = None, False
        if self.present():
            self._kernel.commit(Transaction.of(self._layout.table.delete()))

    def _commit(self, plan: Plan) -> None:
        self._kernel.commit_all(plan.make)
        if plan.clear:
            grace.wait()
            self._kernel.commit_all(plan.clear)
        self._stale_flows.add(plan.flows)

    def _reconcile(
        self,
        ports: Mapping[ServicePortName, ServicePort],
        isolated: Mapping[ServicePortName, str],
        damage: list[str],
    ) -> int:
        before, self._state = self._state, None
        left, self._left = self._left, False
        self._frontends = Frontends(self._layout.family, self._node_ips, isolated)
        base = read_base(self._kernel, self._layout)
        damage += base.damage if left else ()
        self._kernel.commit(base.repair)
        observed = read_elements(self._kernel, self._layout, base)
        if before is not None and not base.fresh:
            damage += before.damage(observed)
        state = TableState(self._layout, observed)
        plan = state.plan_all(self._frontends.update(ports, ports))
        self._commit(plan)
        self._kernel.commit(base.strangers)
        self._state, self._left = state, True
        self._samples.due = False
        self._stale_flows.delete()
        return base.repair.objects + plan.objects + base.strangers.objects

    def _culprit(self, error: NfnetlinkError) -> ServicePortName | None:
        """The Service port whose element the kernel refused, as its extended acknowledgement says."""
        element = error.errors[0].element
        if element is None:
            return None
        for space in self._layout.spaces:
            if element.set_name in (space.verdicts.name, space.inside.name, space.refused.name):
                return self._frontends.owner(element.key)
            if element.set_name in (space.endpoints.name, space.ids.name):
                return self._frontends.owner(element.key[:-INDEX_BYTES])
        if element.set_name in (self._layout.restricted.name, self._layout.sources.name):
            return self._frontends.owner(element.key[: self._layout.restricted.key_length])
        return None


class NftablesDataplane:
    """Dataplane of mode nftables (see :class:`~proxymode_agent.dataplane.base.Dataplane`) for this thread's network
    namespace. Raises DataplaneError if there is no nf_tables or no right to use it."""

    def __init__(self, config: DataplaneConfig) -> None:
        self._kernel = Connection()
        self._conntrack = ConntrackTable()
        layouts = [layout(family, config, VERSION) for family in TRAITS]
        self._tables = [FamilyTable(self._kernel, self._conntrack, made, config) for made in layouts]
        self._watch = TableWatch(self._kernel, [made.table for made in layouts])

    @property
    def mode(self) -> Mode:
        from proxymode_api.common import Mode

        return Mode.NFTABLES

    def present(self) -> bool:
        """Whether a table of ours is in the kernel."""
        return present(self._kernel)

    def sync(self, state: ServiceState, changed: frozenset[ServicePortName] | None = None) -> SyncResult:
        """Make the kernel do what `state` says; see the protocol. One family's failure does not hold up the other."""
        if changed is None:
            return self._sync_all(state)
        if not all(table.known for table in self._tables):
            return self._sync_all(state, isolation=True)
        try:
            families = {name.family for name in changed}
            concerned = [table for table in self._tables if table.family in families]
            written = sum(table.sync_changed(state.ports, changed) for table in concerned)
        except DataplaneError as error:
            logger.warning("update refused, reading the kernel back", extra={"error": str(error)})
            return self._sync_all(state, isolation=True, refusal=error)
        return self._result(written)

    def _sync_all(
        self, state: ServiceState, *, isolation: bool = False, refusal: DataplaneError | None = None
    ) -> SyncResult:
        """Read back and write the difference. `isolation`: Service ports that were isolated remain so until they
        change; `refusal`: what an update has come across."""
        written = 0
        errors: list[DataplaneError] = []
        damage: list[str] = []
        isolated = [dict(table.frontends.isolated) if isolation else {} for table in self._tables]
        self._watch.begin()
        for table, left_out in zip(self._tables, isolated, strict=True):
            try:
                written += table.sync_all(state.ports, left_out, damage)
            except DataplaneError as error:
                errors.append(error)
        if errors:
            raise DataplaneError("; ".join(map(str, errors))) from errors[0]
        culprits = any(table.frontends.isolated != before for table, before in zip(self._tables, isolated, strict=True))
        if not damage and not culprits and isinstance(refusal, NfnetlinkError) and refusal.errno in NOT_AS_LEFT:
            damage.append(f"found by an update: {refusal}")
        return self._result(written, in_short(damage))

    def _result(self, written: int, damage: str = "") -> SyncResult:
        return SyncResult(
            written,
            services=sum(table.frontends.services for table in self._tables),
            endpoints=sum(table.frontends.endpoints for table in self._tables),
            refused=tuple(refused for table in self._tables for refused in table.frontends.refused()),
            damage=damage,
        )

    def look(self) -> Look:
        """Whether others changed our tables; see the protocol."""
        look = self._watch.look()
        if look.finding is Finding.CHANGED:
            return look
        if look.finding is Finding.DOUBTFUL:
            for table in self._tables:
                table.suspect()
        damage = [said for table in self._tables for said in table.sample()]
        return Look(Finding.CHANGED, in_short(damage)) if damage else look

    def remembered(self, state: ServiceState) -> list[Remembered]:
        """Which client stays with which endpoint. Raises DataplaneError."""
        return [one for table in self._tables for one in table.remembered(state.ports)]

    def remember(self, state: ServiceState, known: Iterable[Remembered]) -> int:
        """Take over which client stays with which endpoint, as far as the last sync's Service ports have it and nothing
        else is known of the client; how many elements that made. Raises DataplaneError."""
        known = list(known)
        return sum(table.remember(state.ports, known) for table in self._tables)

    def remove(self) -> None:
        """Delete both tables; connections that they made live on in conntrack while any nat chain remains."""
        for table in self._tables:
            table.remove()

    def close(self) -> None:
        """Close the sockets; leaves the kernel as it is."""
        self._kernel.close()
        self._conntrack.close()


def present(kernel: Connection) -> bool:
    """Whether a table of this dataplane is in the kernel, whoever made it."""
    return any(found.table.name == TABLE for family in (NfProto.IPV4, NfProto.IPV6) for found in kernel.tables(family))
