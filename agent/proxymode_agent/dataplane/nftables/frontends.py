"""Which Service port answers on which address and port: claims, conflicts, and objects that make no sense. Pure.

Two Service ports can claim one frontend while the API server's allocation is being repaired, or in a state that never
was consistent. The first by name gets it, so that the outcome does not depend on the order of events; the others are
reported. When the winner goes, the next one takes over.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nftables.validity import invalid
from proxymode_agent.dataplane.nftables.wants import Address, Role, Wanted, frontends_of, wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from proxymode_agent.services.model import Family, ServicePort, ServicePortName


class Wants(NamedTuple):
    """What changes: by frontend key (None: no Service port has this frontend any more), and for the sets that several
    Service ports share, what is needed once more and once less."""

    frontends: dict[bytes, Wanted | None]
    cluster_ips: tuple[list[bytes], list[bytes]]
    hairpin: tuple[list[bytes], list[bytes]]


class _Claims:
    """Who claims which key: names in order, the first is the winner."""

    def __init__(self) -> None:
        self._claims: dict[bytes, list[tuple[ServicePortName, Role]]] = {}
        self._contested: dict[bytes, None] = {}

    def add(self, name: ServicePortName, frontends: Mapping[bytes, Role]) -> None:
        for key, role in frontends.items():
            claims = self._claims.setdefault(key, [])
            claims.append((name, role))
            if len(claims) > 1:
                claims.sort(key=_by_name)
                self._contested[key] = None

    def remove(self, name: ServicePortName, frontends: Mapping[bytes, Role]) -> None:
        for key, role in frontends.items():
            claims = self._claims[key]
            claims.remove((name, role))
            if len(claims) == 1:
                self._contested.pop(key, None)
            elif not claims:
                del self._claims[key]

    def winner(self, key: bytes) -> tuple[ServicePortName, Role] | None:
        claims = self._claims.get(key)
        return claims[0] if claims else None

    def losers(self) -> Iterator[tuple[ServicePortName, str]]:
        """Ports that do not get what they claim, and why."""
        for key in self._contested:
            (winner, _), *losers = self._claims[key]
            for name, role in losers:
                yield name, f"its {role.value} belongs to {winner}"


def _by_name(claim: tuple[ServicePortName, Role]) -> ServicePortName:
    return claim[0]


class Frontends:
    """The claims of one family's Service ports. `endpoints`: how many the valid ones have, all together; `isolated`:
    Service ports that the kernel refused, with the reason: they get nothing until they change."""

    def __init__(
        self, family: Family, node_ips: Iterable[bytes], isolated: Mapping[ServicePortName, str] | None = None
    ) -> None:
        self._family = family
        self._node_ips: list[Address] = [ipaddress.ip_address(one) for one in node_ips if len(one) == family]
        self._isolated = dict(isolated or {})
        self._claims = _Claims()
        self._ports: dict[ServicePortName, ServicePort] = {}
        self._invalid: dict[ServicePortName, str] = {}
        self.endpoints = 0

    @property
    def services(self) -> int:
        """Number of valid Service ports."""
        return len(self._ports)

    @property
    def isolated(self) -> Mapping[ServicePortName, str]:
        """Service ports that the kernel refused and that did not change since."""
        return self._isolated

    def owner(self, key: bytes) -> ServicePortName | None:
        """The Service port that has a frontend."""
        claim = self._claims.winner(key)
        return None if claim is None else claim[0]

    def refused(self) -> list[tuple[ServicePortName, str]]:
        """Service ports that are not programmed, or not wholly, and why."""
        return [*self._invalid.items(), *self._claims.losers()]

    def forgive(self, names: Iterable[ServicePortName]) -> None:
        """Isolated Service ports that changed: they are worth another try."""
        for name in names:
            self._isolated.pop(name, None)

    def update(self, ports: Mapping[ServicePortName, ServicePort], changed: Iterable[ServicePortName]) -> Wants:
        """Take over the changed Service ports (gone, new or different) and say what that means."""
        dirty: dict[bytes, Role] = {}
        wants = Wants({}, ([], []), ([], []))
        for name in changed:
            if name.family != self._family:
                continue
            self._invalid.pop(name, None)
            old = self._ports.pop(name, None)
            if old is not None:
                frontends = frontends_of(old)
                dirty.update(frontends)
                self._claims.remove(name, frontends)
                self.endpoints -= len(old.endpoints)
                wants.cluster_ips[1].append(old.cluster_ip.address)
            new = ports.get(name)
            if new is not None:
                reason = self._isolated.get(name) or invalid(new)
                if reason is None:
                    frontends = frontends_of(new)
                    dirty.update(frontends)
                    self._claims.add(name, frontends)
                    self._ports[name] = new
                    self.endpoints += len(new.endpoints)
                    wants.cluster_ips[0].append(new.cluster_ip.address)
                else:
                    self._invalid[name] = reason
                    new = None
            _share(wants.hairpin, () if old is None else old.hairpin, () if new is None else new.hairpin)
        wants.frontends.update(self._wanted(dirty))
        return wants

    def _wanted(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, Wanted | None]]:
        for key in keys:
            claim = self._claims.winner(key)
            if claim is None:
                yield key, None
            else:
                name, role = claim
                yield key, wanted(self._ports[name], key, role, self._node_ips)


def _share(needs: tuple[list[bytes], list[bytes]], old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
    if old != new:
        needs[0].extend(address * 2 for address in new)
        needs[1].extend(address * 2 for address in old)
