"""What preflight asks the kernel for is what the dataplanes' tables are made of: no more, no less."""

from __future__ import annotations

import ipaddress

import pytest

from proxymode_agent.dataplane.ipvs.layout import FAMILIES
from proxymode_agent.dataplane.ipvs.layout import Layout as IpvsLayout
from proxymode_agent.dataplane.nfnetlink import NfProto, Set, Table
from proxymode_agent.dataplane.nfnetlink.fields import IP6_DADDR, IP_DADDR
from proxymode_agent.dataplane.nftables.draws import Draw
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.preflight.kernel import NFT_EXPRESSIONS
from proxymode_agent.preflight.nftprobe import samples
from proxymode_agent.services.model import DataplaneConfig, Family, PodNetworks
from proxymode_api.modes import Mode

NETWORKS = tuple(ipaddress.ip_network(text) for text in ("10.244.0.0/16", "fd00:244::/48"))
CONFIGS = (
    DataplaneConfig(pods=PodNetworks(NETWORKS), node_port_addresses=NETWORKS),
    DataplaneConfig(masquerade_all=True),
    DataplaneConfig(),
)


def test_nftables_mode() -> None:
    used = set()
    for config in CONFIGS:
        for family in Family:
            table = layout(family, config, "0")
            draws = [
                space.rules(Draw(kind, 3, sticky))
                for space in table.spaces
                for kind in space.preludes
                for sticky in (None, 60)
            ]
            rules = [rule for rules in (*table.rules_by_chain.values(), *draws) for rule in rules]
            used |= {expression.name for rule in rules for expression in rule.expressions}
    assert used == NFT_EXPRESSIONS[Mode.NFTABLES]


def test_ipvs_mode() -> None:
    used = {
        expression.name
        for config in CONFIGS
        for length in FAMILIES
        for rule in IpvsLayout(length, config).rules
        for expression in rule.expressions
    }
    assert used == NFT_EXPRESSIONS[Mode.IPVS]


@pytest.mark.parametrize("family", [NfProto.IPV4, NfProto.IPV6])
def test_each_of_them_is_probed_by_a_rule_that_ends_in_it(family: NfProto) -> None:
    key = IP_DADDR if family is NfProto.IPV4 else IP6_DADDR
    probed = samples(
        family, Set(Table(family, "t"), "s", (key,)), Set(Table(family, "t"), "c", (key,), (key,), dynamic=1)
    )
    assert set(probed) == set().union(*NFT_EXPRESSIONS.values())
    assert all(expressions[-1].name == name for name, expressions in probed.items())
