"""Sends UDP packets that each look like a new flow, as fast as it can, until SIGTERM; then prints how many.

    python first_packets.py SOURCE-NETWORK ADDRESS PORT LINK MAC

The packets leave by LINK to MAC, a hundred with one system call. The source address and port change with every packet.
Whoever counts has to drop them before conntrack confirms them (before postrouting), so that a source that comes round
again is a new flow again.
"""

from __future__ import annotations

import ctypes
import errno
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
AT_ONCE, ROUNDS = 100, 250
ETHERTYPES = {4: 0x0800, 6: 0x86DD}  # linux/if_ether.h


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF or 0xFFFF


def packet(source: bytes, target: bytes, source_port: int, port: int) -> bytes:
    """An IP packet, with its checksums, of an empty UDP datagram."""
    pseudo = source + target + struct.pack(">HHHHHH", 0, socket.IPPROTO_UDP, 8, source_port, port, 8)
    datagram = struct.pack(">HHHH", source_port, port, 8, checksum(pseudo))
    if len(source) == 4:
        header = struct.pack(">BBHHHBB", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP)
        return header + struct.pack(">H", checksum(header + source + target)) + source + target + datagram
    return struct.pack(">IHBB", 6 << 28, 8, socket.IPPROTO_UDP, 64) + source + target + datagram


class MessageVector(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2) with its msghdr, for packets of a bound socket."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


class Buffer(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    network, target = ipaddress.ip_network(sys.argv[1]), ipaddress.ip_address(sys.argv[2])
    port, link, mac = int(sys.argv[3]), sys.argv[4], bytes.fromhex(sys.argv[5].replace(":", ""))
    running = [True]

    def stop(_number: int, _frame: FrameType | None) -> None:
        running.clear()

    signal.signal(signal.SIGTERM, stop)
    if network.num_addresses == 1:
        sources = [network[0].packed]
    else:
        sources = [network[1 + number].packed for number in range(SOURCES)]
    ethernet = mac + bytes(6) + struct.pack(">H", ETHERTYPES[target.version])
    packets = [
        ethernet + packet(sources[number % len(sources)], target.packed, PORTS[number], port)
        for number in range(AT_ONCE * ROUNDS)
    ]
    size = len(packets[0])
    frames = ctypes.create_string_buffer(b"".join(packets), size * len(packets))
    buffers, vectors = (Buffer * len(packets))(), (MessageVector * len(packets))()
    for at, (buffer, vector) in enumerate(zip(buffers, vectors, strict=True)):
        buffer.base, buffer.length = ctypes.addressof(frames) + size * at, size
        vector.iov, vector.iov_length = ctypes.addressof(buffer), 1
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    starts = [ctypes.byref(vectors, ctypes.sizeof(MessageVector) * AT_ONCE * at) for at in range(ROUNDS)]
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        say("ready")
        while running:
            for some in starts:
                count = sendmmsg(raw.fileno(), some, AT_ONCE, 0)
                if count < 0 and ctypes.get_errno() not in (errno.ENOBUFS, errno.EINTR):
                    raise OSError(ctypes.get_errno(), "sendmmsg")
                sent += max(count, 0)
                if not running:
                    break
    say(sent)


if __name__ == "__main__":
    main()
