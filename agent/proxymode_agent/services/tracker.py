"""The cluster's Services as they change: objects in, ServiceState and the names of changed ports out.

Cost is proportional to the change: an object that arrives is reduced to its entry, its Service is marked, and `take`
joins the marked Services only. Objects may come in any order, EndpointSlices before their Service too; the result is
that of a fresh build from the final objects. What it holds is compact (a packed address an endpoint in a slice), since
a cluster may have 500,000 of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from proxymode_agent.services.build import health_check, service_ports
from proxymode_agent.services.model import ServiceName, ServiceState
from proxymode_agent.services.service import service_entry
from proxymode_agent.services.slices import slice_entry, slice_service

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxymode_agent.kube.objects import EndpointSlice, ObjectKey, Service
    from proxymode_agent.services.model import HealthCheck, ServicePort, ServicePortName
    from proxymode_agent.services.service import ServiceEntry
    from proxymode_agent.services.slices import SliceEntry

K = TypeVar("K")
V = TypeVar("V")

_TOLD: Final = 5
"""So many of an object's problems are told in words, the rest by their number."""


class Problem(NamedTuple):
    """What in an object cannot be used and was left out, in one text."""

    kind: str
    key: ObjectKey
    text: str


class NoneHere(NamedTuple):
    """How many Service ports drop what comes to them by traffic policy Local: others have endpoints, not this node."""

    internal: int = 0
    external: int = 0


_ALL_SERVED: Final = NoneHere()


class Update(NamedTuple):
    """The state now; `changed` are the ports that differ from the state of the last update, removed ones included;
    `health_checks` what load balancers are to be told; `problems` what was newly found unusable since then."""

    state: ServiceState
    changed: frozenset[ServicePortName]
    health_checks: Mapping[ServiceName, HealthCheck]
    problems: tuple[Problem, ...]
    none_here: NoneHere


