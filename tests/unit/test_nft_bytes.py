"""Our declarations against the bytes that nft 1.0.6 sends for the same thing in its own language.

data/nft-1.0.6.json holds what the kernel dumps after `nft -f` of each text, for both families.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from proxymode_agent.dataplane.nfnetlink import (
    Chain,
    CtState,
    CtStatus,
    DumpedRule,
    Expression,
    FibFlag,
    Rule,
    VerdictCode,
    address_is_local,
    cmp,
    ct_state,
    ct_status,
    flip_mark_bit,
    load,
    lookup,
    lookup_verdict,
    mark_has,
    masquerade,
    reject,
    set_mark_bit,
    verdict,
)
from proxymode_agent.dataplane.nfnetlink.uapi import SetAttr
from proxymode_agent.dataplane.nftables.layout import TRAITS, layout
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
    service_key = table.services.verdicts.key
    nodeport_key = table.nodeports.verdicts.key
    service, nodeport = (balancer.rules(7)[1].expressions for balancer in table.balancers)
    return {
        f"{ip} daddr . meta l4proto . th dport vmap @services": (*load(service_key), lookup_verdict("services", 0)),
        f"dnat {ip} to {ip} daddr . meta l4proto . th dport . numgen random mod 7 map @endpoints": service,
        f"dnat {ip} to meta l4proto . th dport . numgen random mod 7 map @nodeport-endpoints": nodeport,
        "meta l4proto . th dport vmap @nodeports": (*load(nodeport_key), lookup_verdict("nodeports", 0)),
        f"{ip} saddr {network} return": (
            *traits.saddr.in_network(ipaddress.ip_network(network)),
            verdict(VerdictCode.RETURN),
        ),
        f"{ip} daddr {host} fib daddr type local goto other": (
            *traits.daddr.in_network(ipaddress.ip_network(host)),
            *address_is_local(FibFlag.DADDR),
            verdict(VerdictCode.GOTO, "other"),
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
        f"ct state new {ip} daddr @cluster-ips reject": (
            *ct_state(CtState.NEW),
            *load((traits.daddr,)),
            lookup("cluster-ips", 0),
            reject(traits.proto),
        ),
        "jump other": (verdict(VerdictCode.JUMP, "other"),),
    }


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
    for text, attributes in sets.items():
        of = declared.pop(text.split()[1])
        ours = {SetAttr(kind).name: value for kind, value in of.declaration}
        sent = {name: bytes.fromhex(value) for name, value in attributes.items()}
        assert {**dict.fromkeys(ours, bytes(4)), **sent} == ours, text
    assert list(declared) == ["nodeports-without-endpoints"]
