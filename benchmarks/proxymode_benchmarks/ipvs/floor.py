"""The tools that load the same set: `ipvsadm -R` and `ip -batch`, in a network namespace of our own."""

from __future__ import annotations

import resource
import subprocess
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_benchmarks import namespace
from proxymode_benchmarks.ipvs.figures import Floor
from proxymode_benchmarks.sync.cases import CLIENT_ADDRESS, PORT, TARGET_PORT, cluster_ip

if TYPE_CHECKING:
    from proxymode_benchmarks.sync.cases import Case

NODE_ADDRESS: Final = CLIENT_ADDRESS
DUMMY: Final = "dummy"
_DEVICE: Final = "kube-ipvs0"


class Cost(NamedTuple):
    """Seconds that something took: on the wall, and of CPU time."""

    wall: float
    user: float
    system: float


def own_namespace(kind: str = DUMMY) -> None:
    """Move this process, which must have no second thread yet, into a new network namespace that ends with it: a node
    with one address, on which everything in 10.0.0.0/8 is reached by one device, of this kind."""
    namespace.enter_new()
    node = [f"link add node0 type {kind}", f"address add {NODE_ADDRESS}/8 dev node0", "link set node0 up"]
    batch(["link set lo up", *node])


def load(case: Case) -> Floor:
    """Load a case over an empty kernel, and leave one."""
    rules = [
        line
        for service in range(case.services)
        for line in (
            f"-A -t {cluster_ip(service)}:{PORT} -s rr",
            *(
                f"-a -t {cluster_ip(service)}:{PORT} -r {target}:{TARGET_PORT} -m -w 1"
                for target in case.targets(service)
            ),
        )
    ]
    ipvsadm = _run(["ipvsadm", "-R"], rules)
    subprocess.run(["ipvsadm", "-C"], check=True)
    ip = bind(case.services)
    return Floor(ipvsadm.wall, ip.wall, ipvsadm.user + ip.user, ipvsadm.system + ip.system)


def bind(count: int, kind: str = DUMMY) -> Cost:
    """Put so many addresses on a new device, which goes again."""
    addresses = [f"address add {cluster_ip(service)}/32 dev {_DEVICE}" for service in range(count)]
    cost = batch([f"link add {_DEVICE} type {kind}", *addresses])
    batch([f"link del {_DEVICE}"])
    return cost


def batch(lines: list[str]) -> Cost:
    """Let `ip` do these. Raises CalledProcessError."""
    return _run(["ip", "-batch", "-"], lines)


def _run(command: list[str], lines: list[str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
