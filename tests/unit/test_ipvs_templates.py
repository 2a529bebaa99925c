"""Persistence templates: out of the kernel's listing, and as one director tells another of them."""

from __future__ import annotations

import ipaddress
import struct

from proxymode_agent.dataplane.ipvs.templates import Template, messages, parse
from proxymode_agent.services.model import Endpoint, Frontend, Protocol


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


FOUR = Template(
    Frontend(packed("10.96.0.10"), Protocol.TCP, 80), packed("192.168.50.101"), Endpoint(packed("10.244.1.11"), 8080)
)
SIX = Template(
    Frontend(packed("fd96::10"), Protocol.UDP, 53), packed("fd50::101"), Endpoint(packed("fd44:0:0:1::11"), 5353)
)


def test_a_template_is_a_connection_from_port_zero() -> None:
    line = "TCP C0A83265 0000 0A60000A 0050 0AF4010B 1F90 NONE         10795"
    assert parse(line) == FOUR
    assert parse(line.replace(" 0000 ", " D431 ")) is None
    assert (
        parse(
            "UDP fd50:0000:0000:0000:0000:0000:0000:0101 0000 fd96:0000:0000:0000:0000:0000:0000:0010 0035 "
            "fd44:0000:0000:0001:0000:0000:0000:0011 14E9 NONE          299"
        )
        == SIX
    )
    assert parse("IP  C0A83265 0000 0A60000A 0050 0AF4010B 1F90 NONE         10795") is None


def test_templates_are_told_in_version_one_of_the_protocol() -> None:
    (message,) = messages([FOUR], 10800, 77)
    reserved, sync_id, size, count, version, spare = struct.unpack_from(">BBHBbH", message)
    assert (reserved, sync_id, size, count, version, spare) == (0, 77, len(message), 1, 1, 0)
    kind, protocol, length, flags, state, client_port, port, server_port, mark, seconds = struct.unpack_from(
        ">BBHIHHHHII", message, 8
    )
    assert (kind, protocol, length, flags, state) == (0, 6, len(message) - 8, 0x1000, 0)
    assert (client_port, port, server_port, mark, seconds) == (0, 80, 8080, 0, 10800)
    assert message[32:] == FOUR.client + FOUR.frontend.address + FOUR.endpoint.address
    (message,) = messages([SIX], 300, 1)
    assert message[8] == 1, "STYPE_F_INET6"
    assert message[32:] == SIX.client + SIX.frontend.address + SIX.endpoint.address


def test_many_templates_are_told_in_messages_below_a_packet_s_size() -> None:
    told = list(messages([SIX] * 100, 300, 1))
    assert sum(message[4] for message in told) == 100
    assert all(len(message) <= 1400 and len(message) == struct.unpack_from(">H", message, 2)[0] for message in told)
