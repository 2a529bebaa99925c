"""Packet tables on the running kernel: root and nf_tables needed. One network serves all cases, one after the other.

`--dataplane ipvs` drives the same table through the other mode, where the kernel has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from packet_cases import FACTORIES, cases
from packet_network import MACHINES, PODS, network
from packet_wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packet_node import DataplaneFactory
    from packet_table import Case
    from proxymode_testbeds.topology import Topology

HERE = Path(__file__).parent
POD_PORTS = (8080, 8443, 9090)
NODE_PORTS = (8080, 30080, 30081, 30082)
BALANCER_PORTS = (80, 8080)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dataplane", choices=sorted(FACTORIES), default="nftables", help="mode to drive the tables by")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        table = cases(metafunc.config.getoption("--dataplane", "nftables"))
        metafunc.parametrize("case", table, ids=[case.title for case in table])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> tuple[Case, ...]:
    """All cases at once."""
    return cases(request.config.getoption("--dataplane", "nftables"))


@pytest.fixture(scope="session")
def factory(request: pytest.FixtureRequest) -> DataplaneFactory:
    return FACTORIES[request.config.getoption("--dataplane", "nftables")]


@pytest.fixture(scope="session")
def topology() -> Iterator[Topology]:
    with network() as made:
        yield made


@pytest.fixture(scope="session")
def wire(topology: Topology) -> Iterator[Wire]:
    made = Wire(topology)
    made.serve({name: of_fleet for name, of_fleet in PODS.items() if name != "pod"}, POD_PORTS)
    made.serve({"node": MACHINES["node"]}, NODE_PORTS)
    made.serve({"balancer": MACHINES["balancer"]}, BALANCER_PORTS)
    yield made
    made.close()
