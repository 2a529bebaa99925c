"""The rules of kube-proxy's three modes as text for iptables-restore, ipset, ipvsadm and nft. Pure.

Chains, their order and what they match are those of k8s.io/kubernetes pkg/proxy/{iptables,ipvs,nftables}/proxier.go,
1.36. Each script can be run again over what is there, as kube-proxy itself syncs.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Variant(StrEnum):
    """Which iptables: with nf_tables beneath, as on every current distribution, or the older one."""

    NFT = "nft"
    LEGACY = "legacy"


class ProxyMode(StrEnum):
    """kube-proxy --proxy-mode."""

    IPTABLES = "iptables"
    IPVS = "ipvs"
    NFTABLES = "nftables"


@dataclass(frozen=True)
class Service:
    """One port of a Service in one family; endpoints are (address, port)."""

    name: str
    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]
    protocol: str = "tcp"
    node_port: int | None = None

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.address).version

    def hashed(self, *parts: str) -> str:
        """portProtoHash and servicePortEndpointChainName."""
        digest = hashlib.sha256((self.name + self.protocol + "".join(parts)).encode()).digest()
        return base64.b32encode(digest).decode()[:16]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Service:
        return cls(**raw | {"endpoints": tuple((address, port) for address, port in raw["endpoints"])})


def script(
    mode: ProxyMode,
    services: Iterable[Service],
    *,
    node_ips: Sequence[str],
    cluster_cidrs: Sequence[str],
    variant: Variant = Variant.NFT,
) -> str:
    """A shell script that brings a node's network namespace into this mode, for `sh -e`; may be run again and again."""
    services = tuple(services)
    parts = []
    for version in (4, 6):
        family = _Family(
            version,
            variant,
            tuple(service for service in services if service.version == version),
            tuple(ip for ip in node_ips if ipaddress.ip_address(ip).version == version),
            tuple(cidr for cidr in cluster_cidrs if ipaddress.ip_network(cidr).version == version),
        )
        match mode:
            case ProxyMode.IPTABLES:
                parts.append(_iptables(family))
            case ProxyMode.IPVS:
                parts.append(_ipvs(family))
            case ProxyMode.NFTABLES:
                parts.append(_nftables(family))
    return "\n".join(parts)


@dataclass(frozen=True)
class _Family:
    version: int
    variant: Variant
    services: tuple[Service, ...]
    node_ips: tuple[str, ...]
    pods: tuple[str, ...]

    @property
    def iptables(self) -> str:
        return f"{'iptables' if self.version == 4 else 'ip6tables'}-{self.variant}"

    @property
    def bits(self) -> int:
        return 32 if self.version == 4 else 128

    @property
    def not_pods(self) -> str:
        return f"! -s {self.pods[0]} " if self.pods else ""

    def shown(self, address: str, port: int) -> str:
        return f"{address}:{port}" if self.version == 4 else f"[{address}]:{port}"


def _table(program: str, table: str, chains: Sequence[str], jumps: Sequence[str], rules: Sequence[str] = ()) -> str:
    """One iptables-restore --noflush: chains that `rules` fill are emptied first, jumps that are there are not added
    again (utiliptables.EnsureChain and EnsureRule come to the same)."""
    filled = dict.fromkeys(rule.split()[1] for rule in rules)
    declared = [f":{chain} - [0:0]" for chain in dict.fromkeys([*chains, *filled])]
    lines = "\n".join([f"*{table}", *declared, *rules])
    wanted = "\n".join(jumps)
    return (
        f"have=$({program}-save -t {table})\n"
        f"{{ cat <<'RULES'\n{lines}\nRULES\n"
        f'while read -r jump; do case $have in *"$jump"*) ;; *) echo "-I ${{jump#-A }}" ;; esac; done <<\'JUMPS\'\n'
        f"{wanted}\nJUMPS\necho COMMIT; }} | {program}-restore -w --noflush"
    )


def _jump(chain: str, to: str, match: str = "") -> str:
    """As iptables-save prints it."""
    return f"-A {chain} {match}-m comment --comment kubernetes -j {to}"


_MASQUERADE = (
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
    "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
)
_FORWARD = (
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_NEW = "-m conntrack --ctstate NEW "


def _iptables(family: _Family) -> str:
    program = family.iptables
    nat: list[str] = []
    filtered: list[str] = ["-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP", *_FORWARD]
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
            _table(program, "mangle", ["KUBE-PROXY-CANARY"], []),
            _table(
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
                    _jump("INPUT", "KUBE-EXTERNAL-SERVICES", _NEW),
                    _jump("FORWARD", "KUBE-EXTERNAL-SERVICES", _NEW),
                    _jump("INPUT", "KUBE-NODEPORTS"),
                    _jump("FORWARD", "KUBE-SERVICES", _NEW),
                    _jump("OUTPUT", "KUBE-SERVICES", _NEW),
                    _jump("FORWARD", "KUBE-FORWARD"),
                    *(_jump(hook, "KUBE-PROXY-FIREWALL", _NEW) for hook in ("INPUT", "OUTPUT", "FORWARD")),
                ],
                filtered,
            ),
            _table(
                program,
                "nat",
                ["KUBE-PROXY-CANARY", "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING"],
                [
                    _jump("OUTPUT", "KUBE-SERVICES"),
                    _jump("PREROUTING", "KUBE-SERVICES"),
                    _jump("POSTROUTING", "KUBE-POSTROUTING"),
                ],
                [*_MASQUERADE, *nat],
            ),
        ]
    )


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


