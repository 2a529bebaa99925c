"""Run by test_daemonset_rights in a namespace with the rights of the agent's container: switch there and back.

Prints one JSON object: what it may do, and what the kernel ran after each switch. Arguments: the state directory.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Final

from proxymode_agent.preflight.checks import run
from proxymode_agent.preflight.facts import collect
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
from proxymode_agent.switch.switcher import Switcher
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import Verdict

IP_FORWARD: Final = "/proc/sys/net/ipv4/ip_forward"


def state() -> ServiceState:
    """One Service with two endpoints; nobody answers there, this is about rights."""
    name = ServicePortName("default", "web", "http", Protocol.TCP, Family.IPV4)
    endpoints = tuple(Endpoint(socket.inet_aton(f"10.244.0.{last}"), 8080) for last in (5, 6))
    frontend = Frontend(socket.inet_aton("10.96.0.10"), Protocol.TCP, 80)
    return ServiceState({name: ServicePort(name, frontend, endpoints)})


def is_writable(path: str) -> bool:
    try:
        Path(path).open("a").close()
    except OSError:
        return False
    return True


def main() -> None:
    status = Path("/proc/self/status").read_text()
    facts, config = collect(), DataplaneConfig()
    blocked = [
        f"{mode}: {result.id}: {result.found}"
        for mode in Mode
        for result in run(mode, facts, config)
        if result.verdict is Verdict.BLOCK
    ]
    switcher = Switcher(config, Path(sys.argv[1]))
    observed = []
    for mode in (Mode.IPVS, Mode.NFTABLES, Mode.IPVS):
        switcher.switch(mode, state(), lambda _: None)
        observed.append(switcher.observe().value)
    for mode in Mode:
        switcher.dataplane(mode).remove()
    observed.append(switcher.observe().value)
    switcher.close()
    found = {
        "capabilities": int(status.split("CapEff:")[1].split()[0], 16),
        "writable": [path for path in (f"{sys.argv[1]}/probe", "/probe", IP_FORWARD) if is_writable(path)],
        "blocked": blocked,
        "observed": observed,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
