"""Tests that need ip_vs and dummy devices, hence Debian's kernel: they run inside the VM, and refuse elsewhere."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from proxymode_testbeds.fixtures import node_fleet, one_node, traffic, two_nodes
from service_node import service_node
from switch_load import idle, node

__all__ = ["idle", "node", "node_fleet", "one_node", "service_node", "traffic", "two_nodes"]

HERE = Path(__file__).parent
MODULES = ("ip_vs", "dummy", "nf_tables")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--round-trips", type=int, default=2, help="of the switch under load (default: 2)")
    parser.addoption(
        "--half-done", type=int, default=1, help="seconds that a killed switch stays half-done (default: 1)"
    )


@pytest.fixture
def round_trips(request: pytest.FixtureRequest) -> int:
    """How often a test goes from ipvs to nftables and back."""
    return int(request.config.getoption("--round-trips"))


@pytest.fixture
def half_done(request: pytest.FixtureRequest) -> int:
    """Seconds between a killed switch and the agent that finishes it."""
    return int(request.config.getoption("--half-done"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session", autouse=True)
def _kernel_has_ip_vs() -> None:
    for module in MODULES:
        probe = subprocess.run(["modprobe", module], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            pytest.fail(
                f"tests/vm need the kernel module {module}, which {platform.release()} lacks"
                f" ({probe.stderr.strip()}); run them in the guest:"
                " python -m proxymode_testbeds.vm run -- .venv/bin/pytest tests/vm",
                pytrace=False,
            )
