"""Our declarations against the bytes that nft 1.0.6 sends for the same thing in its own language.

data/nft-1.0.6.json holds what the kernel dumps after `nft -f` of each text, for both families.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from msgspec import structs

from proxymode_agent.dataplane.nfnetlink import (
    Chain,
    CtState,
    CtStatus,
    DumpedRule,
    DumpedSet,
    Expression,
    FibFlag,
    Rule,
    VerdictCode,
    address_is_local,
    came_in_by,
    cmp,
    ct_state,
    ct_status,
    flip_mark_bit,
    load,
    lookup,
    mark_has,
    masquerade,
    reject,
    set_mark_bit,
    verdict,
)
from proxymode_agent.dataplane.nfnetlink.uapi import SetAttr
from proxymode_agent.dataplane.nftables.draws import Draw, Kind, Space
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.dataplane.nftables.paths import TRAITS
from proxymode_agent.services.model import DataplaneConfig, Family

DATA = json.loads(Path(__file__, "..", "data", "nft-1.0.6.json").resolve().read_text())
FAMILIES = [Family.IPV4, Family.IPV6]


def rules(family: Family) -> dict[str, tuple[Expression, ...]]:
    """The rules of the data file as we declare them."""
    table = layout(family, DataplaneConfig(), "0")
    traits = TRAITS[family]
    ip = str(traits.proto)
    v4 = family is Family.IPV4
    network = "192.168.0.0/17" if v4 else "fd08::/17"
    host = "10.0.0.1" if v4 else "fd00::1"
    services, nodeports = table.spaces
    frontend = f"{ip} daddr . meta l4proto . th dport"
    node_port = "meta l4proto . th dport"
    goto_other = verdict(VerdictCode.GOTO, "other")
    texts = {
        f"{frontend} vmap @services": services.find(services.verdicts)[0],
        f"{node_port} vmap @nodeports": nodeports.find(nodeports.verdicts)[1],
        f"dnat {ip} to {frontend} . numgen random mod 7 map @endpoints": body(services, Draw(Kind.INTERNAL, 7), 1),
        f"dnat {ip} to {frontend} . numgen random mod 7 offset 65536 map @endpoints": body(
            services, Draw(Kind.LOCAL, 7), 1
        ),
        f"dnat {ip} to {node_port} . numgen random mod 7 map @nodeport-endpoints": body(
            nodeports, Draw(Kind.INSIDE, 7), 0
        ),
        f"{ip} saddr {network} return": (
            *traits.saddr.in_network(ipaddress.ip_network(network)),
            verdict(VerdictCode.RETURN),
        ),
        'iifname "cni0" return': (*came_in_by("cni0"), verdict(VerdictCode.RETURN)),
        'iifname "veth*" return': (*came_in_by("veth", prefix=True), verdict(VerdictCode.RETURN)),
        f"{ip} daddr {host} fib daddr type local goto other": (
            *traits.daddr.in_network(ipaddress.ip_network(host)),
            *address_is_local(FibFlag.DADDR),
            goto_other,
        ),
        "fib saddr type local meta mark set meta mark | 0x4000 goto other": (
            *address_is_local(FibFlag.SADDR),
            *set_mark_bit(0x4000),
            goto_other,
        ),
        "meta mark set meta mark | 0x4000": set_mark_bit(0x4000),
        "meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random": (
            *mark_has(0x4000),
            *flip_mark_bit(0x4000),
            masquerade(),
        ),
        f"ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random": (
            *ct_status(CtStatus.DNAT),
            *load(table.hairpin.key),
            lookup("hairpin", 0),
            masquerade(),
        ),
        f"ct state new {frontend} @restricted jump other": (
            *ct_state(CtState.NEW),
            *load(table.restricted.key),
            lookup("restricted", 0),
            verdict(VerdictCode.JUMP, "other"),
        ),
        f"{ip} daddr @cluster-ips goto other": (*load((traits.daddr,)), lookup("cluster-ips", 0), goto_other),
        "reject": (reject(traits.proto),),
        "drop": (verdict(VerdictCode.DROP),),
        "jump other": (verdict(VerdictCode.JUMP, "other"),),
    }
    if v4:  # nft 1.0.6 prints these for IPv6, but aborts where it reads them
        group, client = "meta priority & ffff:0", f"{ip} saddr . meta priority & ffff:0"
        some = f"meta priority set {frontend} . numgen random mod 1 map @sticky-ids"
        remember = f"update @sticky-clients {{ {client} timeout 3h : meta priority }}"
        to_endpoint = f"dnat {ip} to meta l4proto . meta priority map @endpoints-by-id"
        sticky = Draw(Kind.EXTERNAL, 7, 10800)
        texts |= {
            **{
                f"{some} meta priority set {group} meta priority set {ip} saddr . meta priority map @{clients} "
                f"{remember} {to_endpoint}": body(services, sticky, number)
                for clients, number in (("sticky-clients", 1), ("local-sticky-clients", 3))
            },
            f"{some} delete @sticky-clients {{ {client} : meta priority }}": body(services, sticky, 2),
            f"meta priority set {node_port} . numgen random mod 7 offset 65536 map @nodeport-sticky-ids "
            f"update @local-sticky-clients {{ {client} timeout 3h : meta priority }} "
            f"dnat {ip} to meta l4proto . meta priority map @local-endpoints-by-id": body(
                nodeports, Draw(Kind.LOCAL, 7, 10800), 5
            ),
        }
    return texts


def body(space: Space, draw: Draw, number: int) -> tuple[Expression, ...]:
    """One rule of the chain of a draw."""
    return space.rules(draw)[number].expressions


def dumped(family: Family, text: str) -> DumpedRule:
    expressions = bytes.fromhex(DATA[str(TRAITS[family].proto)]["rules"][text])
    return DumpedRule("chain", memoryview(expressions), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_is_what_nft_sends_for_its_text(family: Family) -> None:
    chain = Chain(layout(family, DataplaneConfig(), "0").table, "chain")
    ours = rules(family)
    assert set(ours) == set(DATA[str(TRAITS[family].proto)]["rules"])
    wrong = [text for text, body in ours.items() if not dumped(family, text).is_(Rule(chain, body))]
    assert wrong == []


@pytest.mark.parametrize("family", FAMILIES)
def test_no_rule_is_taken_for_another(family: Family) -> None:
    chain = Chain(layout(family, DataplaneConfig(), "0").table, "chain")
    ours = rules(family)
    for text, body in ours.items():
        same = [other for other in ours if dumped(family, other).is_(Rule(chain, body))]
        assert same == [text]
        longer = Rule(chain, (*body, cmp(0, bytes(4))))
        assert not dumped(family, text).is_(longer)
        assert not dumped(family, text).is_(Rule(chain, body, comment="mine"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_is_what_nft_sends_for_its_text(family: Family) -> None:
    declared = {of.name: of for of in layout(family, DataplaneConfig(), "0").sets}
    sets = DATA[str(TRAITS[family].proto)]["sets"]
    traits_field = TRAITS[family].daddr
    for text, attributes in sets.items():
        of = declared.pop(text.split()[1])
        found: dict[int, memoryview] = {
            getattr(SetAttr, name): memoryview(bytes.fromhex(value)) for name, value in attributes.items()
        }
        assert DumpedSet(of.name, found).is_(of), text
        other = structs.replace(of, key=(*of.key, traits_field))
        assert not DumpedSet(of.name, found).is_(other), text
    assert list(declared) == []
