"""The rules of kube-proxy's mode iptables, as text for iptables-restore. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_testbeds.kubeproxy.chains import FORWARD, MASQUERADE, NEW, jump, table

if TYPE_CHECKING:
    from proxymode_testbeds.kubeproxy.model import Family


def iptables(family: Family) -> str:
    program = family.iptables
    nat: list[str] = []
    filtered: list[str] = ["-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP", *FORWARD]
    for s in family.services:
        chain, frontend = s.hashed(), f"-d {s.address}/{family.bits} -p {s.protocol} -m {s.protocol} --dport {s.port}"
        if not s.endpoints:
            filtered.append(f"-A KUBE-SERVICES {frontend} -j REJECT")
            continue
        nat.append(f"-A KUBE-SERVICES {frontend} -j KUBE-SVC-{chain}")
        if family.pods:
            nat.append(f"-A KUBE-SVC-{chain} {family.not_pods}{frontend} -j KUBE-MARK-MASQ")
        if s.node_port is not None:
            nat += (
                f"-A KUBE-NODEPORTS -p {s.protocol} -m {s.protocol} --dport {s.node_port} -j KUBE-EXT-{chain}",
                f"-A KUBE-EXT-{chain} -j KUBE-MARK-MASQ",
                f"-A KUBE-EXT-{chain} -j KUBE-SVC-{chain}",
            )
        for number, (address, port) in enumerate(s.endpoints):
            endpoint, left = s.hashed(address, str(port)), len(s.endpoints) - number
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            nat += (
                f"-A KUBE-SVC-{chain} {chance}-j KUBE-SEP-{endpoint}",
                f"-A KUBE-SEP-{endpoint} -s {address}/{family.bits} -j KUBE-MARK-MASQ",
                f"-A KUBE-SEP-{endpoint} -p {s.protocol} -m {s.protocol} "
                f"-j DNAT --to-destination {family.shown(address, port)}",
            )
    nat.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    return "\n".join(
        [
            table(program, "mangle", ["KUBE-PROXY-CANARY"], []),
            table(
                program,
                "filter",
                [
                    "KUBE-PROXY-CANARY",
                    "KUBE-SERVICES",
                    "KUBE-EXTERNAL-SERVICES",
                    "KUBE-NODEPORTS",
                    "KUBE-PROXY-FIREWALL",
                    "KUBE-FORWARD",
                ],
                [
                    jump("INPUT", "KUBE-EXTERNAL-SERVICES", NEW),
                    jump("FORWARD", "KUBE-EXTERNAL-SERVICES", NEW),
                    jump("INPUT", "KUBE-NODEPORTS"),
                    jump("FORWARD", "KUBE-SERVICES", NEW),
                    jump("OUTPUT", "KUBE-SERVICES", NEW),
                    jump("FORWARD", "KUBE-FORWARD"),
                    *(jump(hook, "KUBE-PROXY-FIREWALL", NEW) for hook in ("INPUT", "OUTPUT", "FORWARD")),
                ],
                filtered,
            ),
            table(
                program,
                "nat",
                ["KUBE-PROXY-CANARY", "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING"],
                [
                    jump("OUTPUT", "KUBE-SERVICES"),
                    jump("PREROUTING", "KUBE-SERVICES"),
                    jump("POSTROUTING", "KUBE-POSTROUTING"),
                ],
                [*MASQUERADE, *nat],
            ),
        ]
    )
