"""Bulk loads go in small transactions.

While anybody on the machine listens to nf_tables events, the kernel keeps about 8 KB for each element of a transaction
until it ends; 4 million elements in one took 23 GB. At most 64 KB of messages at a time bounds that to some 32 MB,
whether or not somebody listens.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from nftables_bed import dataplane, namespace, node_config, service
from proxymode_agent.dataplane.nfnetlink import Transaction
from proxymode_agent.services.model import ServicePort, ServicePortName, ServiceState

if TYPE_CHECKING:
    import pytest

    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

LIMIT = 64 << 10
HEADERS = 8 << 10  # netlink headers of the commands in it
OBJECTS = 4096  # of 8 KB each
SERVICES, ENDPOINTS = 500, 50


def ports(generation: int) -> dict[ServicePortName, ServicePort]:
    made = {}
    for number in range(SERVICES):
        pods = [(f"10.{128 + generation}.{number // 4}.{(number % 4) * 60 + pod}", 8080) for pod in range(ENDPOINTS)]
        port = service(
            f"s{number}", str(ipaddress.ip_address("10.96.1.0") + number), 80, pods, node_port=30000 + number
        )
        made[port.name] = msgspec.structs.replace(
            port,
            external_ips=(ipaddress.ip_address(f"198.51.{number // 250}.{number % 250}").packed,),
            affinity_seconds=60 if number % 2 else None,
            hairpin=tuple(endpoint.address for endpoint in port.cluster_endpoints[:2]),
        )
    return made


def test_no_transaction_of_a_bulk_load_is_larger_than_64_kilobytes(
    namespace: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    objects: list[int] = []
    encode = Transaction.encode

    def recorded(transaction: Transaction) -> bytes:
        encoded = encode(transaction)
        sizes.append(len(encoded))
        objects.append(transaction.objects)
        return encoded

    monkeypatch.setattr(Transaction, "encode", recorded)
    before, after = ports(0), ports(1)
    with dataplane(namespace, node_config(namespace)) as made:
        for what, state, changed in (
            ("load", before, None),
            ("replace", after, frozenset(after)),
            ("back", before, None),
            ("empty", {}, None),
        ):
            sizes.clear()
            objects.clear()
            made.sync(ServiceState(state), changed)
            assert len(sizes) > 20, f"{what}: a bulk load is many transactions"
            assert max(sizes) <= LIMIT + HEADERS, f"{what}: {sorted(sizes)[-3:]}"
            assert max(objects) <= OBJECTS, f"{what}: {sorted(objects)[-3:]}"
            assert sum(objects) >= SERVICES * ENDPOINTS, f"{what}: all of it was recorded"
