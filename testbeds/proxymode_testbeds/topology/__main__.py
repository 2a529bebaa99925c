"""`python -m proxymode_testbeds.topology --nodes N --pods P`: holds a fleet until standard input ends.

Prints one line of JSON when everything is up: the network namespace of every node, pod and client by name. Addresses
are those of `make_fleet` with the same arguments.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from proxymode_testbeds.topology import build, make_fleet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proxymode_testbeds.topology", description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--pods", type=int, required=True, help="per node")
    parser.add_argument("--clients", type=int, default=1, help="outside of the cluster (default: %(default)s)")
    parser.add_argument("--dual-stack", action="store_true", help="IPv6 beside IPv4")
    parser.add_argument("--uplink", action="store_true", help="nodes reach the networks of this machine; for guests")
    options = parser.parse_args()
    fleet = make_fleet(nodes=options.nodes, pods=options.pods, clients=options.clients, dual_stack=options.dual_stack)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with build(fleet, with_uplink=options.uplink) as topology:
        print(json.dumps({part.name: topology.netns(part.name) for part in fleet.parts()}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
