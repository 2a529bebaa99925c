"""The tools that load the same set: `ipvsadm -R` and `ip -batch`, in a network namespace of our own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from typing import TYPE_CHECKING, Final

from proxymode_benchmarks.ipvs.figures import Floor
from proxymode_benchmarks.sync.cases import CLIENT_ADDRESS, PORT, TARGET_PORT, cluster_ip

if TYPE_CHECKING:
    from proxymode_benchmarks.sync.cases import Case

NODE_ADDRESS: Final = CLIENT_ADDRESS
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_DEVICE: Final = "kube-ipvs0"


def own_namespace() -> None:
    """Move this process, which must have no second thread yet, into a new network namespace that ends with it: a node
    with one address, on which everything in 10.0.0.0/8 is reached by one device."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "unshare(CLONE_NEWNET); root is needed")
    _batch(
        ["link set lo up", "link add node0 type dummy", f"address add {NODE_ADDRESS}/8 dev node0", "link set node0 up"]
    )


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
    began = time.monotonic()
    subprocess.run(["ipvsadm", "-R"], input="\n".join(rules) + "\n", text=True, check=True)
    ipvsadm_s = time.monotonic() - began
    subprocess.run(["ipvsadm", "-C"], check=True)
    return Floor(ipvsadm_s, bind(case.services))


def bind(count: int) -> float:
    """Seconds to put so many addresses on a new device, which goes again."""
    lines = [
        f"link add {_DEVICE} type dummy",
        *(f"address add {cluster_ip(service)}/32 dev {_DEVICE}" for service in range(count)),
    ]
    began = time.monotonic()
    _batch(lines)
    seconds = time.monotonic() - began
    _batch([f"link del {_DEVICE}"])
    return seconds


def _batch(lines: list[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
