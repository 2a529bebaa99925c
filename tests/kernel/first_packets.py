"""Sends UDP packets that each look like a new flow, as fast as it can, until SIGTERM; then prints how many.

    python first_packets.py SOURCE-NETWORK ADDRESS PORT

The source address and port change with every packet. Whoever counts has to drop them before conntrack confirms them
(before postrouting), so that a source that comes round again is a new flow again.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

SOURCES = 251  # addresses at most; a prime, so that address and port go through all pairs
PORTS = range(1024, 65536)


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF or 0xFFFF


def packet(source: bytes, target: bytes, source_port: int, port: int) -> bytes:
    """An IP packet with an empty UDP datagram."""
    pseudo = source + target + struct.pack(">HHHHHH", 0, socket.IPPROTO_UDP, 8, source_port, port, 8)
    datagram = struct.pack(">HHHH", source_port, port, 8, checksum(pseudo))
    if len(source) == 4:
        return struct.pack(">BBHHHBBH", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0) + source + target + datagram
    return struct.pack(">IHBB", 6 << 28, 8, socket.IPPROTO_UDP, 64) + source + target + datagram


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    network, target = ipaddress.ip_network(sys.argv[1]), ipaddress.ip_address(sys.argv[2])
    port = int(sys.argv[3])
    running = [True]

    def stop(_number: int, _frame: FrameType | None) -> None:
        running.clear()

    signal.signal(signal.SIGTERM, stop)
    if network.num_addresses == 1:
        sources = [network[0].packed]
    else:
        sources = [network[1 + number].packed for number in range(SOURCES)]
    packets = [packet(sources[number % len(sources)], target.packed, PORTS[number], port) for number in range(20_000)]
    v6 = target.version == 6
    sent = 0
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        say("ready")
        while running:
            for one in packets:
                raw.sendto(one, (str(target), 0))
                sent += 1
                if not running:
                    break
    say(sent)


if __name__ == "__main__":
    main()
