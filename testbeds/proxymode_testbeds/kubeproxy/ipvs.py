"""The rules of kube-proxy's mode ipvs, as text for ipvsadm, ipset and iptables-restore. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_testbeds.kubeproxy.chains import FORWARD, MASQUERADE, NEW, jump, table

if TYPE_CHECKING:
    from proxymode_testbeds.kubeproxy.model import Family


_SETS = {
    "LOOP-BACK": "hash:ip,port,ip",
    "CLUSTER-IP": "hash:ip,port",
    "EXTERNAL-IP": "hash:ip,port",
    "LOAD-BALANCER": "hash:ip,port",
    "LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net",
    "NODE-PORT-TCP": "bitmap:port",
    "NODE-PORT-UDP": "bitmap:port",
    "HEALTH-CHECK-NODE-PORT": "bitmap:port",
    "IPVS-IPS": "hash:ip",
}


def ipvs(family: Family) -> str:
    prefix = "KUBE-" if family.version == 4 else "KUBE-6-"
    inet = "inet" if family.version == 4 else "inet6"
    program = family.iptables
    sets: list[str] = []
    servers: list[str] = []
    addresses: list[str] = []
    for name, kind in _SETS.items():
        options = " range 0-65535" if kind == "bitmap:port" else f" family {inet}"
        named = f"{prefix}{name}"[:31]
        sets += (f"create {named} {kind}{options} -exist", f"flush {named}")
    for s in family.services:
        addresses.append(f"ip address replace {s.address}/{family.bits} dev kube-ipvs0")
        frontends = [(s.address, s.port)]
        sets.append(f"add {prefix}CLUSTER-IP {s.address},{s.protocol}:{s.port} -exist")
        sets.append(f"add {prefix}IPVS-IPS {s.address} -exist")
        if s.node_port is not None:
            frontends += ((ip, s.node_port) for ip in family.node_ips)
            sets.append(f"add {prefix}NODE-PORT-{s.protocol.upper()} {s.node_port} -exist")
        for address, port in s.endpoints:
            sets.append(f"add {prefix}LOOP-BACK {address},{s.protocol}:{port},{address} -exist")
        for frontend in frontends:
            flag = f"{'-t' if s.protocol == 'tcp' else '-u'} {family.shown(*frontend)}"
            servers.append(f"ipvsadm -A {flag} -s rr 2>/dev/null || true")
            servers += (
                f"ipvsadm -a {flag} -r {family.shown(*endpoint)} -m -w 1 2>/dev/null || true"
                for endpoint in s.endpoints
            )

    def matched(name: str, what: str) -> str:
        return f"-m set --match-set {prefix}{name} {what}"

    nat = [
        f"-A KUBE-POSTROUTING {matched('LOOP-BACK', 'dst,dst,src')} -j MASQUERADE",
        *MASQUERADE,
        f"-A KUBE-SERVICES {family.not_pods}{matched('CLUSTER-IP', 'dst,dst')} -j KUBE-MARK-MASQ",
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
        f"-A KUBE-SERVICES {matched('CLUSTER-IP', 'dst,dst')} -j ACCEPT",
        f"-A KUBE-NODE-PORT -p tcp {matched('NODE-PORT-TCP', 'dst')} -j KUBE-MARK-MASQ",
        f"-A KUBE-NODE-PORT -p udp {matched('NODE-PORT-UDP', 'dst')} -j KUBE-MARK-MASQ",
        "-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ",
    ]
    filtered = [
        *FORWARD,
        f"-A KUBE-NODE-PORT {matched('HEALTH-CHECK-NODE-PORT', 'dst')} -j ACCEPT",
        "-A KUBE-SOURCE-RANGES-FIREWALL -j DROP",
        *(f"-A KUBE-IPVS-FILTER {matched(name, 'dst,dst')} -j RETURN" for name in ("LOAD-BALANCER", "CLUSTER-IP")),
        f"-A KUBE-IPVS-FILTER {NEW}{matched('IPVS-IPS', 'dst')} -j REJECT",
    ]
    sysctls = ("vs.conntrack=1", "vs.conn_reuse_mode=0", "vs.expire_nodest_conn=1", "vs.expire_quiescent_template=1")
    return "\n".join(
        [
            "ip link add kube-ipvs0 type dummy 2>/dev/null || true",
            f"sysctl -qw {' '.join(f'net.ipv4.{sysctl}' for sysctl in sysctls)}",
            "ipset restore <<'SETS'\n" + "\n".join(sets) + "\nSETS",
            table(program, "mangle", ["KUBE-PROXY-CANARY"], []),
            table(
                program,
                "nat",
                [],
                [
                    jump("OUTPUT", "KUBE-SERVICES"),
                    jump("PREROUTING", "KUBE-SERVICES"),
                    jump("POSTROUTING", "KUBE-POSTROUTING"),
                ],
                nat,
            ),
            table(
                program,
                "filter",
                ["KUBE-PROXY-FIREWALL", "KUBE-IPVS-OUT-FILTER"],
                [
                    jump("FORWARD", "KUBE-FORWARD"),
                    jump("INPUT", "KUBE-NODE-PORT"),
                    jump("INPUT", "KUBE-PROXY-FIREWALL"),
                    jump("FORWARD", "KUBE-PROXY-FIREWALL"),
                    jump("INPUT", "KUBE-IPVS-FILTER"),
                    jump("OUTPUT", "KUBE-IPVS-OUT-FILTER"),
                ],
                filtered,
            ),
            *servers,
            *addresses,
        ]
    )