class ServiceTracker:
    """Holds what is known of Services and EndpointSlices, as seen from the node called `node_name`; with an empty name
    no endpoint is this node's. Not thread-safe; what `take` returns is never changed."""

    def __init__(self, node_name: str = "") -> None:
        self._node_name = node_name or None
        self._zone = ""
        self._services: dict[ObjectKey, ServiceEntry] = {}
        self._slices: dict[ObjectKey, dict[str, SliceEntry]] = {}  # Service -> slice name -> entry
        self._owners: dict[ObjectKey, ObjectKey] = {}  # slice -> Service
        self._ports: dict[ObjectKey, tuple[ServicePort, ...]] = {}
        self._dirty: dict[ObjectKey, None] = {}  # in the order in which they came, as they lie in memory
        self._all_ports: dict[ServicePortName, ServicePort] = {}
        self._state = ServiceState(self._all_ports)
        self._health_checks: dict[ServiceName, HealthCheck] = {}
        self._none_here = NoneHere()
        self._untold: dict[tuple[str, ObjectKey], tuple[str, ...]] = {}  # of `_told`, what `take` has not returned
        self._told: dict[tuple[str, ObjectKey], tuple[str, ...]] = {}

    @property
    def dirty(self) -> bool:
        """Whether `take` may return something new."""
        return bool(self._dirty or self._untold)

    def set_zone(self, zone: str) -> None:
        """The node is in this zone; empty: in none. Services that are spread by zone are looked at again."""
        if zone == self._zone:
            return
        self._zone = zone
        zoned = (one for one, entries in self._slices.items() if any(entry.zoned for entry in entries.values()))
        self._dirty.update(dict.fromkeys(zoned))

    def set_service(self, key: ObjectKey, service: Service) -> None:
        """The Service was created or changed."""
        entry, problems = service_entry(service)
        self._note("Service", key, problems)
        if entry is None:
            self._forget_service(key)
        elif self._services.get(key) != entry:
            self._services[key] = entry
            self._dirty[key] = None

    def drop_service(self, key: ObjectKey) -> None:
        """The Service is gone."""
        self._note("Service", key, ())
        self._forget_service(key)

    def set_slice(self, key: ObjectKey, endpoint_slice: EndpointSlice) -> None:
        """The EndpointSlice was created or changed."""
        owner = slice_service(key, endpoint_slice)
        entry, problems = slice_entry(endpoint_slice, self._node_name)
        self._note("EndpointSlice", key, problems)
        if self._owners.get(key) != owner or entry is None:
            self._forget_slice(key)
        if owner is None or entry is None:
            return
        siblings = self._slices.setdefault(owner, {})
        if siblings.get(key.name) != entry:
            siblings[key.name] = entry
            self._owners[key] = owner
            self._dirty[owner] = None

    def drop_slice(self, key: ObjectKey) -> None:
        """The EndpointSlice is gone."""
        self._note("EndpointSlice", key, ())
        self._forget_slice(key)

    def take(self) -> Update:
        """The state as of all objects seen so far, and what is new in it since the last call."""
        replaced: dict[ServicePortName, ServicePort | None] = {}
        checks: dict[ServiceName, HealthCheck | None] = {}
        for key in self._dirty:
            before = self._ports.pop(key, ())
            service = self._services.get(key)
            slices = self._slices.get(key, {}).values()
            ports = () if service is None else service_ports(key, service, slices, self._zone)
            if ports:
                self._ports[key] = ports
            if ports != before:
                old = {port.name: port for port in before}
                for port in ports:
                    name = port.name
                    if not old or old.pop(name, None) != port:
                        replaced[name] = port
                replaced.update(dict.fromkeys(old))
                more, less = _none_here(ports), _none_here(before)
                if more is not less:
                    now = self._none_here
                    self._none_here = NoneHere(
                        now.internal + more.internal - less.internal, now.external + more.external - less.external
                    )
            check = None if service is None else health_check(service, slices)
            if check is not None or self._health_checks:
                service_name = ServiceName(*key)
                if check != self._health_checks.get(service_name):
                    checks[service_name] = check
        self._dirty.clear()
        problems = tuple(_problem(kind, key, texts) for (kind, key), texts in self._untold.items())
        self._untold.clear()
        if replaced:
            self._all_ports = _updated(self._all_ports, replaced)
            self._state = ServiceState(self._all_ports)
        if checks:
            self._health_checks = _updated(self._health_checks, checks)
        return Update(self._state, frozenset(replaced), self._health_checks, problems, self._none_here)

    def _forget_service(self, key: ObjectKey) -> None:
        if self._services.pop(key, None) is not None:
            self._dirty[key] = None

    def _forget_slice(self, key: ObjectKey) -> None:
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        siblings = self._slices[owner]
        del siblings[key.name]
        if not siblings:
            del self._slices[owner]
        self._dirty[owner] = None

    def _note(self, kind: str, key: ObjectKey, problems: tuple[str, ...]) -> None:
        """Keep what is new of an object's problems; the object is told of each once, until it is rid of it."""
        if not problems:
            if self._told:
                self._told.pop((kind, key), None)
                self._untold.pop((kind, key), None)
            return
        told, untold = self._told.get((kind, key), ()), self._untold.pop((kind, key), ())
        self._told[kind, key] = problems
        new = tuple(dict.fromkeys(text for text in problems if text not in told or text in untold))
        if new:
            self._untold[kind, key] = new


def _problem(kind: str, key: ObjectKey, texts: tuple[str, ...]) -> Problem:
    more = f"; and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return Problem(kind, key, "; ".join(texts[:_TOLD]) + more)


def _none_here(ports: Iterable[ServicePort]) -> NoneHere:
    internal = external = 0
    for port in ports:
        if (port.internal_local or port.external_local) and not port.local_endpoints and port.has_endpoints:
            internal += port.internal_local
            external += port.external_local
    return NoneHere(internal, external) if internal or external else _ALL_SERVED


def _updated(whole: dict[K, V], part: Mapping[K, V | None]) -> dict[K, V]:
    """A copy with the values in `part` put in, and without the keys that have None there."""
    copy = whole.copy()  # not dict(whole), which takes twenty times as long once something was deleted
    copy.update({key: value for key, value in part.items() if value is not None})
    for key in [key for key, value in part.items() if value is None]:
        del copy[key]
    return copy
