"""I/O: IPVS's persistence templates, which say which client stays with which real server.

They are read from /proc/net/ip_vs_conn, where a template is a connection from port 0. No request of generic netlink
makes one; what does is the protocol by which one director tells another of its connections (net/netfilter/ipvs/
ip_vs_sync.c, version 1). So for a moment the kernel listens for that on the loopback interface (ip_vs_ctl.c,
start_sync_thread), is told the templates with a synchronisation id that nobody can guess, and listens no more.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.services.model import Endpoint, Frontend, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

logger = logging.getLogger(__name__)
_LISTING: Final = Path("/proc/thread-self/net/ip_vs_conn")
_PROTOCOLS: Final = {protocol.name: protocol for protocol in Protocol}
_START, _STOP = 64 + 1024 + 64 + 11, 64 + 1024 + 64 + 12  # IP_VS_SO_SET_STARTDAEMON, _STOPDAEMON (uapi/linux/ip_vs.h)
_DAEMON: Final = struct.Struct("=i16si")  # struct ip_vs_daemon_user: state, interface, synchronisation id
_BACKUP: Final = 2  # IP_VS_STATE_BACKUP
_GROUP: Final = ("224.0.0.81", 8848)  # IP_VS_SYNC_GROUP, IP_VS_SYNC_PORT
_LOOPBACK: Final = "lo"
_MESSAGE: Final = struct.Struct(">BBHBbH")  # struct ip_vs_sync_mesg
_VERSION: Final = 1
_FORMS: Final = {4: struct.Struct(">BBHIHHHHII4s4s4s"), 16: struct.Struct(">BBHIHHHHII16s16s16s")}  # ip_vs_sync_v4, _v6
_INET6: Final = 1  # STYPE_F_INET6
_TEMPLATE: Final = 0x1000  # IP_VS_CONN_F_TEMPLATE
_A_MESSAGE: Final = 15  # templates; of IPv6 that is 1,088 bytes
_DEADLINE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.005


class Template(NamedTuple):
    """A client of a virtual server, by its packed address, and its real server."""

    frontend: Frontend
    client: bytes
    endpoint: Endpoint


def read() -> list[Template]:
    """All templates of virtual servers with an address; none where the kernel has no IPVS."""
    try:
        lines = _LISTING.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []
    return [template for line in lines if (template := parse(line)) is not None]


def parse(line: str) -> Template | None:
    """A line of the listing; None if it is no template."""
    words = line.split()
    protocol = _PROTOCOLS.get(words[0])
    client, client_port, address, port, server, server_port = words[1:7]
    if protocol is None or int(client_port, 16):
        return None
    return Template(
        Frontend(_packed(address), protocol, int(port, 16)),
        _packed(client),
        Endpoint(_packed(server), int(server_port, 16)),
    )


def write(templates: Sequence[Template], seconds: int) -> None:
    """Make templates that live so long after the last connection.

    Raises DataplaneError where the kernel does not take them.
    """
    missing = set(templates)
    if not missing:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sync_id = secrets.randbelow(254) + 1
        with _listening(sender, sync_id):
            index = socket.if_nametoindex(_LOOPBACK)
            sender.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index)
            )
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while missing:
                for message in messages(missing, seconds, sync_id):
                    sender.sendto(message, _GROUP)
                time.sleep(_POLL_SECONDS)
                missing -= set(read())
                if missing and time.monotonic() > deadline:
                    raise DataplaneError(f"{len(missing)} of {len(templates)} persistence templates are not taken")


def messages(templates: Iterable[Template], seconds: int, sync_id: int) -> Iterator[bytes]:
    """The templates as one director tells another."""
    rest = list(templates)
    for start in range(0, len(rest), _A_MESSAGE):
        batch = [_record(template, seconds) for template in rest[start : start + _A_MESSAGE]]
        body = b"".join(batch)
        yield _MESSAGE.pack(0, sync_id, _MESSAGE.size + len(body), len(batch), _VERSION, 0) + body


def _record(template: Template, seconds: int) -> bytes:
    frontend, client, endpoint = template
    form = _FORMS[len(client)]
    kind = _INET6 if len(client) == 16 else 0
    ports = (0, frontend.port, endpoint.port)
    addresses = (client, frontend.address, endpoint.address)
    return form.pack(kind, frontend.protocol, form.size, _TEMPLATE, 0, *ports, 0, seconds, *addresses)


@contextlib.contextmanager
def _listening(control: socket.socket, sync_id: int) -> Iterator[None]:
    daemon = _DAEMON.pack(_BACKUP, _LOOPBACK.encode(), sync_id)
    try:
        control.setsockopt(socket.IPPROTO_IP, _START, daemon)
    except OSError as error:
        why = "another backup daemon of IPVS runs" if error.errno == errno.EEXIST else str(error)
        raise DataplaneError(f"persistence templates cannot be made: {why}") from error
    try:
        yield
    finally:
        try:
            control.setsockopt(socket.IPPROTO_IP, _STOP, daemon)
        except OSError as error:
            logger.warning("IPVS goes on listening for another director", extra={"reason": str(error)})


def _packed(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", "").strip("[]"))
