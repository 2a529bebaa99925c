"""What is the ipvs mode's own, of virtual servers and of the node's addresses."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from proxymode_agent.dataplane.ipvs.addresses import Found
from proxymode_agent.dataplane.ipvs.model import Element, Set, frontend_key
from proxymode_agent.dataplane.ipvs.ownership import excluded, is_ours, node_addresses
from proxymode_agent.services.model import DataplaneConfig, Frontend, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


NODE, SECOND, POD_SIDE, NODE6 = map(packed, ("192.168.50.1", "192.168.50.11", "10.244.1.1", "fd50::1"))
CAREFUL = DataplaneConfig(ipvs_exclude_cidrs=(ipaddress.ip_network("203.0.113.0/24"),))


def test_a_virtual_server_is_ours_by_its_address_or_by_our_tables_memory_but_never_where_it_is_excluded() -> None:
    node_port, vip, theirs, keepalived = (
        Frontend(packed(address), Protocol.TCP, port)
        for address, port in (("192.168.50.1", 30080), ("10.96.0.10", 80), ("203.0.113.5", 80), ("192.168.50.1", 22))
    )
    elements = [
        Element(Set.NODE_FRONTENDS, 4, frontend_key(node_port)),
        Element(Set.NODE_FRONTENDS, 4, frontend_key(theirs)),
        Element(Set.FRONTENDS, 4, frontend_key(keepalived)),
    ]
    ours = is_ours(CAREFUL, elements, [vip.address, theirs.address])
    assert [ours(frontend) for frontend in (node_port, vip, theirs, keepalived)] == [True, True, False, False]
    assert is_ours(DataplaneConfig(), [], [theirs.address])(theirs)
    assert excluded(CAREFUL, theirs.address)
    assert not excluded(CAREFUL, packed("2001:db8::1"))


def found(local: Collection[bytes], *unreachable: bytes) -> Found:
    return Found(bound={}, elsewhere=frozenset((*local, *unreachable)), local=frozenset(local), stray=frozenset())


def test_node_ports_answer_on_all_addresses_or_on_the_chosen_ones() -> None:
    local = {NODE, SECOND, POD_SIDE, NODE6}
    everywhere = node_addresses(DataplaneConfig(node_ips=(NODE, NODE6)), found(local, packed("127.0.0.1")))
    assert everywhere.node_ports == local
    assert everywhere.sources == {4: NODE, 16: NODE6}
    assert everywhere.own == {*local, packed("127.0.0.1")}
    networks = ipaddress.ip_network("192.168.0.0/16"), ipaddress.ip_network("::/0")
    for given in (networks, networks[:1]):  # all IPv6 addresses where no IPv6 network is given, as with kube-proxy
        chosen = DataplaneConfig(node_port_addresses=given)
        assert node_addresses(chosen, found(local)).node_ports == {NODE, SECOND, NODE6}


def test_the_node_speaks_from_the_first_of_its_addresses_that_it_has() -> None:
    config = DataplaneConfig(node_ips=(packed("192.168.50.99"), SECOND, NODE))
    assert node_addresses(config, found({NODE, SECOND})).sources == {4: SECOND}
