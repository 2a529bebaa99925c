"""From what the kernel's maps hold and what they shall hold to the transactions between, in an order that never misses.

Pure. A packet looks its frontend up in the verdict map, and then frontend and random index in the endpoint map; an
update may come between the two. So
- endpoints are added before the verdict that counts them, and verdicts changed before indices are deleted;
- an endpoint that is replaced keeps its index: delete and add in one transaction;
- when endpoints become fewer, the last ones are copied over those that go, the verdict is changed, and only after a
  grace period (every packet that read the old verdict is through) are the stale indices deleted;
- chains are made before verdicts refer to them and deleted, after that grace period, when none does any more.
Endpoints keep their index for as long as they exist and the Service does not shrink below it: unrelated changes write
nothing, and a restart, which reads the order back from the kernel, writes nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nfnetlink import Command, Element, Transaction, add_elements, delete_elements
from proxymode_agent.dataplane.nftables.elements import INDEX_BYTES, indices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxymode_agent.dataplane.nfnetlink import Set
    from proxymode_agent.dataplane.nftables.layout import Balancer, Layout

TRANSACTION_BYTES = 1 << 16  # memory that a transaction takes while somebody listens to events: about 10 MB for this
REPLACED_TOGETHER = 256  # elements whose delete and add go into one transaction

Unit = tuple[Command, ...]  # commands that must not be parted


class Slots(NamedTuple):
    """One frontend in the kernel: endpoints by index (None: no element), the verdict's data, and whether it is wanted.

    Indices at or above the verdict's count are stale: nothing draws them.
    """

    endpoints: tuple[bytes | None, ...]
    verdict: bytes | None
    wanted: bool = False


NOTHING = Slots((), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """Transactions in order: commit `make`, wait out a grace period if there is anything to clear, commit `clear`."""

    make: tuple[Transaction, ...]
    clear: tuple[Transaction, ...]

    @property
    def objects(self) -> int:
        """Kernel objects that it adds, changes or deletes; a replaced element counts as two."""
        return sum(transaction.objects for transaction in (*self.make, *self.clear))


def assign(current: Sequence[bytes | None], wanted: Sequence[bytes]) -> tuple[bytes, ...]:
    """The wanted endpoints by index: as many as possible where they are, the others in the gaps, in a fixed order."""
    if current == wanted:
        return tuple(wanted)
    missing = dict.fromkeys(wanted)
    result: list[bytes | None] = [None] * len(wanted)
    for index, endpoint in enumerate(current[: len(wanted)]):
        if endpoint in missing:
            result[index] = endpoint
            del missing[endpoint]
    moved = [endpoint for endpoint in dict.fromkeys(current[len(wanted) :]) if endpoint in missing]
    for endpoint in moved:
        del missing[endpoint]
    rest = iter((*moved, *missing))
    return tuple(endpoint if endpoint is not None else next(rest) for endpoint in result)


class References:
    """A kernel set whose elements are there as long as something needs them: counts, and what that changes."""

    def __init__(self, existing: Iterable[bytes]) -> None:
        self._counts: dict[bytes, int] = {}
        self._missing: set[bytes] = set()  # needed, and not in the kernel
        self._surplus: set[bytes] = set(existing)  # in the kernel, and not needed

    def take(self, keys: Iterable[bytes]) -> None:
        """One more need for each key."""
        counts = self._counts
        for key in keys:
            count = counts.get(key, 0)
            counts[key] = count + 1
            if not count:
                if key in self._surplus:
                    self._surplus.remove(key)
                else:
                    self._missing.add(key)

    def drop(self, keys: Iterable[bytes]) -> None:
        """One need less for each key."""
        counts = self._counts
        for key in keys:
            count = counts[key] - 1
            if count:
                counts[key] = count
                continue
            del counts[key]
            if key in self._missing:
                self._missing.remove(key)
            else:
                self._surplus.add(key)

    def changes(self) -> tuple[list[bytes], list[bytes]]:
        """Keys to add and keys to delete, which from now on count as done."""
        changes = sorted(self._missing), sorted(self._surplus)
        self._missing.clear()
        self._surplus.clear()
        return changes


@dataclass(slots=True)
class _Changes:
    """Element operations on one balancer's two maps."""

    endpoints_added: list[Element] = field(default_factory=list)
    endpoints_replaced: list[Element] = field(default_factory=list)
    endpoints_removed: list[bytes] = field(default_factory=list)
    verdicts_added: list[Element] = field(default_factory=list)
    verdicts_replaced: list[Element] = field(default_factory=list)
    verdicts_removed: list[bytes] = field(default_factory=list)


