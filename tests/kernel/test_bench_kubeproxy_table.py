"""The benchmark's look into kube-proxy's table, with tables of both shapes that kube-proxy has had."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernel

SCRIPT = """
import subprocess
from proxymode_benchmarks.sync import cases, kernel, ruleset
from proxymode_benchmarks.sync.kubeproxy import KubeProxyEndpoints

def load(*lines):
    subprocess.run(["nft", "-f", "-"], input="\\n".join(lines).encode() + b"\\n", check=True)

case = cases.Case(3, 2)
kernel.own_namespace()
table = KubeProxyEndpoints()
assert not table.holds(1, 0, case.targets(1)[0]), "nothing is there yet"
load(*ruleset.whole(case))
for service in range(3):
    for address in case.targets(service):
        assert table.index(service, address, 2) == 0
    assert not table.holds(service, 0, case.targets((service + 1) % 3)[0]), "an endpoint of another Service"
load(*ruleset.service_chain(1, ("10.200.0.1", case.targets(1)[1])))
assert table.holds(1, 0, "10.200.0.1") and table.holds(1, 0, case.targets(1)[1])
assert not table.holds(1, 0, case.targets(1)[0]), "it was replaced"

chain = "ip kube-proxy endpoint-ABCDEFGH-bench-1/service-1/tcp/http__10.200.0.7/8080"
own = [line for line in ruleset.service_chain(1, ("10.200.0.7",)) if line.startswith(("add chain", "flush"))]
name = own[0].removeprefix("add chain ")
load(f"add chain {chain}", *own, f"add rule {name} numgen random mod 1 vmap {{ 0 : goto {chain.split()[2]} }}")
assert table.holds(1, 0, "10.200.0.7")
assert not table.holds(1, 0, "10.200.0.1") and not table.holds(1, 0, "0.200.0.7")
table.close()
print("looked up")
"""


def test_endpoints_are_found_in_a_map_and_in_chains_of_their_own() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("looked up\n", "")
