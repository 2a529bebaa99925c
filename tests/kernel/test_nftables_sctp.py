"""SCTP goes through the same rules as TCP and UDP: an INIT to a ClusterIP arrives at the endpoint's port.

Raw packets, for not every kernel that has nf_tables has SCTP sockets.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest

from nftables_bed import dataplane, node_config, service, state
from proxymode_agent.services.model import Protocol

if TYPE_CHECKING:
    from proxymode_testbeds.fixtures import FleetMaker

SOURCE_PORT, SERVICE_PORT, ENDPOINT_PORT = 40001, 9, 9899
ANSWER_SECONDS = 30.0
CRC32C_POLYNOMIAL = 0x82F63B78  # RFC 9260 appendix A, bits reversed


def crc32c(data: bytes) -> int:
    """SCTP's checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CRC32C_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(source_port: int, port: int) -> bytes:
    """An SCTP packet with an INIT chunk (RFC 9260, 3.3.2)."""
    init = struct.pack(">BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 0x5678)
    without = struct.pack(">HHII", source_port, port, 0, 0) + init
    return without[:8] + struct.pack("<I", crc32c(without)) + without[12:]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_an_init_arrives_at_an_endpoint(node_fleet: FleetMaker, family: socket.AddressFamily) -> None:
    topology = node_fleet(nodes=1, pods=2, dual_stack=True)
    which = 0 if family == socket.AF_INET else 1
    sender, receiver = topology.fleet.nodes[0].pods
    vip = ("10.96.0.9", "fd96::9")[which]

    def raw() -> socket.socket:
        return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)

    endpoints = [(str(receiver.addresses[which]), ENDPOINT_PORT)]
    with (
        dataplane(topology, node_config(topology)) as made,
        topology.call(receiver.name, raw) as listening,
        topology.call(sender.name, raw) as sending,
    ):
        made.sync(state(service("diameter", vip, SERVICE_PORT, endpoints, protocol=Protocol.SCTP)))
        listening.settimeout(ANSWER_SECONDS)
        sending.sendto(packet(SOURCE_PORT, SERVICE_PORT), (vip, 0))
        received, source = listening.recvfrom(2048)
    assert source[0] == str(sender.addresses[which])
    sctp = received[-len(packet(0, 0)) :]
    assert sctp == packet(SOURCE_PORT, ENDPOINT_PORT)
