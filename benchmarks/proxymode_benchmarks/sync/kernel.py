"""A network namespace of our own, and the endpoints that the agent has put into its kernel.

Elements are looked up one by one, by key: that takes microseconds, where a dump of the map takes a second. Only for the
agent's layout; what kube-proxy's ruleset holds is known when `nft -f` returns.
"""

from __future__ import annotations

import socket
import subprocess

from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.dataplane.nfnetlink.uapi import DataAttr
from proxymode_agent.dataplane.nftables.dataplane import NftablesDataplane
from proxymode_agent.dataplane.nftables.elements import indices, service_key
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_benchmarks import namespace
from proxymode_benchmarks.sync.cases import CLIENT_ADDRESS, PORT, PROBE_ADDRESS, TARGET_PORT, cluster_ip
from proxymode_benchmarks.sync.netlink import NfTables


def own_namespace() -> None:
    """Move this process, which must have no second thread yet, into a new network namespace that ends with it.

    All of 10.0.0.0/8 is reached by its loopback interface, so that a connect() to a cluster IP has a route.
    """
    namespace.enter_new()
    addresses = [f"address add {address}/32 dev lo" for address in (PROBE_ADDRESS, CLIENT_ADDRESS)]
    for command in ("link set lo up", *addresses, "route add 10.0.0.0/8 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)


def load_modules() -> None:
    """Have the kernel load what a proxy's first table on this machine makes it load: it does so one module after
    another, and begins the transaction anew with each. In the emulated VM that takes ten seconds and more."""
    name = ServicePortName("bench", "first", "", Protocol.TCP, Family.IPV4)
    port = ServicePort(
        name,
        Frontend(socket.inet_aton(cluster_ip(0)), Protocol.TCP, PORT),
        (Endpoint(socket.inet_aton(PROBE_ADDRESS), TARGET_PORT),),
    )
    dataplane = NftablesDataplane(DataplaneConfig())
    dataplane.sync(ServiceState({name: port}))
    dataplane.remove()
    dataplane.close()


def generation() -> int:
    """Changes with every transaction that anybody makes in this namespace."""
    with Connection() as kernel:
        return kernel.generation()


class EndpointMap:
    """The agent's map of endpoints, as the kernel has it; see `proxy.Endpoints`."""

    def __init__(self) -> None:
        endpoints = layout(Family.IPV4, DataplaneConfig(), "benchmark").services.endpoints
        self._name = endpoints.name
        self._tables = NfTables(endpoints.table.name)

    def close(self) -> None:
        self._tables.close()

    def index(self, service: int, address: str, count: int) -> int:
        """The index that one of a Service's `count` endpoints has. Raises LookupError: it is not there."""
        for index in range(count):
            if self.holds(service, index, address):
                return index
        raise LookupError(f"no endpoint {address} of Service {service} ({cluster_ip(service)}) in the kernel")

    def holds(self, service: int, index: int, address: str) -> bool:
        """Whether this is the endpoint with this index. Raises OSError."""
        frontend = Frontend(socket.inet_aton(cluster_ip(service)), Protocol.TCP, PORT)
        wanted = Endpoint(socket.inet_aton(address), TARGET_PORT)
        data = self._tables.element(self._name, service_key(frontend) + indices(index + 1)[index])
        return data is not None and bytes(data[DataAttr.VALUE]) == wanted
