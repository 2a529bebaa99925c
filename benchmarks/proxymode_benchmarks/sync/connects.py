"""What the first packet of a connection costs: connect() to a cluster IP, above connect() to the endpoint itself.

Both in turns, over the loopback interface of this namespace, from an address that is a pod's and not the endpoint's:
so there is one DNAT and no masquerade. The packets that follow are conntrack's and the same for every proxy.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from proxymode_benchmarks.sync.cases import CLIENT_ADDRESS, PORT, PROBE_ADDRESS, TARGET_PORT
from proxymode_benchmarks.sync.figures import percentile

ROUNDS: Final = 5_000
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: close with RST, leave no TIME_WAIT


def first_packet_cost(cluster_ip: str) -> float:
    """Seconds at the median. Raises OSError where the cluster IP leads nowhere."""
    direct, through = [], []
    with socket.create_server((PROBE_ADDRESS, TARGET_PORT), backlog=16) as listener:
        for _ in range(ROUNDS):
            direct.append(_connect(listener, PROBE_ADDRESS, TARGET_PORT))
            through.append(_connect(listener, cluster_ip, PORT))
    return percentile(through, 50) - percentile(direct, 50)


def _connect(listener: socket.socket, address: str, port: int) -> float:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.settimeout(5)
        client.bind((CLIENT_ADDRESS, 0))
        began = time.perf_counter_ns()
        client.connect((address, port))
        took = time.perf_counter_ns() - began
        listener.accept()[0].close()
    return took / 1e9
