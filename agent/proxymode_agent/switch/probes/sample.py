"""Pure: which frontends are tried, and what the answers mean.

Of each kind of frontend and address family a few Service ports are tried, spread over all of them, over TCP: a datagram
tells nothing unless one speaks the application's protocol. An application may be down at any time, so a frontend has
failed only if it answered before, does not now, and one of its endpoints answers when it is asked directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from proxymode_agent.services.model import Endpoint, Protocol
from proxymode_agent.switch.record import Probes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from proxymode_agent.services.model import DataplaneConfig, ServicePort, ServiceState

PER_KIND: Final = 4
"""Frontends of one kind and address family that are tried: at most 32 in all."""
ENDPOINTS_ASKED: Final = 4
_FAILED_SHOWN: Final = 8


class Target(NamedTuple):
    """Whom to connect to: a packed address and a TCP port."""

    address: bytes
    port: int

    def __str__(self) -> str:
        return str(Endpoint(*self))


class Probe(msgspec.Struct, frozen=True):
    """One frontend; `kind` is a value of FrontendKind, `endpoints` some of those that it should lead to."""

    kind: str
    service: str
    target: Target
    endpoints: tuple[Target, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.target} of {self.service}"


def sample(state: ServiceState, config: DataplaneConfig) -> tuple[Probe, ...]:
    """The frontends to try, always the same for the same Services."""
    kinds: dict[tuple[str, int], list[Probe]] = {}
    for name in sorted(state.ports):
        if name.protocol is Protocol.TCP:
            for probe in _of_port(state.ports[name], config):
                kinds.setdefault((probe.kind, name.family), []).append(probe)
    return tuple(probe for probes in kinds.values() for probe in _spread(probes))


def judge(
    probes: Iterable[Probe], before: Collection[Target], after: Collection[Target], direct: frozenset[Target]
) -> tuple[Probes, ...]:
    """Kind by kind what answered; `direct`: endpoints that answer by their own address."""
    kinds: dict[str, list[Probe]] = {}
    for probe in probes:
        kinds.setdefault(probe.kind, []).append(probe)
    return tuple(
        Probes(
            kind=kind,
            probed=len(tried),
            before=sum(probe.target in before for probe in tried),
            after=sum(probe.target in before and probe.target in after for probe in tried),
            failed=tuple(
                str(probe)
                for probe in tried
                if probe.target in before and probe.target not in after and not direct.isdisjoint(probe.endpoints)
            )[:_FAILED_SHOWN],
        )
        for kind, tried in kinds.items()
    )


def failure(found: Iterable[Probes]) -> str:
    """What is wrong, in a sentence; empty: nothing is."""
    failed = [name for probes in found for name in probes.failed]
    if not failed:
        return ""
    shown = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
    return f"answered before and does not any more, although its endpoints do: {shown}"


def _of_port(port: ServicePort, config: DataplaneConfig) -> Iterator[Probe]:
    service = str(port.name)
    inside = _asked(port.endpoints)
    if inside:
        yield Probe("ClusterIP", service, Target(port.cluster_ip.address, port.cluster_ip.port), inside)
    outside = _asked(port.cluster_endpoints or port.local_endpoints)
    if not outside:
        return
    for kind, addresses in (("ExternalIP", port.external_ips), ("LoadBalancerIP", port.load_balancer_ips)):
        for address in addresses:
            yield Probe(kind, service, Target(address, port.cluster_ip.port), outside)
    own = next((address for address in config.node_ips if len(address) == port.name.family), None)
    if port.node_port is not None and own is not None:
        yield Probe("NodePort", service, Target(own, port.node_port), outside)


def _asked(endpoints: Sequence[Endpoint]) -> tuple[Target, ...]:
    return tuple(Target(endpoint.address, endpoint.port) for endpoint in endpoints[:ENDPOINTS_ASKED])


def _spread(probes: list[Probe]) -> list[Probe]:
    """At most PER_KIND, from the first to the last."""
    if len(probes) <= PER_KIND:
        return probes
    return [probes[index * (len(probes) - 1) // (PER_KIND - 1)] for index in range(PER_KIND)]
