"""Which addresses the node's own sockets speak from: a route to one of these must not go."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack

from proxymode_agent.dataplane.ipvs.sockets import in_use


def packed(*addresses: str) -> set[bytes]:
    return {ipaddress.ip_address(address).packed for address in addresses}


def test_a_connection_or_a_connected_datagram_socket_uses_its_address_and_no_other() -> None:
    asked = packed("127.9.8.7", "127.9.8.6", "127.9.8.5", "127.9.8.4", "::1", "fd00::9")
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.9.8.1", 0)))
        client = stack.enter_context(socket.socket())
        client.bind(("127.9.8.7", 0))
        client.connect(server.getsockname())
        mapped = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
        mapped.bind(("::ffff:127.9.8.6", 0))
        mapped.connect((f"::ffff:{server.getsockname()[0]}", server.getsockname()[1]))
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind(("127.9.8.5", 0))
        six = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        six.bind(("::1", 0))
        assert in_use(asked) == packed("127.9.8.7", "127.9.8.6", "127.9.8.5", "::1")
    assert in_use(packed("127.9.8.7", "127.9.8.5")) == set()
    assert in_use(()) == set()
