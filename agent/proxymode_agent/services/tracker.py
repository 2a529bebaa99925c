"""The cluster's Services as they change: objects in, ServiceState and the names of changed ports out.

Cost is proportional to the change: an object that arrives is reduced to its entry, its Service is marked, and `take`
joins the marked Services only. Objects may come in any order, EndpointSlices before their Service too; the result is
that of a fresh build from the final objects. What it holds is compact (a packed address an endpoint in a slice), since
a cluster may have 500,000 of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.services.build import (
    ServiceEntry,
    SliceEntry,
    service_entry,
    service_ports,
    slice_entry,
    slice_service,
)
from proxymode_agent.services.model import ServiceState

if TYPE_CHECKING:
    from proxymode_agent.kube.objects import EndpointSlice, ObjectKey, Service
    from proxymode_agent.services.model import ServicePort, ServicePortName


class Problem(NamedTuple):
    """Something in an object that cannot be used and was left out."""

    kind: str
    key: ObjectKey
    text: str


class Update(NamedTuple):
    """The state now; `changed` are the ports that differ from the state of the last update, removed ones included;
    `problems` what was newly found unusable since then."""

    state: ServiceState
    changed: frozenset[ServicePortName]
    problems: tuple[Problem, ...]


class ServiceTracker:
    """Holds what is known of Services and EndpointSlices. Not thread-safe; what `take` returns is never changed."""

    def __init__(self) -> None:
        self._services: dict[ObjectKey, ServiceEntry] = {}
        self._slices: dict[ObjectKey, dict[str, SliceEntry]] = {}  # Service -> slice name -> entry
        self._owners: dict[ObjectKey, ObjectKey] = {}  # slice -> Service
        self._ports: dict[ObjectKey, tuple[ServicePort, ...]] = {}
        self._dirty: set[ObjectKey] = set()
        self._problems: list[Problem] = []
        self._state = ServiceState()

    @property
    def dirty(self) -> bool:
        """Whether `take` may return something new."""
        return bool(self._dirty or self._problems)

    def set_service(self, key: ObjectKey, service: Service) -> None:
        """The Service was created or changed."""
        entry, problems = service_entry(service)
        self._note("Service", key, problems)
        if entry is None:
            self.drop_service(key)
        elif self._services.get(key) != entry:
            self._services[key] = entry
            self._dirty.add(key)

    def drop_service(self, key: ObjectKey) -> None:
        """The Service is gone."""
        if self._services.pop(key, None) is not None:
            self._dirty.add(key)

    def set_slice(self, key: ObjectKey, endpoint_slice: EndpointSlice) -> None:
        """The EndpointSlice was created or changed."""
        owner = slice_service(key, endpoint_slice)
        entry, problems = slice_entry(endpoint_slice)
        self._note("EndpointSlice", key, problems)
        if self._owners.get(key) != owner or entry is None:
            self.drop_slice(key)
        if owner is None or entry is None:
            return
        siblings = self._slices.setdefault(owner, {})
        if siblings.get(key.name) != entry:
            siblings[key.name] = entry
            self._owners[key] = owner
            self._dirty.add(owner)

    def drop_slice(self, key: ObjectKey) -> None:
        """The EndpointSlice is gone."""
        owner = self._owners.pop(key, None)
        if owner is None:
            return
        siblings = self._slices[owner]
        del siblings[key.name]
        if not siblings:
            del self._slices[owner]
        self._dirty.add(owner)

    def take(self) -> Update:
        """The state as of all objects seen so far, and what is new in it since the last call."""
        replaced: dict[ServicePortName, ServicePort | None] = {}
        for key in self._dirty:
            old = {port.name: port for port in self._ports.pop(key, ())}
            service = self._services.get(key)
            ports = service_ports(key, service, self._slices.get(key, {}).values()) if service is not None else ()
            if ports:
                self._ports[key] = ports
            new = {port.name: port for port in ports}
            replaced |= dict.fromkeys(old.keys() - new.keys())
            replaced |= {name: port for name, port in new.items() if old.get(name) != port}
        self._dirty.clear()
        problems, self._problems = tuple(self._problems), []
        if replaced:
            state = dict(self._state.ports)
            for name, port in replaced.items():
                if port is None:
                    del state[name]
                else:
                    state[name] = port
            self._state = ServiceState(state)
        return Update(self._state, frozenset(replaced), problems)

    def _note(self, kind: str, key: ObjectKey, problems: tuple[str, ...]) -> None:
        self._problems.extend(Problem(kind, key, text) for text in problems)
