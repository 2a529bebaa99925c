"""Tests on the running kernel, whichever it is: the host's, or Debian's inside the VM. Root and nf_tables needed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from proxymode_testbeds.fixtures import node_fleet, one_node, traffic, two_nodes

__all__ = ["node_fleet", "one_node", "traffic", "two_nodes"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session", autouse=True)
def _kernel_is_usable() -> None:
    if os.geteuid() != 0:
        pytest.fail("tests/kernel make network namespaces: run them as root", pytrace=False)
    probe = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.fail(f"tests/kernel need nf_tables in this kernel; nft says: {probe.stderr.strip()}", pytrace=False)
