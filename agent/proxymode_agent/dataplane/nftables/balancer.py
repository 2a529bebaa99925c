"""One balancer's maps and chains: from what they hold and what is wanted to the element changes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nftables.elements import indices
from proxymode_agent.dataplane.nftables.slots import NOTHING, Slots, assign
from proxymode_agent.dataplane.nftables.units import Unit, added, removed, replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.dataplane.nfnetlink import Element
    from proxymode_agent.dataplane.nftables.layout import Balancer

SPARE_CHAINS = 64  # up to this number of endpoints, chains are made ahead of need while the map is empty


class Work(NamedTuple):
    """What a balancer's wants need, in the order in which it is to be done."""

    chains: list[Unit]
    endpoints: list[Unit]
    verdicts: list[Unit]
    clear: list[Unit]


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
        self._chains = set(chains)
        self._needed: set[int] = set()

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
            self._needed.add(len(new.endpoints))
        return old, new

    def commands(self) -> Work:
        """What the wants since the last call need; from then on it counts as done."""
        changes, self._changes = self._changes, _Changes()
        endpoints, verdicts = self._balancer.endpoints, self._balancer.verdicts
        return Work(
            self._new_chains(),
            [*added(endpoints, changes.endpoints_added), *replaced(endpoints, changes.endpoints_replaced)],
            [
                *added(verdicts, changes.verdicts_added),
                *replaced(verdicts, changes.verdicts_replaced),
                *removed(verdicts, changes.verdicts_removed),
            ],
            list(removed(endpoints, changes.endpoints_removed)),
        )

    def _new_chains(self) -> list[Unit]:
        if self._needed and not self._chains:
            largest = max(self._needed)
            self._needed.update(range(1, min(largest + largest // 4 + 1, SPARE_CHAINS) + 1))
        missing = sorted(self._needed - self._chains)
        self._chains |= self._needed
        self._needed.clear()
        return [
            (self._balancer.chain(count).add(), *(rule.add() for rule in self._balancer.rules(count)))
            for count in missing
        ]

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
