"""For the nftables tests: Services by hand, a fleet that a module's tests share, and what the kernel holds."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.dataplane.nftables import NftablesDataplane
from proxymode_agent.dataplane.nftables.draws import LOCAL_BASE
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.dataplane.nftables.paths import TRAITS
from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    PodNetworks,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_testbeds.fixtures import Traffic
from proxymode_testbeds.topology import Topology, build, make_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

POD_CIDRS = (ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd44::/32"))

Snapshot = dict[str, dict[bytes, bytes]]


def service(
    name: str,
    address: str,
    port: int,
    endpoints: list[tuple[str, int]],
    *,
    protocol: Protocol = Protocol.TCP,
    node_port: int | None = None,
) -> ServicePort:
    """A Service port of policy Cluster as the agent's tracker would make it, any of whose endpoints may be here."""
    packed = ipaddress.ip_address(address).packed
    pods = packed_endpoints(endpoints)
    return ServicePort(
        ServicePortName("default", name, "", protocol, Family(len(packed))),
        Frontend(packed, protocol, port),
        pods,
        node_port,
        hairpin=tuple(sorted({pod.address for pod in pods})),
    )


def packed_endpoints(endpoints: list[tuple[str, int]]) -> tuple[Endpoint, ...]:
    return tuple(sorted(Endpoint(ipaddress.ip_address(one).packed, number) for one, number in endpoints))


def state(*ports: ServicePort) -> ServiceState:
    return ServiceState({port.name: port for port in ports})


def node_config(topology: Topology, node: str = "node1") -> DataplaneConfig:
    """What the agent would resolve for a node of the fleet."""
    addresses = topology.fleet.node(node).addresses
    return DataplaneConfig(pods=PodNetworks(POD_CIDRS), node_ips=tuple(address.packed for address in addresses))


@contextlib.contextmanager
def dataplane(topology: Topology, config: DataplaneConfig, node: str = "node1") -> Iterator[NftablesDataplane]:
    """A dataplane in a node's namespace; what it made stays there, as with an agent that ends."""
    made = topology.call(node, NftablesDataplane, config)
    with contextlib.closing(made):
        yield made


@pytest.fixture(scope="module")
def shared_fleet() -> Iterator[Topology]:
    """node1 and node2 with two pods each and client1, IPv4 and IPv6; a backend in every pod."""
    with build(make_fleet(nodes=2, pods=2, dual_stack=True)) as topology, contextlib.ExitStack() as stack:
        Traffic(stack).serve_all(topology)
        yield topology


@pytest.fixture
def namespace() -> Iterator[Topology]:
    """A node without pods, neighbours or traffic, to look at what is programmed."""
    with build(make_fleet(nodes=1, pods=0, clients=0)) as topology:
        yield topology


def held(topology: Topology, node: str = "node1") -> Snapshot:
    """All of our tables in a node's kernel: elements by set, rules by chain; not the clients' elements."""
    return topology.call(node, _held)


def _held() -> Snapshot:
    found: Snapshot = {}
    with Connection() as kernel:
        for family in TRAITS:
            ours = layout(family, DataplaneConfig(), "any")
            if ours.table.name not in {dumped.table.name for dumped in kernel.tables(ours.table.family)}:
                continue
            found |= {str(of): dict(kernel.elements(of)) for of in ours.sets if of.dynamic is None}
            found |= {str(chain): {} for chain in kernel.chains(ours.table)}
            for rule in kernel.rules(ours.table):
                rules = found[f"chain {ours.table.family} {ours.table.name} {rule.chain}"]
                rules[len(rules).to_bytes(4, "big")] = bytes(rule.expressions)
    return found


def regardless_of_order(snapshot: Snapshot) -> dict[str, object]:
    """A snapshot without what depends on history: which endpoint has which index and id, and chains made ahead of
    need. For each frontend and pool the endpoints, by whatever id."""
    result: dict[str, object] = {}
    for name, content in snapshot.items():
        if name.endswith("endpoints-by-id"):
            result[name] = sorted(content.values())
        elif name.startswith("map") and name.endswith(("endpoints", "sticky-ids")):
            table = name[: name.rindex(" ") + 1] if name.endswith("ids") else None
            by_id = (snapshot[f"{table}{pool}endpoints-by-id"] for pool in ("", "local-") if table)
            ids = {key[-4:]: endpoint for known in by_id for key, endpoint in known.items()}
            rows: dict[tuple[bytes, bool], set[bytes]] = {}
            for key, value in content.items():
                pool = int.from_bytes(key[-4:], sys.byteorder) >= LOCAL_BASE
                rows.setdefault((key[:-4], pool), set()).add(ids.get(value, value))
            result[name] = rows
        elif "one-of-" not in name:
            result[name] = content
    return result
