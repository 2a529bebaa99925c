"""What the engine has heard of Services and EndpointSlices, and what of it still waits to be written.

Collects, counts and tells problems on; when something is written, and what comes of it, is the engine's business.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxymode_agent.engine import told
from proxymode_agent.engine.programming import Programming
from proxymode_agent.kube.listwatch import Changed, Deleted, Synced
from proxymode_agent.services.tracker import ServiceTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxymode_agent.kube.objects import EndpointSlice, Service
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import HealthCheck, ServiceName, ServicePortName, ServiceState
    from proxymode_agent.services.tracker import Problem


class Inbox:
    """`woken` is called when there is something to `take` for the first time since the last one, and with every list.
    Times are those of `clock`, monotonic seconds."""

    def __init__(
        self,
        node_name: str,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        woken: Callable[[], None],
        on_problem: Callable[[Problem], None],
    ) -> None:
        self._tracker = ServiceTracker(node_name)
        self._metrics = metrics
        self._clock = clock
        self._woken = woken
        self._on_problem = on_problem
        self._services_listed = self._slices_listed = False
        self._announced = False  # whoever is woken knows that there is something to take
        self._programming = Programming(datetime.now(UTC))
        self.changed: set[ServicePortName] = set()
        """Ports that differ, as of the last `take`, from what was written last."""
        self.health_checks: Mapping[ServiceName, HealthCheck] = {}
        """As of the last `take`."""
        self.waiting_since: float | None = None
        """Since when something waits to be written; None: nothing does."""

    @property
    def complete(self) -> bool:
        """Whether all Services and EndpointSlices are known."""
        return self._services_listed and self._slices_listed

    @property
    def pending(self) -> bool:
        """Whether there may be something to write."""
        return bool(self.changed) or self._tracker.dirty

    def on_service(self, *events: Changed[Service] | Deleted | Synced) -> None:
        """Services changed, or all of them are known now."""
        changes, listed = 0, False
        for event in events:
            match event:
                case Changed(key, service):
                    self._tracker.set_service(key, service)
                    changes += 1
                case Deleted(key):
                    self._tracker.drop_service(key)
                    changes += 1
                case Synced():
                    self._services_listed = listed = True
        self._metrics.kube_proxy.service_changes.inc(changes)
        self._fed(listed=listed)

    def on_slice(self, *events: Changed[EndpointSlice] | Deleted | Synced) -> None:
        """EndpointSlices changed, or all of them are known now."""
        changes, listed = 0, False
        for event in events:
            match event:
                case Changed(key, endpoint_slice):
                    self._tracker.set_slice(key, endpoint_slice)
                    changes += 1
                    if (notes := endpoint_slice.metadata.annotations) is not None and self._tracker.dirty:
                        self._programming.changed(notes.last_change_trigger_time)
                case Deleted(key):
                    self._tracker.drop_slice(key)
                    changes += 1
                case Synced():
                    self._slices_listed = listed = True
        self._metrics.kube_proxy.endpoint_changes.inc(changes)
        self._fed(listed=listed)

    def set_zone(self, zone: str) -> None:
        """The node is in this zone; empty: in none."""
        self._tracker.set_zone(zone)
        self._fed()

    def take(self) -> ServiceState:
        """All that is wanted now; what differs from what was written is in `changed` until `written`."""
        self._announced = False
        update = self._tracker.take()
        self._programming.take()
        self.changed |= update.changed
        self.health_checks = update.health_checks
        self._metrics.kube_proxy.none_here(*update.none_here)
        for problem in update.problems:
            self._metrics.object_problems.labels(problem.kind).inc()
            told.unusable(problem)
            self._on_problem(problem)
        return update.state

    def written(self, began: float, now: datetime) -> None:
        """What was taken at `began` is in the kernel at `now`. What has come since waits since then."""
        self.changed.clear()
        self.passed_over(began)
        for latency in self._programming.written(now):
            self._metrics.kube_proxy.programming.observe(latency)

    def passed_over(self, began: float) -> None:
        """What was taken at `began` waits no more; what has come since waits since then."""
        self.waiting_since = began if self._tracker.dirty else None

    def kept_waiting(self, began: float) -> None:
        """What was taken at `began` could not be written."""
        if self.waiting_since is None:
            self.waiting_since = began

    def unwanted(self) -> None:
        """Nothing of it is to be in the kernel: nothing waits."""
        self.waiting_since = None
        self._announced = False
        self._programming.forget()

    def _fed(self, *, listed: bool = False) -> None:
        new = False
        if self._tracker.dirty:
            self._metrics.kube_proxy.queued()
            if self.waiting_since is None:
                self.waiting_since = self._clock()
            new, self._announced = not self._announced, True
        if new or listed:
            self._woken()
