"""What the kernel lists of IPVS, and what is read out of it."""

from __future__ import annotations

import socket

from proxymode_agent.dataplane.ipvs.listing import parse
from proxymode_agent.dataplane.ipvs.model import RealServer
from proxymode_agent.services.model import Endpoint, Frontend, Protocol

# Of Linux 6.1: every kind of line that ip_vs_info_seq_show can write.
LISTING = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
UDP  0A60000A:0035 rr ops 
TCP  0A60000A:0050 rr 
  -> 0AF4010B:1F90      Masq    1      2          3         
  -> 0AF4010C:1F91      Masq    0      0          7         
FWM  00000007 wlc 
  -> 0AF4010D:0016      Route   1      0          0         
SCTP [fd96:0000:0000:0000:0000:0000:0000:0010]:0E11 none persistent 10800 00000080
  -> [fd44:0000:0000:0001:0000:0000:0000:000b]:1F90      Masq    1      0          0         
TCP  0A60000C:0000 rr persistent 360 FFFFFFFF
  -> 0AF4010F:0000      Masq    1      0          0         
ESP  0A60000B:0000 sh persistent 360 FFFFFFFF
  -> 0AF4010E:0000      Masq    1      0          0         
"""  # noqa: W291 - as the kernel pads it

WEB = Frontend(bytes((10, 96, 0, 10)), Protocol.TCP, 80)
DNS = Frontend(bytes((10, 96, 0, 10)), Protocol.UDP, 53)
ANY_PORT = Frontend(bytes((10, 96, 0, 12)), Protocol.TCP, 0)  # somebody else's, as Services have ports
SCTP6 = Frontend(socket.inet_pton(socket.AF_INET6, "fd96::10"), Protocol.SCTP, 3601)


def test_every_virtual_server_with_its_real_servers() -> None:
    assert parse(LISTING, lambda frontend: True) == {
        DNS: {},
        WEB: {
            Endpoint(bytes((10, 244, 1, 11)), 8080): RealServer(weight=1, connections=5),
            Endpoint(bytes((10, 244, 1, 12)), 8081): RealServer(weight=0, connections=7),
        },
        ANY_PORT: {Endpoint(bytes((10, 244, 1, 15)), 0): RealServer(1, 0)},
        SCTP6: {Endpoint(socket.inet_pton(socket.AF_INET6, "fd44:0:0:1::b"), 8080): RealServer(1, 0)},
    }


def test_only_what_is_asked_for() -> None:
    assert set(parse(LISTING, lambda frontend: frontend.port == 53)) == {DNS}


def test_nothing_there() -> None:
    assert parse("".join(LISTING.splitlines(keepends=True)[:3]), lambda frontend: True) == {}
