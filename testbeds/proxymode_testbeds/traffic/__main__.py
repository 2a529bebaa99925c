"""`python -m proxymode_testbeds.traffic server|client ...`: see the package's and `report`'s words."""

from __future__ import annotations

import argparse
import resource
import sys

from proxymode_testbeds.traffic.client import Client, Load
from proxymode_testbeds.traffic.server import Server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proxymode_testbeds.traffic")
    roles = parser.add_subparsers(dest="role", required=True)

    server = roles.add_parser("server", help="answers every line with its name and that line")
    server.add_argument("--name", required=True, help="how it is called in the clients' results")
    server.add_argument("--address", default="::", help="where it listens (default: everywhere, IPv4 and IPv6)")
    server.add_argument("--tcp", type=int, metavar="PORT", help="0: the kernel chooses")
    server.add_argument("--udp", type=int, metavar="PORT", help="0: the kernel chooses")

    client = roles.add_parser("client", help="talks to a Service and counts what breaks")
    client.add_argument("address")
    client.add_argument("--tcp", type=int, metavar="PORT")
    client.add_argument("--udp", type=int, metavar="PORT")
    client.add_argument("--established", type=int, default=0, metavar="N", help="long-lived connections")
    client.add_argument("--bulk", type=int, default=0, metavar="N", help="of these that fetch 50 kB at a time")
    client.add_argument(
        "--push", type=int, default=0, metavar="N", help="of these that the server speaks on, twice a second"
    )
    client.add_argument("--udp-streams", type=int, default=0, metavar="N", help="UDP flows of 4 datagrams a second")
    client.add_argument("--new-rate", type=float, default=0.0, metavar="R", help="new connections per second")
    client.add_argument("--udp-rate", type=float, default=0.0, metavar="R", help="datagrams per second")
    client.add_argument(
        "--interval", type=float, default=0.2, help="seconds between an answer and the next question (%(default)s)"
    )
    client.add_argument(
        "--timeout", type=float, default=6.0, help="seconds after which an answer is given up (%(default)s)"
    )
    client.add_argument(
        "--ready-timeout", type=float, default=290.0, help="seconds to establish the long-lived ones (%(default)s)"
    )
    client.add_argument("--seconds", type=float, help="measure that long (default: until SIGTERM)")
    client.add_argument("--reopen", action="store_true", help="open a new long-lived connection for a lost one")

    # A connection that waits for its timeout holds a descriptor, and the usual limit is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options = vars(parser.parse_args())
    if options.pop("role") == "server":
        Server(options["name"], options["address"]).run(options["tcp"], options["udp"])
        return 0
    try:
        load = Load(**options)
    except ValueError as error:
        parser.error(str(error))
    return 0 if Client(load).run() else 1


if __name__ == "__main__":
    sys.exit(main())