def _ipvs(family: _Family) -> str:
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
        *_MASQUERADE,
        f"-A KUBE-SERVICES {family.not_pods}{matched('CLUSTER-IP', 'dst,dst')} -j KUBE-MARK-MASQ",
        "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
        f"-A KUBE-SERVICES {matched('CLUSTER-IP', 'dst,dst')} -j ACCEPT",
        f"-A KUBE-NODE-PORT -p tcp {matched('NODE-PORT-TCP', 'dst')} -j KUBE-MARK-MASQ",
        f"-A KUBE-NODE-PORT -p udp {matched('NODE-PORT-UDP', 'dst')} -j KUBE-MARK-MASQ",
        "-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ",
    ]
    filtered = [
        *_FORWARD,
        f"-A KUBE-NODE-PORT {matched('HEALTH-CHECK-NODE-PORT', 'dst')} -j ACCEPT",
        "-A KUBE-SOURCE-RANGES-FIREWALL -j DROP",
        *(f"-A KUBE-IPVS-FILTER {matched(name, 'dst,dst')} -j RETURN" for name in ("LOAD-BALANCER", "CLUSTER-IP")),
        f"-A KUBE-IPVS-FILTER {_NEW}{matched('IPVS-IPS', 'dst')} -j REJECT",
    ]
    sysctls = ("vs.conntrack=1", "vs.conn_reuse_mode=0", "vs.expire_nodest_conn=1", "vs.expire_quiescent_template=1")
    return "\n".join(
        [
            "ip link add kube-ipvs0 type dummy 2>/dev/null || true",
            f"sysctl -qw {' '.join(f'net.ipv4.{sysctl}' for sysctl in sysctls)}",
            "ipset restore <<'SETS'\n" + "\n".join(sets) + "\nSETS",
            _table(program, "mangle", ["KUBE-PROXY-CANARY"], []),
            _table(
                program,
                "nat",
                [],
                [
                    _jump("OUTPUT", "KUBE-SERVICES"),
                    _jump("PREROUTING", "KUBE-SERVICES"),
                    _jump("POSTROUTING", "KUBE-POSTROUTING"),
                ],
                nat,
            ),
            _table(
                program,
                "filter",
                ["KUBE-PROXY-FIREWALL", "KUBE-IPVS-OUT-FILTER"],
                [
                    _jump("FORWARD", "KUBE-FORWARD"),
                    _jump("INPUT", "KUBE-NODE-PORT"),
                    _jump("INPUT", "KUBE-PROXY-FIREWALL"),
                    _jump("FORWARD", "KUBE-PROXY-FIREWALL"),
                    _jump("INPUT", "KUBE-IPVS-FILTER"),
                    _jump("OUTPUT", "KUBE-IPVS-OUT-FILTER"),
                ],
                filtered,
            ),
            *servers,
            *addresses,
        ]
    )


def _nftables(family: _Family) -> str:
    ip = "ip" if family.version == 4 else "ip6"
    kind = f"{'ipv4' if family.version == 4 else 'ipv6'}_addr"
    chains: list[str] = []
    service_ips, node_ports, without = [], [], []
    for s in family.services:
        chain = f"service-{s.hashed()[:8]}-{s.name.replace(':', '/')}"
        frontend = f"{s.address} . {s.protocol} . {s.port}"
        if not s.endpoints:
            without.append(f"{frontend} : goto reject-chain")
            continue
        service_ips.append(f"{frontend} : goto {chain}")
        if s.node_port is not None:
            external = f"external-{s.hashed()[:8]}-{s.name.replace(':', '/')}"
            node_ports.append(f"{s.protocol} . {s.node_port} : goto {external}")
            chains.append(f"chain {external} {{ jump mark-for-masquerade\n goto {chain}\n }}")
        endpoints = [(f"endpoint-{s.hashed(address, str(port))[:8]}", address, port) for address, port in s.endpoints]
        chains += (
            f"chain {name} {{ {ip} saddr {address} jump mark-for-masquerade\n"
            f" meta l4proto {s.protocol} dnat to {family.shown(address, port)}\n }}"
            for name, address, port in endpoints
        )
        drawn = ", ".join(f"{number} : goto {name}" for number, (name, _, _) in enumerate(endpoints))
        outside = f"{ip} saddr != {family.pods[0]} " if family.pods else ""
        chains.append(
            f"chain {chain} {{ {ip} daddr {s.address} {s.protocol} dport {s.port} {outside}jump mark-for-masquerade\n"
            f" numgen random mod {len(endpoints)} vmap {{ {drawn} }}\n }}"
        )

    def elements(items: Sequence[str]) -> str:
        return f"elements = {{ {', '.join(items)} }}" if items else ""

    newline = "\n"
    body = f"""
table {ip} kube-proxy
delete table {ip} kube-proxy
table {ip} kube-proxy {{
  comment "rules for kube-proxy"
  set cluster-ips {{ type {kind}; {elements([s.address for s in family.services])} }}
  set nodeport-ips {{ type {kind}; {elements(family.node_ips)} }}
  map service-ips {{ type {kind} . inet_proto . inet_service : verdict; {elements(service_ips)} }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; {elements(node_ports)} }}
  map no-endpoint-services {{ type {kind} . inet_proto . inet_service : verdict; {elements(without)} }}
  chain reject-chain {{ reject; }}
  chain mark-for-masquerade {{ mark set mark or 0x4000; }}
  chain masquerading {{ mark and 0x4000 == 0 return
    mark set mark xor 0x4000
    masquerade fully-random
  }}
  {newline.join(chains)}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @service-ips
    {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{ {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
  chain filter-prerouting {{ type filter hook prerouting priority dstnat - 10;
    ct state new jump service-endpoints-check
  }}
  chain filter-output {{ type filter hook output priority -110;
    ct state new jump service-endpoints-check
  }}
  chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
}}"""
    return f"nft -f - <<'TABLE'\n{body}\nTABLE"