class BalancerState:
    """The elements of a balancer's maps and its chains, as the kernel has them once all plans are committed."""

    def __init__(
        self, balancer: Balancer, slots: Mapping[bytes, Slots], junk: Iterable[bytes], chains: Iterable[int]
    ) -> None:
        self._balancer = balancer
        self.slots = dict(slots)
        self._changes = _Changes(endpoints_removed=list(junk))
        self._chains = References(self._chain_key(count) for count in chains)

    def want(self, key: bytes, wanted: tuple[bytes, ...] | None) -> tuple[Slots, Slots]:
        """From now on `wanted` endpoints for a frontend; None: no such frontend. Returns the slots before and after."""
        old = self.slots.get(key, NOTHING)
        if wanted is None:
            new = NOTHING
            self.slots.pop(key, None)
        else:
            verdict = self._balancer.target(len(wanted)) if wanted else None
            new = self.slots[key] = Slots(assign(old.endpoints, wanted), verdict, wanted=True)
        if old.endpoints != new.endpoints:
            self._change_endpoints(key, old.endpoints, new.endpoints)
        if old.verdict != new.verdict:
            self._change_verdict(key, old.verdict, new.verdict)
        if new.endpoints:
            self._chains.take((self._chain_key(len(new.endpoints)),))
        if old.wanted and old.endpoints:
            self._chains.drop((self._chain_key(len(old.endpoints)),))
        return old, new

    def commands(self) -> tuple[list[Unit], list[Unit], list[Unit], list[Unit]]:
        """What the wants since the last call need: (endpoints, chains, verdicts), and what to clear afterwards."""
        changes, self._changes = self._changes, _Changes()
        endpoints, verdicts = self._balancer.endpoints, self._balancer.verdicts
        chains_added, chains_removed = ([int.from_bytes(key, "big") for key in keys] for keys in self._chains.changes())
        chains: list[Unit] = [
            (self._balancer.chain(count).add(), *(rule.add() for rule in self._balancer.rules(count)))
            for count in chains_added
        ]
        clear: list[Unit] = [(command,) for command in delete_elements(endpoints, changes.endpoints_removed)]
        clear += [(self._balancer.chain(count).delete(),) for count in chains_removed]
        return (
            [*_added(endpoints, changes.endpoints_added), *_replaced(endpoints, changes.endpoints_replaced)],
            chains,
            [
                *_added(verdicts, changes.verdicts_added),
                *_replaced(verdicts, changes.verdicts_replaced),
                *((command,) for command in delete_elements(verdicts, changes.verdicts_removed)),
            ],
            clear,
        )

    def _change_endpoints(self, key: bytes, old: tuple[bytes | None, ...], new: tuple[bytes | None, ...]) -> None:
        changes = self._changes
        at = indices(max(len(old), len(new)))
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            if before != after and after is not None:
                (changes.endpoints_added if before is None else changes.endpoints_replaced).append(
                    (key + at[index], after)
                )
        if len(new) > len(old):
            added = zip(at[len(old) : len(new)], new[len(old) :], strict=True)
            changes.endpoints_added += [(key + index, after) for index, after in added if after is not None]
        else:
            removed = zip(at[len(new) : len(old)], old[len(new) :], strict=True)
            changes.endpoints_removed += [key + index for index, before in removed if before is not None]

    def _change_verdict(self, key: bytes, old: bytes | None, new: bytes | None) -> None:
        if new is None:
            self._changes.verdicts_removed.append(key)
        elif old is None:
            self._changes.verdicts_added.append((key, new))
        else:
            self._changes.verdicts_replaced.append((key, new))

    @staticmethod
    def _chain_key(count: int) -> bytes:
        return count.to_bytes(INDEX_BYTES, "big")


@dataclass(frozen=True, slots=True)
class ObservedElements:
    """What the kernel's maps hold. `junk`: keys of endpoint elements that no index of ours can have."""

    services: Mapping[bytes, Slots] = field(default_factory=dict)
    nodeports: Mapping[bytes, Slots] = field(default_factory=dict)
    services_junk: tuple[bytes, ...] = ()
    nodeports_junk: tuple[bytes, ...] = ()
    service_chains: frozenset[int] = frozenset()
    nodeport_chains: frozenset[int] = frozenset()
    cluster_ips: frozenset[bytes] = frozenset()
    hairpin: frozenset[bytes] = frozenset()
    refused_nodeports: frozenset[bytes] = frozenset()


