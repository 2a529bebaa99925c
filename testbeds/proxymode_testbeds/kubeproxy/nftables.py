"""The rules of kube-proxy's mode nftables, as text for nft. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_testbeds.kubeproxy.model import Family


def nftables(family: Family) -> str:
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
