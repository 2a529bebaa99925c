"""Counters, gauges and histograms that the agent keeps, and Prometheus' client library writes out when it is asked.

That library takes as long to import as asyncio, and a lock for every step; so it comes with the first scrape, and a
step is an addition. Values are changed on the event loop's thread only, which is where scrapes are answered, too. The
exposition itself, and what is told of the process, is the library's.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

V = TypeVar("V")


class Count:
    """What only grows."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        self.value += by


class Level:
    """What goes up and down."""

    __slots__ = ("_read", "_value")
    kind = "gauge"

    def __init__(self) -> None:
        self._value = 0.0
        self._read: Callable[[], float] | None = None

    @property
    def value(self) -> float:
        return self._value if self._read is None else self._read()

    def set(self, value: float) -> None:
        self._value = value

    def set_to_current_time(self) -> None:
        """Unix time."""
        self._value = time.time()

    def set_function(self, read: Callable[[], float]) -> None:
        """From now on it is what this returns."""
        self._read = read


class Distribution:
    """How many of what was observed are in each bucket; `bounds`: their upper ends, ascending, that of all left out."""

    __slots__ = ("_bounds", "_counts", "_sum")
    kind = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def value(self) -> tuple[list[tuple[float, int]], float]:
        """Upper ends with how many observations are not above them, infinity as the last; and the sum of all."""
        total = 0
        buckets = []
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets, self._sum


class By(Generic[V]):
    """One such value for each combination of label values that has occurred."""

    def __init__(self, names: Sequence[str], make: Callable[[], V]) -> None:
        self._names = names
        self._make = make
        self.values: dict[tuple[str, ...], V] = {}

    def labels(self, *values: str) -> V:
        """The value of this combination; values in the order of the labels' names."""
        found = self.values.get(values)
        if found is None:
            if len(values) != len(self._names):
                raise ValueError(f"labels {values} must be one for each of {', '.join(self._names)}")
            found = self.values[values] = self._make()
        return found

    def clear(self) -> None:
        """As if nothing had occurred yet."""
        self.values.clear()


class Instrument(NamedTuple):
    """A metric's name as a query has it, its kind as Prometheus calls it, what it means, its labels and its values."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    values: By[Count] | By[Level] | By[Distribution]


class Instruments:
    """All of a process. Those without labels are there from the start, with 0."""

    def __init__(self) -> None:
        self.all: list[Instrument] = []

    def counter(self, name: str, text: str) -> Count:
        return self.counters(name, text, ()).labels()

    def counters(self, name: str, text: str, labels: tuple[str, ...]) -> By[Count]:
        made = By(labels, Count)
        self.all.append(Instrument(name, Count.kind, text, labels, made))
        return made

    def gauge(self, name: str, text: str) -> Level:
        return self.gauges(name, text, ()).labels()

    def gauges(self, name: str, text: str, labels: tuple[str, ...]) -> By[Level]:
        made = By(labels, Level)
        self.all.append(Instrument(name, Level.kind, text, labels, made))
        return made

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Distribution:
        return self.histograms(name, text, (), bounds).labels()

    def histograms(self, name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float]) -> By[Distribution]:
        made = By(labels, lambda: Distribution(bounds))
        self.all.append(Instrument(name, Distribution.kind, text, labels, made))
        return made

    @cached_property
    def registry(self) -> CollectorRegistry:
        """For the client library: these, and what is known of the process."""
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        return registry

    def collect(self) -> Iterable[Metric]:
        """What the client library asks for at each scrape."""
        return map(_family, self.all)

    def describe(self) -> Iterator[Metric]:
        """What the client library asks for once: the names."""
        return (_family(one._replace(values=By((), Count))) for one in self.all)


def _family(one: Instrument) -> Metric:
    from prometheus_client import metrics_core

    if one.kind == Distribution.kind:
        histogram = metrics_core.HistogramMetricFamily(one.name, one.text, labels=one.labels)
        for labels, value in one.values.values.items():
            if isinstance(value, Distribution):
                buckets, total = value.value
                histogram.add_metric(labels, [(_text(bound), count) for bound, count in buckets], total)
        return histogram
    family = metrics_core.CounterMetricFamily if one.kind == Count.kind else metrics_core.GaugeMetricFamily
    found = family(one.name, one.text, labels=one.labels)
    for labels, value in one.values.values.items():
        if isinstance(value, Count | Level):
            found.add_metric(labels, value.value)
    return found


def _text(bound: float) -> str:
    return "+Inf" if bound == math.inf else str(bound)