class TableState:
    """One family's table as the kernel has it, once every plan made so far is committed.

    After a plan that could not be committed whole it is worthless: read the kernel back and begin anew.
    """

    def __init__(self, layout: Layout, observed: ObservedElements) -> None:
        self._layout = layout
        self._address_bytes = int(layout.family)
        self._services = BalancerState(
            layout.services, observed.services, observed.services_junk, observed.service_chains
        )
        self._nodeports = BalancerState(
            layout.nodeports, observed.nodeports, observed.nodeports_junk, observed.nodeport_chains
        )
        self._cluster_ips = References(observed.cluster_ips)
        self._hairpin = References(observed.hairpin)
        self._refused = References(observed.refused_nodeports)

    def plan_all(
        self,
        services: Mapping[bytes, tuple[bytes, ...] | None],
        nodeports: Mapping[bytes, tuple[bytes, ...] | None],
    ) -> Plan:
        """The way to these frontends and endpoints and no others."""
        gone_services = [key for key in self._services.slots if key not in services]
        gone_nodeports = [key for key in self._nodeports.slots if key not in nodeports]
        return self.plan({**services, **dict.fromkeys(gone_services)}, {**nodeports, **dict.fromkeys(gone_nodeports)})

    def plan(
        self,
        services: Mapping[bytes, tuple[bytes, ...] | None],
        nodeports: Mapping[bytes, tuple[bytes, ...] | None],
    ) -> Plan:
        """The way to these endpoints for these frontends (None: frontend gone); all others stay as they are."""
        for key, wanted in services.items():
            old, new = self._services.want(key, wanted)
            self._count_hairpin(old, new)
            address = (key[: self._address_bytes],)
            if new.wanted:
                self._cluster_ips.take(address)
            if old.wanted:
                self._cluster_ips.drop(address)
        for key, wanted in nodeports.items():
            old, new = self._nodeports.want(key, wanted)
            self._count_hairpin(old, new)
            if new.wanted and not new.endpoints:
                self._refused.take((key,))
            if old.wanted and not old.endpoints:
                self._refused.drop((key,))
        return self._ordered()

    def _count_hairpin(self, old: Slots, new: Slots) -> None:
        before = set(old.endpoints) if old.wanted else set()
        after = set(new.endpoints)
        if before != after:
            size = self._address_bytes
            self._hairpin.take(endpoint[:size] * 2 for endpoint in after - before if endpoint is not None)
            self._hairpin.drop(endpoint[:size] * 2 for endpoint in before - after if endpoint is not None)

    def _ordered(self) -> Plan:
        services = self._services.commands()
        nodeports = self._nodeports.commands()
        hairpin = self._hairpin.changes()
        refused = self._refused.changes()
        cluster_ips = self._cluster_ips.changes()
        layout = self._layout
        make = [
            *services[0],
            *nodeports[0],
            *_members(layout.hairpin, hairpin[0]),
            *services[1],
            *nodeports[1],
            *services[2],
            *nodeports[2],
            *_members(layout.refused_nodeports, refused[0]),
            *_members(layout.cluster_ips, cluster_ips[0]),
            *_strangers(layout.refused_nodeports, refused[1]),
            *_strangers(layout.cluster_ips, cluster_ips[1]),
            *_strangers(layout.hairpin, hairpin[1]),
        ]
        return Plan(tuple(pack(make)), tuple(pack((*services[3], *nodeports[3]))))


def pack(units: Iterable[Unit], limit: int = TRANSACTION_BYTES) -> Iterator[Transaction]:
    """Units into transactions, in order, as many in one as fit into `limit` bytes."""
    commands: list[Command] = []
    size = 0
    for unit in units:
        length = sum(len(command.body) for command in unit)
        if commands and size + length > limit:
            yield Transaction(tuple(commands))
            commands, size = [], 0
        commands += unit
        size += length
    if commands:
        yield Transaction(tuple(commands))


def _added(to: Set, elements: Sequence[Element]) -> Iterator[Unit]:
    return ((command,) for command in add_elements(to, elements))


def _replaced(in_: Set, elements: Sequence[Element]) -> Iterator[Unit]:
    for start in range(0, len(elements), REPLACED_TOGETHER):
        part = elements[start : start + REPLACED_TOGETHER]
        yield *delete_elements(in_, (key for key, _ in part)), *add_elements(in_, part)


def _members(to: Set, keys: Sequence[bytes]) -> Iterator[Unit]:
    return _added(to, [(key, b"") for key in keys])


def _strangers(of: Set, keys: Sequence[bytes]) -> Iterator[Unit]:
    return ((command,) for command in delete_elements(of, keys))
